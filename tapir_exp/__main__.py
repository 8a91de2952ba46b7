"""`python -m tapir_exp` is `tapir`."""

from tapir_exp.cli import main

if __name__ == "__main__":
    main()
