"""Benchmarks of students, and the statistics for their results."""
