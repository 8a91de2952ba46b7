"""Settings of a sweep: jobs that are started by one command."""

from dataclasses import dataclass


@dataclass
class SweepConfig:
    """A sweep."""

    name: str | None = None
    """Name of its directory and of its budget account, so that values can be added later. Null derives a name from the
    sweep's file, or from the overrides."""
    baseline: str | None = None
    """Settings of the row that all others are compared with, such as `teacher=gpt_4o,curriculum.delta=2`; settings
    that are not given here are those of the experiment. Null compares with the experiment's own settings."""
