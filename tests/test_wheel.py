"""The wheel: it holds all data files, and its command works outside the checkout."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from assets import ROOT


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Install the wheel into a directory, without its dependencies."""
    directory = tmp_path_factory.mktemp("wheel")
    pip = [sys.executable, "-m", "pip"]
    subprocess.run([*pip, "wheel", "-q", "--no-deps", "-w", str(directory), str(ROOT)], check=True, timeout=300)
    (wheel,) = directory.glob("*.whl")
    subprocess.run([*pip, "install", "-q", "--no-deps", "--target", str(directory / "site"), str(wheel)], check=True)
    return directory / "site"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["--help"], "Commands:"),
        (["run", "--help"], "lab_ablation"),
        (["--cfg", "job"], "name: lab"),
        (["--config-name", "lab_ablation", "--cfg", "job"], "name: lab"),
        (["classify", "--help"], "dolly"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_command_works_outside_the_checkout(site: Path, tmp_path: Path, arguments: list[str], text: str) -> None:
    command = [sys.executable, str(site / "bin" / "tapir"), *arguments]
    env = {**os.environ, "PYTHONPATH": str(site)}
    result = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True, timeout=120)
    assert result.returncode == 0, result.stderr
    assert text in result.stdout


@pytest.mark.slow
def test_wheel_holds_every_data_file(site: Path) -> None:
    def data_files(root: Path) -> set[str]:
        files = (path.relative_to(root) for path in root.rglob("*") if path.is_file())
        return {path.as_posix() for path in files if path.suffix != ".pyc"}

    installed = site / "tapir_exp"
    assert data_files(installed / "conf") == data_files(ROOT / "conf")
    assert data_files(installed / "sweeps") == data_files(ROOT / "sweeps")
    assert "py.typed" in data_files(installed)
    own = {name for name in data_files(installed) if not name.startswith(("conf/", "sweeps/"))}
    assert own == data_files(ROOT / "tapir_exp")
    assert data_files(site / "hydra_plugins") == data_files(ROOT / "hydra_plugins")


@pytest.mark.slow
def test_wheel_installs_one_script(site: Path) -> None:
    assert [path.name for path in (site / "bin").iterdir()] == ["tapir"]
