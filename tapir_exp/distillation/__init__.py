"""The parts of TAPIR: teacher, expansion, judge, task classifier and curriculum."""
