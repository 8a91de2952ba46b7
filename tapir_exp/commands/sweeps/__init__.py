"""Sweeps: their session and table, jobs on other machines, and searches."""
