"""Model servers that a run starts on this machine."""
