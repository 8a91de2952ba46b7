"""A labeller that is a DeBERTa-v3, or another encoder, trained whole; an ordinary Hugging Face directory."""
