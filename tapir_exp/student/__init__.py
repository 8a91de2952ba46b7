"""The student model: loading, chat templates, training, generation, saving and its model card."""
