"""The task types of TAPIR.

Source: the target-ratio table of TAPIR (arXiv 2405.13448). The paper mentions 33 types, of which 32 names are known.
The 33rd is probably TruthfulQA: the test set of WizardLM has it next to these names. The table gives it no ratio, so no
classifier predicts it and no preset requests it.
"""

from enum import StrEnum


class TaskType(StrEnum):
    """Task type of an instruction."""

    MATH = "Math"
    REASONING = "Reasoning"
    CODE_GENERATION = "Code Generation"
    CODE_DEBUG = "Code Debug"
    WRITING = "Writing"
    COMPUTER_SCIENCE = "Computer Science"
    COMPLEX_FORMAT = "Complex Format"
    COMMON_SENSE = "Common-Sense"
    COUNTERFACTUAL = "Counterfactual"
    MULTILINGUAL = "Multilingual"
    ROLEPLAY = "Roleplay"
    BIOLOGY = "Biology"
    TECHNOLOGY = "Technology"
    ETHICS = "Ethics"
    SPORT = "Sport"
    LAW = "Law"
    MEDICINE = "Medicine"
    LITERATURE = "Literature"
    ENTERTAINMENT = "Entertainment"
    ART = "Art"
    MUSIC = "Music"
    TOXICITY = "Toxicity"
    ECONOMY = "Economy"
    PHYSICS = "Physics"
    HISTORY = "History"
    CHEMISTRY = "Chemistry"
    PHILOSOPHY = "Philosophy"
    HEALTH = "Health"
    ECOLOGY = "Ecology"
    GRAMMAR = "Grammar"
    PARAPHRASE = "Paraphrase"
    OTHERS = "Others"


BOOSTED = (TaskType.MATH, TaskType.REASONING, TaskType.CODE_GENERATION, TaskType.CODE_DEBUG)
"""Types that TAPIR raises above their natural share."""
