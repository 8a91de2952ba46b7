"""Checks of a composed configuration beyond types; all mistakes are reported at once."""

import re
from collections.abc import Callable, Iterator, Mapping
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import InterpolationToMissingValueError, OmegaConfBaseException

from tapir_exp.config.fit_checks import check_fits
from tapir_exp.config.judge_checks import MEMBERS, check_judge
from tapir_exp.config.lab_parts import check_lab_parts
from tapir_exp.config.problems import (
    Problem,
    Values,
    describe,
    format_value,
)
from tapir_exp.config.ranges import check_ranges
from tapir_exp.config.references import dead_reference, merge_references
from tapir_exp.config.schema import Schema, did_you_mean
from tapir_exp.config.secrets import check_secrets, secrets_of
from tapir_exp.config.task_mix_checks import check_shares, check_weights
from tapir_exp.core.secrets import redact_secrets
from tapir_exp.core.task_types import TaskType

BENCHMARKS = ("alpaca_eval", "mt_bench")
"""Benchmarks that decontamination can load by name."""
NO_FILES = (".max_new_tokens", ".temperature", ".annotator", ".judge")
"""Settings of the evaluation suites that are not paths of files."""
MANIFEST = "manifest.json"
"""File of a finished run."""
HINTS = {
    "student.model": ": a preset such as student=qwen1_5_0_5b, or student.model=DIR_OR_HUB_ID",
    "seeds.path": ": the file, or the name of the hub dataset, seeds.path=...",
    "teacher.llm.model": ": the model's name at the endpoint, such as teacher.llm.model=hosted_vllm/NAME",
    "judge.llm.model": ": the model's name at the endpoint, such as judge.llm.model=hosted_vllm/NAME",
    "classifier.llm.model": ": the model's name at the endpoint, such as classifier.llm.model=hosted_vllm/NAME",
}
"""What to set, for keys that presets leave to the user."""
SUITE_JUDGES = ("evals.alpaca_eval.judge", "evals.mt_bench.judge")
"""Judges of benchmarks."""
HINTS |= {
    f"{role}.llm.model": f": the model's name at the endpoint, such as {role}.llm.model=hosted_vllm/NAME"
    for role in (*SUITE_JUDGES, *MEMBERS)
}
CARD = "classifier.json"
"""File in the directory of a trained classifier."""


ACCELERATORS = ("auto", "cpu", "gpu", "cuda", "mps", "tpu")
PRECISIONS = ("32-true", "bf16-mixed", "bf16-true", "16-mixed", "16-true", "64-true")
"""Names of Lightning."""
CLASSIFIER_PRECISIONS = ("32-true", "bf16-mixed")


def find_problems(cfg: DictConfig, schema: Schema, origin: Callable[[str], str]) -> list[str]:
    """Return every mistake of a configuration as a line of text; `origin` returns what set a key."""
    values: dict[str, Any] = {}
    problems = merge_references(_read(cfg, schema, "", values))
    for check in CHECKS:
        problems.extend(check(values))
    problems.extend(check_lab_parts(values, origin))
    # A message of another check may repeat a value that holds a key.
    known = secrets_of(values)
    return [redact_secrets(describe(problem, origin(problem.key)), known) for problem in problems]


def _read(cfg: DictConfig, schema: Schema, section: str, values: dict[str, Any]) -> Iterator[Problem]:
    """Collect the leaves of a section in `values`; yield unknown keys and unreadable values."""
    known, prefix = schema.names(section), f"{section}." if section else ""
    # `name in cfg` is false for a missing value (???), so iterate.
    present = [str(name) for name in cfg]
    for name in [*present, *(name for name in known if name not in present)]:
        key = f"{prefix}{name}"
        if name not in known:
            yield Problem(key, "", f"a key of the schema{schema.suggest(key)}")
        elif name not in present:
            yield from _absent(schema, key)
        elif schema.is_section(key) and isinstance(cfg._get_node(name), DictConfig) and cfg[name] is not None:
            yield from _read(cfg[name], schema, key, values)
        else:
            yield from _read_leaf(cfg, name, key, schema, values)


def _absent(schema: Schema, key: str) -> Iterator[Problem]:
    if schema.keys[key].required:
        yield Problem(key, " is missing", schema.expects(key))


def _read_leaf(cfg: DictConfig, name: str, key: str, schema: Schema, values: dict[str, Any]) -> Iterator[Problem]:
    expected = schema.expects(key)
    if OmegaConf.is_missing(cfg, name):
        yield Problem(key, " is missing", f"{expected}{HINTS.get(key, '')}")
        return
    try:
        value = cfg[name]
        values[key] = OmegaConf.to_container(value, resolve=True) if OmegaConf.is_config(value) else value
    except InterpolationToMissingValueError:
        return  # the value that it refers to is reported
    except OmegaConfBaseException as error:
        plain = OmegaConf.to_container(cfg, resolve=False)
        text = plain.get(name) if isinstance(plain, dict) else None
        unread = Problem(key, " cannot be read", f"{expected}; {str(error).splitlines()[0]}")
        yield dead_reference(key, text, schema) or unread


def _check_names(values: Values) -> Iterator[Problem]:
    for key in ("name", "arm", "task_mix.name", "evals.name"):
        value = values.get(key)
        if isinstance(value, str) and not re.fullmatch(r"\w[\w.-]*", value):
            yield Problem(
                key,
                format_value(key, value),
                "letters, digits, '_', '-' and '.', for the directory name",
            )


def _check_divisors(values: Values) -> Iterator[Problem]:
    hidden, heads = values.get("lab.student.hidden_size"), values.get("lab.student.num_heads")
    if hidden and heads and hidden % heads:
        yield Problem("lab.student.hidden_size", f" = {hidden}", f"a multiple of lab.student.num_heads ({heads})")


def _check_budgets(values: Values) -> Iterator[Problem]:
    for part in ("sft.seed_stage", "sft.round_stage"):
        if f"{part}.epochs" not in values:
            continue
        epochs, tokens = values[f"{part}.epochs"], values.get(f"{part}.max_tokens")
        if (epochs is None) == (tokens is None):
            yield Problem(part, f" = (epochs: {epochs}, max_tokens: {tokens})", "exactly one of epochs and max_tokens")
        if tokens is not None and values.get(f"{part}.extra_rows"):
            yield Problem(f"{part}.extra_rows", f" = {values[f'{part}.extra_rows']}", "0 beside max_tokens")
    in_tokens = [values.get(f"sft.{part}.max_tokens") is not None for part in ("seed_stage", "round_stage")]
    if _choice(values, "curriculum.rounds_mode") == "seeds_only" and len(set(in_tokens)) > 1:
        key = "sft.round_stage" if in_tokens[0] else "sft.seed_stage"
        expected = "max_tokens in both stages, or epochs in both: curriculum.rounds_mode=seeds_only adds up the two"
        yield Problem(f"{key}.max_tokens", " = null", expected)


def _check_gaps(values: Values) -> Iterator[Problem]:
    if not values.get("curriculum.drop_easy_expansions"):
        return
    for name, expected in (("gap_rows", "fresh"), ("difficulty", "mfd")):
        choice = _choice(values, f"curriculum.{name}")
        if choice not in (None, expected):
            key = "curriculum.drop_easy_expansions"
            yield Problem(key, " = True", f"curriculum.{name}={expected} beside it (got {choice})")


def _check_engine(values: Values) -> Iterator[Problem]:
    engine, precision = _choice(values, "student.engine"), _choice(values, "student.precision")
    if engine == "ctranslate2" and precision != "float32":
        yield Problem(
            "student.engine",
            " = ctranslate2",
            f"another engine, or student.precision=float32 (got {precision})",
        )
    if engine == "vllm" and not values.get("student.vllm.executable"):
        yield Problem("student.vllm.executable", " = []", "the program to start, because student.engine is vllm")


def _check_seeds(values: Values) -> Iterator[Problem]:
    if "seeds.path" not in values:
        return
    source, path = _choice(values, "seeds.source"), values["seeds.path"]
    if source in ("file", "hub") and not path:
        what = "a file of instructions" if source == "file" else "the name of a hub dataset"
        yield Problem("seeds.path", format_value("seeds.path", path), f"{what}, because seeds.source is {source}")
    elif source == "file" and not Path(path).is_file():
        yield Problem("seeds.path", format_value("seeds.path", path), "a file that exists")


def _check_benchmarks(values: Values) -> Iterator[Problem]:
    key = "seeds.decontamination.benchmarks"
    for name in values.get(key) or []:
        if name not in BENCHMARKS and not Path(name).is_file():
            yield Problem(key, format_value(key, name), f"{', '.join(BENCHMARKS)}, or a file that exists")


def _check_classifier(values: Values) -> Iterator[Problem]:
    kind, path = _choice(values, "classifier.kind"), values.get("classifier.path")
    if kind == "deberta" and not path:
        yield Problem(
            "classifier.path",
            format_value("classifier.path", path),
            "a trained classifier, because classifier.kind is deberta",
        )
    elif kind != "llm" and path and not Path(path, CARD).is_file():
        yield Problem("classifier.path", f" = {path}", f"a directory with a {CARD}, from `tapir classify job=train`")
    least = values.get("classifier.min_confidence")
    if kind == "llm" and least is not None:
        yield Problem("classifier.min_confidence", f" = {least}", "null, because a chat model states no confidence")
    precision = _choice(values, "classifier.precision")
    if kind == "deberta" and precision != "float32":
        yield Problem("classifier.precision", f" = {precision}", "float32, the only precision of kind deberta")


def _check_classify_job(values: Values) -> Iterator[Problem]:
    job = _choice(values, "job")
    if job is None:
        return
    if job in ("label", "distil") and not (values.get("pool") and Path(values["pool"]).is_file()):
        yield Problem("pool", format_value("pool", values.get("pool")), f"a file of instructions, because job is {job}")
    path, precision = values.get("classifier_data.path"), values.get("trainer.precision")
    names = values.get("classifier_data.names") or {}
    if path and job in ("train", "evaluate") and not Path(path).is_file():
        yield Problem("classifier_data.path", f" = {path}", "a file that exists")
    elif names and not path and job in ("train", "evaluate"):
        yield Problem(
            "classifier_data.path",
            format_value("classifier_data.path", path),
            "a file, because classifier_data.names is set",
        )
    if job in ("train", "distil") and _choice(values, "classifier_training.kind") == "llm":
        yield Problem("classifier_training.kind", " = llm", "encoder or deberta, because a chat model is not trained")
    if (
        _choice(values, "classifier_training.kind") == "deberta"
        and _choice(values, "classifier_training.precision") != "float32"
    ):
        yield Problem(
            "classifier_training.precision",
            " = bfloat16",
            "float32 for kind deberta; set trainer.precision instead",
        )
    if precision not in CLASSIFIER_PRECISIONS:
        reason = "activations of DeBERTa-v3 exceed 65504, the largest float16"
        yield Problem("trainer.precision", f" = {precision}", f"{' or '.join(CLASSIFIER_PRECISIONS)}: {reason}")
    yield from _check_type_names(names)


def _check_type_names(names: Mapping[str, Any]) -> Iterator[Problem]:
    known = [str(task) for task in TaskType]
    for name, task in names.items():
        if task is not None and task not in known:
            expected = f"a task type of the paper, or null{did_you_mean(str(task), known)}"
            yield Problem(f"classifier_data.names.{name}", f" = {task}", expected)


def _check_trainer(values: Values) -> Iterator[Problem]:
    devices, nodes, hosts = (values.get(f"trainer.{name}") for name in ("devices", "num_nodes", "hosts"))
    if not devices or not nodes or hosts is None:
        return
    if "job" in values and devices * nodes > 1:
        yield Problem("trainer.devices", f" = {devices}", "1, and 1 node: classifiers are trained on one device")
    if _choice(values, "sft.method") == "qlora" and _choice(values, "trainer.strategy") == "fsdp":
        yield Problem(
            "trainer.strategy", " = fsdp", "ddp or deepspeed for sft=qlora, because 4-bit weights cannot be sharded"
        )
    by_torchrun = _choice(values, "trainer.launcher") == "torchrun"
    if by_torchrun and len(hosts) != nodes and (nodes > 1 or hosts):
        expected = f"the names of the {nodes} nodes (trainer.num_nodes), this one first, or trainer.launcher=srun"
        yield Problem("trainer.hosts", f" = {hosts}", expected)
    if not by_torchrun and hosts:
        yield Problem("trainer.hosts", f" = {hosts}", "an empty list, because srun uses the nodes of the SLURM job")


def _check_lightning(values: Values) -> Iterator[Problem]:
    for key, known in (("trainer.accelerator", ACCELERATORS), ("trainer.precision", PRECISIONS)):
        value = values.get(key)
        # `tapir classify` has its own check of the precision.
        if value is not None and value not in known and not ("job" in values and key == "trainer.precision"):
            yield Problem(key, format_value(key, value), f"one of {', '.join(known)}{did_you_mean(str(value), known)}")


def _check_evals(values: Values) -> Iterator[Problem]:
    for key, value in values.items():
        if _is_suite_file(key) and value and not Path(value).is_file():
            yield Problem(key, format_value(key, value), "a file that exists")
    run = values.get("evals.run")
    if run and not (Path(run) / MANIFEST).is_file() and not any(Path(run).glob(f"*/{MANIFEST}")):
        expected = f"the directory of a finished run, which has a {MANIFEST}, or of a sweep with one"
        yield Problem("evals.run", format_value("evals.run", run), expected)


def _is_suite_file(key: str) -> bool:
    """Return whether a key such as evals.mt_bench.questions names a file of a suite."""
    return fnmatchcase(key, "evals.*.*") and key.count(".") == 2 and not key.endswith(NO_FILES)


def _check_student(values: Values) -> Iterator[Problem]:
    model = values.get("student.model")
    if not isinstance(model, str) or not model or Path(model).is_dir() or model.endswith(".gguf"):
        return
    # Anything else that is no id of the hub would fail there, much later, with "Repo id must be in the form ...".
    if not re.fullmatch(r"[\w-][\w.-]*(/[\w.-]+)?", model) and not model.startswith("hf:"):
        expected = "a directory that exists, a hub id OWNER/NAME, or a .gguf file"
        yield Problem("student.model", format_value("student.model", model), expected)


def _check_prices(values: Values) -> Iterator[Problem]:
    for role in ("teacher", "judge", *MEMBERS, "classifier", *SUITE_JUDGES):
        given = {side: values.get(f"{role}.llm.usd_per_million_{side}") for side in ("input", "output")}
        known = values.get(f"{role}.llm.list_price.model") == values.get(f"{role}.llm.model")
        missing = [side for side, price in given.items() if price is None]
        if len(missing) == 1 and not known:
            key = f"{role}.llm.usd_per_million_{missing[0]}"
            yield Problem(key, " = null", "a price, because that of the other side is given")


def _check_models(values: Values) -> Iterator[Problem]:
    for key, value in values.items():
        if key.endswith((".model", "seeds.split", "outputs", "logger.project")) and value == "":
            yield Problem(key, " is empty", "a text")
        elif key.endswith(".api_base") and value is not None and not _is_http_address(value):
            yield Problem(
                key,
                format_value(key, value),
                "an address that starts with http:// or https://, such as http://localhost:8000/v1, or null for the "
                "provider's own",
            )


def _is_http_address(value: str) -> bool:
    """Return whether a text is an address with a scheme, a host and, if any, a possible port."""
    try:
        parts = urlsplit(value)
        possible = parts.port is None or parts.port > 0
    except ValueError:  # a port that is no number, or above 65535
        return False
    return possible and parts.scheme in {"http", "https"} and bool(parts.hostname) and not re.search(r"\s", value)


def _choice(values: Values, key: str) -> str | None:
    """Return the name of an enum member; None for anything else."""
    return getattr(values.get(key), "name", None)


CHECKS: tuple[Callable[[Values], Iterator[Problem]], ...] = (
    check_ranges,
    _check_names,
    _check_divisors,
    _check_budgets,
    _check_gaps,
    check_judge,
    _check_engine,
    check_shares,
    check_weights,
    _check_seeds,
    _check_student,
    _check_prices,
    _check_benchmarks,
    _check_classifier,
    _check_classify_job,
    _check_trainer,
    _check_lightning,
    check_fits,
    _check_evals,
    _check_models,
    check_secrets,
)
