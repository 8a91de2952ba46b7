"""Checks that call no model: prices, data, student, hub, packages and disk space that a run will need."""

import os
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from itertools import islice
from pathlib import Path

from rich.table import Table

from tapir_exp.config import (
    ChatTemplate,
    ClassifierKind,
    Config,
    EngineKind,
    LLMConfig,
    Method,
    MissingResponses,
    SeedSource,
    StrategyName,
    StudentConfig,
    Suite,
)
from tapir_exp.config.lab_parts import LAB_PREFIX, LAB_STUDENT
from tapir_exp.core.console import Terminal, console
from tapir_exp.core.errors import SourceError, TapirError
from tapir_exp.core.evaluation_manifest import JUDGED
from tapir_exp.data.decontamination import HUB
from tapir_exp.data.formats import UnusableRow
from tapir_exp.data.readers import read_file
from tapir_exp.data.seeds import parse_seed
from tapir_exp.llm.pricing import get_price
from tapir_exp.llm.serving.weights import find_weights, is_gguf
from tapir_exp.pipeline.disk_sizes import checkpoint_bytes, student_bytes
from tapir_exp.pipeline.suite_files import find_missing, hub_data
from tapir_exp.pipeline.suite_sizes import suites_of_run
from tapir_exp.student.model_files import ModelFileError, find_missing_part

READ_ROWS = 50
"""Rows of a file that are read as a check."""
HUB_TIMEOUT_S = 5.0
"""Seconds that the hub may take to confirm that a repository exists."""
GB = 1e9


@dataclass(frozen=True)
class Check:
    """Result of one check.

    Attributes:
        subject: What was checked.
        detail: What was found.
        problem: What is wrong, and what to do about it; empty if nothing is.
    """

    subject: str
    detail: str = ""
    problem: str = ""


def local_checks(config: Config) -> list[Check]:
    """Return the checks that call no model."""
    checks = (_price_checks, _seed_checks, _benchmark_checks, _student_checks, _package_checks, _disk_checks)
    found = [check for find in checks for check in find(config)]
    return [*found, *suite_checks(config, suites_of_run(config))]


def suite_checks(config: Config, suites: Sequence[Suite]) -> list[Check]:
    """Return the checks of the files and packages that suites need."""
    checks = [Check(f"suite {suite.value}", problem=find_missing(config.evals, suite)) for suite in suites]
    return [
        *checks,
        *(_check_hub(f"suite {suite}", "dataset", name, None) for suite, name in hub_data(config.evals, suites)),
    ]


def print_checks(checks: Sequence[Check], terminal: Terminal = console) -> None:
    """Print a table of what was checked; `raise_problems` gives the reasons of failures."""
    table = Table("checked", "found", title="Checks before the first call", title_justify="left")
    for check in checks:
        table.add_row(check.subject, "FAILED" if check.problem else check.detail or "ok")
    terminal.print(table)


def raise_problems(checks: Sequence[Check]) -> None:
    """Raise TapirError with every problem, if there is one."""
    problems = [f"  - {check.subject}: {check.problem}" for check in checks if check.problem]
    if problems:
        raise TapirError(
            "\n".join([f"{len(problems)} of {len(checks)} checks before the first call failed:", *problems])
        )


def used_models(config: Config) -> Iterator[tuple[str, LLMConfig]]:
    """Yield role and settings of each chat model that a run calls."""
    rounds, held_out = config.curriculum.rounds, config.evals.held_out_size
    asks = config.seeds.missing_responses is MissingResponses.ask_teacher
    if rounds or held_out or asks:
        yield "teacher", config.teacher.llm
    if rounds or held_out:
        yield "judge", config.judge.llm
        yield from ((f"judge.panel.{name}", llm) for name, llm in config.judge.panel.members.items())
    if config.evals.ask_judge:
        for suite in suites_of_run(config):
            if suite.value in JUDGED and config.evals.judge_of(suite) is None and not (rounds or held_out):
                yield "judge", config.judge.llm
            elif (own := config.evals.judge_of(suite)) is not None:
                yield f"evals.{suite.value}.judge", own.llm
    if rounds and config.classifier.kind is ClassifierKind.llm:
        yield "classifier", config.classifier.llm


def _price_checks(config: Config) -> Iterator[Check]:
    """Check that a budget in USD can be kept; without one, an unknown price is no problem."""
    if config.spend.max_usd is None:
        return
    unknown: dict[str, list[str]] = {}
    for role, llm in used_models(config):
        if not llm.model.startswith(LAB_PREFIX) and get_price(llm) is None:
            unknown.setdefault(llm.model, []).append(role)
    for model, roles in unknown.items():
        remedy = f"set {roles[0]}.llm.usd_per_million_input and {roles[0]}.llm.usd_per_million_output"
        problem = f"spend.max_usd = {config.spend.max_usd:g} needs the price of {model}, which is not known; {remedy}"
        yield Check(f"price of {', '.join(roles)}", problem=problem)


def _seed_checks(config: Config) -> Iterator[Check]:
    seeds = config.seeds
    if seeds.source is SeedSource.lab:
        return
    subject = f"seeds {seeds.path}"
    if seeds.source is SeedSource.hub:
        yield _check_hub(subject, "dataset", str(seeds.path), None)
        return
    usable, reasons, count = 0, list[str](), 0
    try:
        for raw in islice(read_file(Path(str(seeds.path))), READ_ROWS):
            count += 1
            try:
                parse_seed(raw, seeds)
                usable += 1
            except UnusableRow as reason:
                reasons.append(f"row {raw.number}: {reason}")
    except SourceError as error:
        yield Check(subject, problem=str(error))
        return
    if usable:
        yield Check(subject, f"{usable} of the first {count} rows are usable")
        return
    advice = "name its columns: seeds.columns='{instruction: NAME, response: NAME}'"
    if any("response" in reason for reason in reasons):
        advice += ", or let the teacher respond: seeds.missing_responses=ask_teacher"
    yield Check(subject, problem=f"none of the first {count} rows is usable ({reasons[0]}); {advice}")


def _benchmark_checks(config: Config) -> Iterator[Check]:
    for name in config.seeds.decontamination.benchmarks:
        if name not in HUB:
            continue
        check = _check_hub(f"decontamination {name}", "dataset", HUB[name].name, None)
        advice = "; name a file of its questions in seeds.decontamination.benchmarks, or set it to [] to check nothing"
        yield Check(check.subject, check.detail, f"{check.problem}{advice}" if check.problem else "")


def _student_checks(config: Config) -> Iterator[Check]:
    model = config.student.model
    if model == LAB_STUDENT:
        return
    if is_gguf(model):
        try:
            yield Check("student", str(find_weights(model).path))
        except TapirError as error:
            yield Check("student", problem=str(error))
    elif not Path(model).is_dir():
        yield _check_hub(f"student {model}", "model", model, config.student.revision)
    else:
        yield _check_directory(Path(model), config.student)


def _check_directory(directory: Path, student: StudentConfig) -> Check:
    try:
        problem = find_missing_part(directory, needs_template=student.chat_template is ChatTemplate.tokenizer)
    except ModelFileError as error:
        problem = str(error)
    return Check("student", f"{directory}: a directory with a model", problem)


def _check_hub(subject: str, kind: str, name: str, revision: str | None) -> Check:
    """Check that a repository of the hub is in the cache, or else that the hub has it."""
    from huggingface_hub import constants

    if kind == "model" and _is_cached(name, revision):
        return Check(subject, "in the cache of the hub")
    cache = Path(os.environ.get("HF_DATASETS_CACHE", Path(constants.HF_HOME) / "datasets"))
    if kind == "dataset" and (cache / name.replace("/", "___")).is_dir():
        return Check(subject, "in the cache of data sets")
    if constants.HF_HUB_OFFLINE:
        place = "neither a directory nor in the cache" if kind == "model" else "not in the cache"
        return Check(subject, problem=f"{name} is {place}, and HF_HUB_OFFLINE forbids to load it")
    return _ask_hub(subject, kind, name, revision)


def _is_cached(name: str, revision: str | None) -> bool:
    """Return whether the configuration of a model is in the cache of the hub."""
    from huggingface_hub import constants

    if not (Path(constants.HF_HUB_CACHE) / f"models--{name.replace('/', '--')}").is_dir():
        return False
    from huggingface_hub import try_to_load_from_cache  # loads an HTTP client, which nothing else here needs

    return isinstance(try_to_load_from_cache(name, "config.json", revision=revision), str)


def _ask_hub(subject: str, kind: str, name: str, revision: str | None) -> Check:
    """Ask the hub whether a repository exists."""
    import httpx  # with the hub's client, which only this check needs
    from huggingface_hub import HfApi, constants
    from huggingface_hub.errors import (
        GatedRepoError,
        HFValidationError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    try:
        api = HfApi()
        ask = api.model_info if kind == "model" else api.dataset_info
        ask(name, revision=revision, timeout=HUB_TIMEOUT_S)
    except GatedRepoError:
        where = f"{constants.ENDPOINT}/{name}"
        return Check(subject, problem=f"{name} is gated: accept its terms at {where}, and set HF_TOKEN")
    except RevisionNotFoundError:
        return Check(subject, problem=f"the {kind} {name} has no revision {revision}")
    except RepositoryNotFoundError:
        return Check(subject, problem=f"the hub has no {kind} {name}, or it is private and HF_TOKEN is missing")
    except HFValidationError:
        return Check(subject, problem=f"{name} is neither a directory nor a name that the hub allows (owner/name)")
    except (OSError, httpx.HTTPError) as error:
        reason = f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"[:120]
        return Check(
            subject, problem=f"{name} is neither a directory nor in the cache, and the hub cannot be reached ({reason})"
        )
    return Check(subject, "found on the hub")


def _package_checks(config: Config) -> Iterator[Check]:
    servers = [llm.server.command for _, llm in used_models(config)]
    trained = config.classifier.kind is not ClassifierKind.llm and config.curriculum.rounds > 0
    needs = (
        (config.student.engine is EngineKind.ctranslate2, "ctranslate2", "fast", "student.engine=ctranslate2"),
        (config.sft.method is Method.qlora, "bitsandbytes", "qlora", "sft.method=qlora"),
        (config.trainer.strategy is StrategyName.deepspeed, "deepspeed", "deepspeed", "trainer.strategy=deepspeed"),
        (trained, "sklearn", "local", f"classifier.kind={config.classifier.kind.name}"),
        (any("tapir_exp.llm.serving.gguf_server" in words for words in servers), "xllamacpp", "local", "llm.server"),
        (is_gguf(config.student.model), "gguf", "local", "student.model"),
    )
    for needed, module, extra, setting in needs:
        if needed and find_spec(module) is None:
            problem = f"{setting} needs {module}, which is not installed: pip install 'tapir-exp[{extra}]'"
            yield Check(f"package {module}", problem=problem)
        elif needed:
            yield Check(f"package {module}", "installed")
    if config.student.engine is EngineKind.vllm and shutil.which(config.student.vllm.executable[0]) is None:
        program = config.student.vllm.executable[0]
        yield Check("vLLM", problem=f"student.vllm.executable = {program} is not a program that exists")


def free_bytes(config: Config) -> tuple[Path, float]:
    """Return the directory that the outputs are below, and the bytes that are free there."""
    directory = Path(config.outputs).absolute()
    while not directory.exists():
        directory = directory.parent
    return directory, shutil.disk_usage(directory).free


def _disk_checks(config: Config) -> Iterator[Check]:
    one = student_bytes(config)
    needed = None if one is None else (config.curriculum.rounds + 1) * one + checkpoint_bytes(config)
    directory, free = free_bytes(config)
    if needed is not None and needed > free:
        remedy = "free space, or set outputs to a larger disk"
        problem = f"{free / GB:.1f} GB are free at {directory}, about {needed / GB:.1f} GB are needed; {remedy}"
        yield Check("disk", problem=problem)
    else:
        size = "less than 0.1 GB" if needed is not None and needed < GB / 10 else f"about {(needed or 0) / GB:.1f} GB"
        about = "" if needed is None else f", {size} needed"
        yield Check("disk", f"{free / GB:.0f} GB free{about}")
