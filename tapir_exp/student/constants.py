"""Constants that modules with and without torch share."""

TEMPLATE_DATE = "2024-07-26"
"""Date that chat templates get as today's, so that equal keys give equal rows on every day. The template of Llama 3.2
writes this date if it has no clock. It is part of the keys of students with a template of their own."""
CHUNK_LOGITS = 2**25
"""Logits that the loss computes at once: 128 MiB in float32."""
