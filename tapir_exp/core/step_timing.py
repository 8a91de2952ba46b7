"""Times of the optimiser steps of a fit."""

from tapir_exp.core.records import Record


class StepTiming(Record):
    """Time of one optimiser step; measured, so it differs between runs.

    Attributes:
        step: Number of the step, from 1.
        seconds: Wall time since the previous step, data loading included.
        tokens: Tokens of the step over all devices, without padding.
        supervised: Tokens of the step that the loss counts, over all devices.
        mfu: Model FLOPs utilisation, 0 to 1; None if the peak of the device is unknown.
        memory_mb: Peak memory so far of the device, or of the process on a CPU, in MiB.
    """

    step: int
    seconds: float
    tokens: int
    supervised: int
    mfu: float | None
    memory_mb: float
