"""Measuring students, and the statistics to read the measurements by."""
