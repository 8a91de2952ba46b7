"""The curriculum: difficulty, pool, task mix and the plan of a round."""
