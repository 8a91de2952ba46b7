"""Compare the metrics of a run with the golden metrics of the same command, digit for digit.

A refactoring must not change a figure. The golden files are those of the present defaults.
Floating-point rounding depends on the CPU, so compare on the machine that wrote the golden file. On another machine,
write golden files with `--write` before the change.

    OMP_NUM_THREADS=1 tapir lab.seed=1 seed=1
    python benchmarks/golden/compare.py ablation_seed1 outputs/latest
"""

import argparse
import json
import shutil
import sys
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent


def read(path: Path) -> list[dict[str, Any]]:
    """Read one row of metrics per round."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def differences(golden: list[dict[str, Any]], current: list[dict[str, Any]]) -> list[str]:
    """Return one line for every metric whose value differs, or that only one side has."""
    if len(golden) != len(current):
        return [f"rounds: {len(golden)} in the golden file, {len(current)} in the run"]
    return [
        f"round {number}, {name}: {old.get(name)} in the golden file, {new.get(name)} in the run"
        for number, (old, new) in enumerate(zip(golden, current, strict=True))
        for name in sorted(old.keys() | new.keys())
        if old.get(name) != new.get(name)
    ]


def main() -> None:
    """Print the differences and exit with 1 if there are any."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", help="golden file: make_run or ablation_seed1")
    parser.add_argument("run", type=Path, help="directory of a finished run")
    parser.add_argument("--write", action="store_true", help="replace the golden file by the metrics of the run")
    arguments = parser.parse_args()
    golden, current = HERE / f"{arguments.name}.jsonl", arguments.run / "metrics.jsonl"
    if not current.exists():
        parser.error(f"{current} does not exist; expected the directory of a finished run")
    if arguments.write:
        shutil.copy(current, golden)
        return
    lines = differences(read(golden), read(current))
    total = sum(map(len, read(golden)))
    print(*lines, f"{total} metrics compared, {len(lines)} differ", sep="\n")
    sys.exit(bool(lines))


if __name__ == "__main__":
    main()
