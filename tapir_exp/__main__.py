"""Run `tapir` as `python -m tapir_exp`."""

from tapir_exp.commands.main import main

if __name__ == "__main__":
    main()
