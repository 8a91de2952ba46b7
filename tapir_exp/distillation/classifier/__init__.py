"""Task classifiers: a prompted chat model, an encoder with a linear head, and DeBERTa-v3."""
