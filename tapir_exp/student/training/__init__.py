"""Fine-tuning of the student."""
