"""requirements.lock holds the versions of constraints.txt, each with hashes, and everything that the package needs."""

import re
import tomllib

from assets import ROOT

EXTRAS = ("evals", "fast", "local", "search", "dev")
UNLOCKED = {"torch"}
"""Every machine has its own build of torch."""


def normalise(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def pins(text: str) -> dict[str, str]:
    return {normalise(name): version for name, version in re.findall(r"(?m)^([\w.-]+)==([^\s;]+)", text)}


def test_lock_file_agrees_with_constraints() -> None:
    text = (ROOT / "requirements.lock").read_text()
    locked, tested = pins(text), pins((ROOT / "constraints.txt").read_text())
    assert {name: tested.get(name) for name in locked} == locked
    blocks = re.split(r"(?m)^(?=[A-Za-z0-9])", text)[1:]
    assert all(re.search(r"--hash=sha256:[0-9a-f]{64}", block) for block in blocks)
    assert len(blocks) == len(locked)


def test_lock_file_holds_every_requirement() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    needed = [*project["dependencies"], *(line for extra in EXTRAS for line in project["optional-dependencies"][extra])]
    names = {normalise(re.split(r"[\[<>=!~ ;]", line)[0]) for line in needed}
    assert names - UNLOCKED - set(pins((ROOT / "requirements.lock").read_text())) == set()
