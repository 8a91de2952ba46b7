"""A frozen sentence encoder with a linear head."""
