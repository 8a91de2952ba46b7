"""The seeds of a run, as many as its budget pays for, each with a response."""

from tapir_exp.core.console import print_warning
from tapir_exp.core.records import Example
from tapir_exp.core.store import Artifact
from tapir_exp.pipeline import data
from tapir_exp.pipeline.sizing import fit_sizes
from tapir_exp.pipeline.workspace import Workspace


def prepare_seeds(ws: Workspace) -> Artifact:
    """Return the seeds of a run, each with a response; see `draw_seeds`.

    Raises:
        ConfigError: If the budget does not even pay for a few seeds.
    """
    return data.add_missing_responses(ws, draw_seeds(ws))


def draw_seeds(ws: Workspace) -> Artifact:
    """Return the seeds of a run without a call; the sizes that follow from them are set in `ws.config`.

    Raises:
        ConfigError: If the budget does not even pay for a few seeds.
    """
    seeds = data.load_seeds(ws)
    rows = seeds.stored_rows(Example)
    fitted = fit_sizes(ws.config, rows, seeds.figures["undrawn"])
    if fitted.seeds != ws.config.seeds:
        print_warning(f"the budget pays for {fitted.seeds.size} of {len(rows)} seeds by the estimate of `tapir plan`.")
        ws.config = fitted
        ws.entries[:] = [entry for entry in ws.entries if entry.key != seeds.key]
        seeds = data.load_seeds(ws)
    ws.config = fitted
    return seeds
