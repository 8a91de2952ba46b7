"""The judge: what it is asked, how its replies are read, and how far it can be trusted."""
