"""The commands of `tapir`, one module each."""
