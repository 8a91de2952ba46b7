"""What a run spent on chat models, for people: a file in its directory, and nothing where nothing was asked."""

import json
from pathlib import Path

from tapir_exp.llm.ledger import Ledger
from tapir_exp.store import write_whole

SPENDING = "spend.json"


def write_spending(ledger: Ledger, run_dir: Path) -> Path:
    """Write `spend.json`: calls, tokens and USD by stage and role, failed tries by kind, requests given up."""
    ledger.flush()
    stages = ledger.by_stage()
    told = {
        "stages": {
            stage: {role: spend.model_dump() for role, spend in roles.items()} for stage, roles in stages.items()
        },
        "scope": ledger.spent_by_scope().model_dump(),
        "faults": [fault.model_dump(mode="json") for fault in ledger.faults()],
        "given_up": [row.model_dump(mode="json") for row in ledger.given_up()],
    }
    write_whole(run_dir / SPENDING, json.dumps(told, indent=1) + "\n")
    return run_dir / SPENDING
