"""Files that a fit saves beside its student. Loading, export and the hub read the student's own directory only."""

OPTIMIZER_STATE = "optimizer/adamw.safetensors"
"""State of Adam. It has a directory of its own, since engines read all *.safetensors next to a model."""
AVERAGE = "average"
"""Directory of a student with the average of the weights."""
