"""A sweep that evaluates its students, from one command: killed and resumed, refused without the files of a suite."""

import asyncio
import json
import signal
import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing, suppress
from pathlib import Path

import pytest
from aiohttp import web
from preloaded import PreloadedProcess, run_preloaded
from serving import serving
from standins import Endpoint, write_alpaca, write_mt_bench

pytestmark = pytest.mark.slow

SMALL = [
    *("-m", "debug=tiny", "arm=vanilla_sft", "seed=1,2", "sweep.name=mine", "student.max_new_tokens=8"),
    *("seeds.size=12", "sft.seed_stage.max_tokens=100", "sft.round_stage.max_tokens=100"),
    *("evals.suites=[alpaca_eval,mt_bench]", "evals.problems_per_level=0"),
    *("lab.student.hidden_size=32", "lab.student.intermediate_size=64", "lab.student.num_layers=1"),
]


class GatedEndpoint(Endpoint):
    """An endpoint that answers no judgment beyond a limit, so that none is paid and not stored when a test kills."""

    def __init__(self) -> None:
        super().__init__()
        self.limit: int | None = None
        self.judged: list[str] = []

    async def answer(self, request: web.Request) -> web.StreamResponse:
        """Answer, or wait for ever; the checks before the first call ask for one token and are no judgments."""
        body = await request.json()
        if body["max_tokens"] > 1 or body.get("logprobs"):
            if self.limit is not None and len(self.judged) >= self.limit:
                await asyncio.sleep(3600)
            self.judged.append(json.dumps(body, sort_keys=True))
        return await super().answer(request)


@pytest.fixture
def endpoint() -> Iterator[GatedEndpoint]:
    with serving(GatedEndpoint()) as running:
        yield running


def stored(store: Path) -> int:
    """Return the number of judgments that are stored."""
    if not (store / "calls.sqlite").is_file():
        return 0
    with closing(sqlite3.connect(f"file:{store}/calls.sqlite?mode=ro", uri=True)) as database, suppress(sqlite3.Error):
        return int(database.execute("SELECT COUNT(*) FROM completions WHERE model = 'hosted_vllm/x'").fetchone()[0])
    return 0


def arguments(home: Path, endpoint: GatedEndpoint, *more: str) -> list[str]:
    files = {"alpaca_eval": write_alpaca(home), "mt_bench": write_mt_bench(home)}
    settings = [f"evals.{suite}.{name}={path}" for suite, of in files.items() for name, path in of.items()]
    for suite in files:
        settings += [f"judge@evals.{suite}.judge=local_openai_compatible", f"evals.{suite}.max_new_tokens=6"]
        settings += [f"evals.{suite}.judge.llm.{key}" for key in ("model=hosted_vllm/x", f"api_base={endpoint.base}")]
    return [*SMALL, *settings, f"outputs={home}/outputs", *more]


def test_killed_sweep_pays_each_judgment_once_and_writes_the_tables(tmp_path: Path, endpoint: GatedEndpoint) -> None:
    words = arguments(tmp_path, endpoint)
    endpoint.limit = 6
    process = PreloadedProcess(words, cwd=tmp_path)
    deadline = time.monotonic() + 600
    while stored(tmp_path / "outputs/store") < endpoint.limit:
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    endpoint.limit = None
    result = run_preloaded(words, cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert len(endpoint.judged) == len(set(endpoint.judged)) <= 2 * (12 + 8)
    sweep = tmp_path / "outputs/sweeps/mine"
    assert {path.suffix for path in (sweep / "paper").iterdir()} == {".md", ".tex", ".csv", ".html"}
    assert "lab · vanilla_sft (ours)" in (sweep / "paper/mt_bench.md").read_text()
    assert "paper/index.html" in (sweep / "index.html").read_text()
    names = {json.loads(path.read_text())["student"] for path in sweep.glob("*/evaluations/S_0/evaluation.json")}
    assert names == {"lab-seed-1", "lab-seed-2"}


def test_sweep_without_the_files_of_a_suite_fits_nothing(tmp_path: Path, endpoint: GatedEndpoint) -> None:
    words = arguments(tmp_path, endpoint, "seed=1", "evals.mt_bench.judge_prompts=null")
    result = run_preloaded(words, cwd=tmp_path)
    assert result.returncode == 1
    assert "suite mt_bench: MT-Bench's judge prompts are missing" in result.stderr
    assert not list(tmp_path.glob("outputs/store/*student*"))
