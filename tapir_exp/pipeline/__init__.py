"""Stages as cached artifacts, and the workspace that they share."""
