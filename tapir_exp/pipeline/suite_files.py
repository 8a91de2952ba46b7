"""Find the files and packages that a suite needs before anything is generated or paid for."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from importlib.util import find_spec

from tapir_exp.config import EvalsConfig, Suite
from tapir_exp.core.errors import EvaluationError
from tapir_exp.data.decontamination import HUB
from tapir_exp.evals import alpaca_eval_files, ifeval, mt_bench_files


def find_missing(evals: EvalsConfig, suite: Suite) -> str:
    """Return what a suite lacks on this machine, and what to do about it; empty if it lacks nothing."""
    try:
        LOADERS[suite](evals)
    except EvaluationError as error:
        return str(error)
    return ""


def hub_data(evals: EvalsConfig, suites: Sequence[Suite]) -> Iterator[tuple[str, str]]:
    """Yield the suites that load their questions from the hub, each with the name of the data set."""
    if Suite.alpaca_eval in suites and evals.alpaca_eval.reference is None:
        yield Suite.alpaca_eval.value, HUB["alpaca_eval"].name
    if Suite.ifeval in suites and evals.ifeval.questions is None:
        yield Suite.ifeval.value, ifeval.HUB


def _load_alpaca_eval(evals: EvalsConfig) -> None:
    alpaca_eval_files.load_template(evals.alpaca_eval.prompt)


def _load_mt_bench(evals: EvalsConfig) -> None:
    config = evals.mt_bench
    mt_bench_files.load_questions(config.questions)
    mt_bench_files.load_references(config.references)
    mt_bench_files.load_judge_prompts(config.judge_prompts)


def _load_ifeval(evals: EvalsConfig) -> None:
    if find_spec("lm_eval") is None:
        raise EvaluationError("IFEval cannot import lm_eval. Install it: pip install 'tapir-exp[ifeval]'")
    ifeval.check_language_data()
    if evals.ifeval.questions is not None:
        ifeval.load_questions(evals.ifeval.questions)


LOADERS: Mapping[Suite, Callable[[EvalsConfig], None]] = {
    Suite.lab: lambda evals: None,
    Suite.alpaca_eval: _load_alpaca_eval,
    Suite.mt_bench: _load_mt_bench,
    Suite.ifeval: _load_ifeval,
}
