"""Task classifiers: by prompt, by an encoder with a linear head, by DeBERTa-v3."""
