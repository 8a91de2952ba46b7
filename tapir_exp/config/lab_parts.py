"""Reject a mixture of the lab's parts with real ones, unless it is explicit: its figures would mean nothing."""

from collections.abc import Callable, Iterator

from tapir_exp.config.judge_checks import MEMBERS
from tapir_exp.config.problems import Problem, Values

SWITCH = "allow_lab_parts"
LAB_STUDENT = "lab"
LAB_PREFIX = "lab/"
"""Prefix of the lab's chat models."""
REMEDIES = {
    "seeds": "seeds=file or seeds=hub with seeds.path, or seeds=alpaca",
    "teacher": "a teacher such as teacher=gpt_4o or teacher=local_openai_compatible",
    "judge": "judge=as_teacher, or a judge such as judge=gpt_4o",
    "classifier": "classifier=as_teacher, classifier=minilm (offline), or another",
    "task_mix": "task_mix=natural (that of the seeds) or task_mix=tapir (the paper's)",
    "evals": "evals=held_out or evals=none",
    "curriculum": "curriculum=from_rows (sizes follow from the seeds) or curriculum=tapir (the paper's)",
    "sft": "sft=lora or sft=full",
}
"""What to choose instead, by group."""
PRESETS = {"curriculum": ("rows_per_round", 4000), "sft": ("learning_rate", 2e-3)}
"""Groups whose names do not show that they are the lab's, with a key and its value in the lab's preset. A key with
another value needs no search for the file that set it, which takes a while."""


def check_lab_parts(values: Values, origin: Callable[[str], str]) -> Iterator[Problem]:
    """Yield a problem for every part of the lab beside a real part, and for seeds that have a path but no source.

    The lab's student is an ordinary small model, so it may be trained on real rows, with the sizes that the lab's
    presets give it. A real student in the lab is an error.

    Args:
        values: Values of the leaves, by dotted key.
        origin: Returns what set a key, by which the lab's presets of sizes are recognised.
    """
    path = values.get("seeds.path")
    if path is not None and _name(values.get("seeds.source")) == "lab":
        yield Problem(
            "seeds.path", f" = {path}", "seeds=file (or seeds=hub) beside it, because the seeds are the lab's"
        )
        return
    if SWITCH not in values or values[SWITCH]:
        return
    parts = _parts(values)
    real = next((text for text, is_lab in parts.values() if not is_lab), None)
    if real is None:
        return
    lab = {group: text for group, (text, is_lab) in parts.items() if is_lab}
    lab |= _dependent_parts(values, origin)
    for group, text in lab.items():
        key, _, value = text.partition(" = ")
        remedy = REMEDIES.get(group, REMEDIES["judge"])  # a judge of a panel has no group of its own
        yield Problem(key, f" = {value}", f"no part of the lab beside {real}; choose {remedy}")
    if lab:
        expected = "experiment=own_data, which chooses every part for real data, or true to mix parts on purpose"
        yield Problem(SWITCH, " = False", expected)


def _parts(values: Values) -> dict[str, tuple[str, bool]]:
    """Return the parts that this run uses: group, the setting that determines it, and whether it is the lab's."""
    teacher = values.get("teacher.llm.model")
    parts = {}
    if (source := _name(values.get("seeds.source"))) is not None:
        parts["seeds"] = (f"seeds.source = {source}", source == "lab")
    if (model := values.get("student.model")) not in (None, LAB_STUDENT):
        parts["student"] = (f"student.model = {model}", False)
    if not _calls_models(values):
        return parts
    for role in ("teacher", "judge", *MEMBERS):
        model = values.get(f"{role}.llm.model")
        # A judge that is the teacher follows the teacher, which is named already.
        if model is not None and (role == "teacher" or model != teacher):
            parts[role] = (f"{role}.llm.model = {model}", model.startswith(LAB_PREFIX))
    kind, model = _name(values.get("classifier.kind")), values.get("classifier.llm.model")
    if kind is not None and kind != "llm":
        parts["classifier"] = (f"classifier.kind = {kind}", False)
    elif kind is not None and model not in (None, teacher):
        parts["classifier"] = (f"classifier.llm.model = {model}", model.startswith(LAB_PREFIX))
    return parts


def _dependent_parts(values: Values, origin: Callable[[str], str]) -> dict[str, str]:
    """Return the lab's parts that hold settings only, by group."""
    parts = {}
    if values.get("task_mix.name") == "lab" and _calls_models(values):
        parts["task_mix"] = "task_mix.name = lab"
    if problems := values.get("evals.problems_per_level"):
        parts["evals"] = f"evals.problems_per_level = {problems}"
    # A fit on seeds alone reads no sizes of rounds and pays for nothing; `run_job` warns of its learning rate.
    if values.get("student.model") == LAB_STUDENT or not _calls_models(values):
        return parts
    for group, (name, value) in PRESETS.items():
        key = f"{group}.{name}"
        # Relative to the working directory, or within an installed package.
        if values.get(key) == value and origin(key).replace("\\", "/").endswith(f"{group}/lab.yaml"):
            parts[group] = f"{key} = {values.get(key)}"
    return parts


def _calls_models(values: Values) -> bool:
    """Return whether teacher, judge and classifier are used, which a fit on the seeds alone does not."""
    no_rounds = values.get("curriculum.rounds") == 0 or _name(values.get("curriculum.rounds_mode")) == "seeds_only"
    return not no_rounds or bool(values.get("evals.held_out_size"))


def _name(member: object) -> str | None:
    return getattr(member, "name", None)
