"""Names of run and sweep directories. They hold no time, so that the same command finds its own work again."""

from tapir_exp.config.compose import PRIMARY
from tapir_exp.core.file_names import file_name, text_digest


def run_name(name: str, overrides: str) -> str:
    """Return the directory name of a single run: the experiment, and a digest of the overrides if there are any."""
    # The name of an experiment may hold anything, such as a slash, and no run may write outside its directory.
    return f"{file_name(name)}-{text_digest(overrides)}" if overrides else file_name(name)


def sweep_name(config_name: str, name: str, overrides: str, chosen: str | None = None) -> str:
    """Return the directory name of a sweep: the chosen one, or else its file or experiment with a digest.

    Args:
        config_name: The primary configuration: a sweep file, or the main one for a sweep typed on the command line.
        name: The name of the experiment.
        overrides: What was typed, as Hydra's `override_dirname`.
        chosen: `sweep.name`.
    """
    if chosen is not None:
        return file_name(chosen)
    return run_name(name if config_name == PRIMARY else config_name, overrides)
