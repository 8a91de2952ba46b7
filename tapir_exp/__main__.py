"""`python -m tapir_exp` is `tapir`."""

from tapir_exp.commands.hydra_app import main

if __name__ == "__main__":
    main()
