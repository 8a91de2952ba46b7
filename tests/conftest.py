"""What every test shares: one thread per process, and property tests that draw the same examples every time."""

import os

from hypothesis import settings

os.environ["OMP_NUM_THREADS"] = "1"  # before any test imports torch: the machine's cores are few and contended

settings.register_profile("tapir", deadline=None, derandomize=True, database=None, max_examples=100)
settings.load_profile("tapir")
