"""The embedded world: checkable tasks, a held-out split, and oracles that teach, judge and label."""
