"""A labeller that is an encoder with a linear head: quick to train on a CPU."""
