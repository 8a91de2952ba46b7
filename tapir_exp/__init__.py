"""TAPIR: task-aware curriculum planning for instruction refinement, as an experiment framework."""

__version__ = "0.1.0"
