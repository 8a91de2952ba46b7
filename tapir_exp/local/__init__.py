"""Real models on this machine: their weights by hash, and the server of those that answer by protocol."""
