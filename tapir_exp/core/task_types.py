"""The task types of TAPIR.

Source: the target-ratio table of TAPIR (arXiv 2405.13448). The paper speaks of 33 types; 32 of their
names are known, and those are the members here. The 33rd is probably TruthfulQA (a guess: WizardLM's test set, whose
other skills are these names, has it; the table gives it no ratio), so no classifier names it and no preset asks for it.
"""

from enum import StrEnum


class TaskType(StrEnum):
    """What kind of work an instruction asks for."""

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
"""The types whose share TAPIR raises above the natural mix."""
