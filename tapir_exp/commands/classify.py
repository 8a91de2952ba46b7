"""The command `tapir-label`: it composes and checks the configuration of a job, and hands it to `tapir_exp.commands.classifier_jobs`.

Nothing heavy is imported before the job starts, so that help and mistakes show at once.
"""

import sys

from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from omegaconf import DictConfig

from tapir_exp.commands.hydra_app import exit_with_error
from tapir_exp.config import CLASSIFY_SCHEMA, ClassifyConfig, parse_classify, to_yaml
from tapir_exp.config.compose import COMPOSITION_ERRORS, Composer
from tapir_exp.config.paths import data_dir
from tapir_exp.core.console import console
from tapir_exp.core.errors import ConfigError, TapirError

PRIMARY = "classify"
GROUPS = ("classifier", "classifier_data", "classifier_training", "trainer")
HELP = """\
tapir-label: task types for instructions.

  tapir-label pool=FILE                                  label a pool offline (needs the extra `local`)
  tapir-label pool=FILE classifier=gpt_4o_mini           ... with a chat model, or with what was trained:
  tapir-label pool=FILE classifier=minilm classifier.path=DIR
  tapir-label job=train classifier_data.path=FILE fit=deberta_v3_small    train a classifier, beside its baselines
  tapir-label job=evaluate classifier_data.path=FILE classifier=...       how good it is, or how far two classifiers agree
  tapir-label job=distil pool=FILE sample=3000 classifier=...      a chat model labels a sample, an encoder learns it

A pool is JSON or JSONL with Alpaca's fields; labelled files have a task beside them (classifier_data.names maps other names).
out=DIR takes labels.jsonl, figures.json, report.html and classifier/, whichever the job has.

  --cfg                                                  print the configuration instead of running it

Groups and their choices (tapir_exp/config says what each key means):
"""


def main() -> None:
    """Run the command; exit code 0 when done, 2 for a wrong configuration, 1 for what else the user can mend."""
    arguments = sys.argv[1:]
    if {"-h", "--help"} & set(arguments):
        sys.stdout.write(HELP + _groups())
        return
    try:
        config = read([line for line in arguments if line != "--cfg"])
        if "--cfg" in arguments:
            sys.stdout.write(to_yaml(config))
        else:
            _run(config)
    except TapirError as error:
        exit_with_error(error, "tapir-label")
    except KeyboardInterrupt:
        console.print("\nStopped. What a chat model answered is cached.", markup=False)
        sys.exit(130)


def read(overrides: list[str]) -> ClassifyConfig:
    """The configuration of a command line. Raises ConfigError with every mistake in it."""
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(data_dir("conf")), version_base="1.3"):
        loader = GlobalHydra.instance().config_loader()
        composer = Composer(loader, PRIMARY, overrides, CLASSIFY_SCHEMA, parse_classify)
        try:
            cfg = compose(PRIMARY, overrides)
        except COMPOSITION_ERRORS as error:
            raise ConfigError(composer.problems(overrides) or [composer.explain(error, overrides)]) from error
        return _parse(cfg, composer, overrides)


def _parse(cfg: DictConfig, composer: Composer, overrides: list[str]) -> ClassifyConfig:
    return parse_classify(cfg, lambda key: composer.origin(key, overrides))


def _run(config: ClassifyConfig) -> None:
    from tapir_exp.commands.classifier_jobs import run_job

    run_job(config)


def _groups() -> str:
    leaves = {name: sorted(leaf.stem for leaf in (data_dir("conf") / name).glob("*.yaml")) for name in GROUPS}
    return "".join(f"  {name:<12} {', '.join(choices)}\n" for name, choices in leaves.items())
