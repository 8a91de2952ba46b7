"""A fine-tuned DeBERTa-v3."""
