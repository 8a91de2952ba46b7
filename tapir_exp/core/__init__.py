"""Records, task types, the artifact store, manifests, errors and the console."""
