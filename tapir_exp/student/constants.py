"""Constants that modules with and without torch share."""

CHUNK_LOGITS = 2**25
"""Logits that the loss computes at once: 128 MiB in float32."""
