"""`tapir classify`: compose and check the configuration of a job, and hand it to `classify_jobs`.

Nothing heavy is imported before the job starts, so that help and mistakes show at once.
"""

import sys
from collections.abc import Sequence

from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra

from tapir_exp.commands.command_line import CLASSIFY_GROUPS, format_choices, wants_help
from tapir_exp.commands.registration import register
from tapir_exp.commands.tracking import tracked_classification
from tapir_exp.config import CLASSIFY_SCHEMA, ClassifyConfig, parse_classify, to_yaml
from tapir_exp.config.compose import COMPOSITION_ERRORS, Composer
from tapir_exp.config.hydra_versions import initialize_options
from tapir_exp.config.paths import data_dir
from tapir_exp.core.errors import ConfigError
from tapir_exp.report.trackers.access import check_trackers

CONFIG_NAME = "classify"
GROUPS = ("classifier", *CLASSIFY_GROUPS, "trainer", "logger")
HELP = """\
tapir classify: classify instructions by task type, and train classifiers that do.

  tapir classify pool=FILE                               label a pool offline (needs the extra `local`)
  tapir classify pool=FILE classifier=gpt_4o_mini        ... with a chat model
  tapir classify pool=FILE classifier=minilm classifier.path=DIR    ... with a trained classifier
  tapir classify job=train classifier_data.path=FILE classifier_training=deberta_v3_small
                                                         train a classifier, and compare it with baselines
  tapir classify job=evaluate classifier_data.path=FILE classifier=...
                                                         measure accuracy, or the agreement of two classifiers
  tapir classify job=distil pool=FILE sample=3000 classifier=...
                                                         label a sample with a chat model, and train an encoder on it

A pool is JSON or JSONL with Alpaca's fields. A labelled file also has a task; classifier_data.names maps other names.
Results are written to output_dir=DIR: labels.jsonl, unreadable.jsonl (rows that cannot be read, with reasons),
figures.json, report.html and classifier/, as the job has them.

  --cfg job                                              print the configuration instead of running it

Groups and their choices (tapir_exp/config documents every key):
"""


def main(arguments: Sequence[str]) -> None:
    """Run a job."""
    if wants_help(arguments):
        sys.stdout.write(HELP + format_choices(GROUPS))
        return
    # Other than for `tapir run`, `job` is also a key here; as a flag's value it has no `=`.
    config = read_config([argument for argument in arguments if argument not in ("--cfg", "job")])
    if "--cfg" in arguments:
        sys.stdout.write(to_yaml(config))
        return
    if problems := check_trackers(config.logger):
        raise ConfigError(problems)
    with tracked_classification(config):
        from tapir_exp.commands.classify_jobs import run_job  # after W&B, which starts slower when torch is loaded

        run_job(config)


def read_config(overrides: Sequence[str]) -> ClassifyConfig:
    """Compose and parse the configuration of a command line.

    Raises:
        ConfigError: With every mistake in it.
    """
    register()
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(data_dir("conf")), **initialize_options()):
        loader = GlobalHydra.instance().config_loader()
        # Hydra stops at the first mistake; the composer finds all of them, with the file that each comes from.
        composer = Composer(loader, CONFIG_NAME, overrides, CLASSIFY_SCHEMA, parse_classify)
        try:
            cfg = compose(CONFIG_NAME, list(overrides))
        except COMPOSITION_ERRORS as error:
            raise ConfigError(composer.problems(overrides) or [composer.explain(error, overrides)]) from error
        return parse_classify(cfg, lambda key: composer.origin(key, overrides))
