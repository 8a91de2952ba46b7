"""The page of a sweep: its jobs grouped, compared and told in full, from what they left and without a call."""
