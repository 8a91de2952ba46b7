"""The judge: requests, parsing, scores and diagnostics."""
