"""Whether judge and teacher are of one model family: judges favour their own, in 71 % of the cases."""

import re

FAMILIES = {
    "GPT": r"gpt|chatgpt|o[1-9]|davinci",
    "Claude": r"claude",
    "Gemini": r"gemini|gemma|palm",
    "Qwen": r"qwen\d*|qwq",
    "Llama": r"llama\d*|vicuna|alpaca|wizardlm",
    "Mistral": r"mistral|mixtral|ministral|codestral",
    "DeepSeek": r"deepseek",
    "GLM": r"glm|chatglm",
    "Yi": r"yi",
    "Grok": r"grok",
    "Phi": r"phi",
    "Command": r"command",
}
"""Families by the words of a model's name that tell them; ours, and to be added to."""
ORACLES = "lab/"
"""The lab's oracles know the answers; they favour nobody."""


def family_of(model: str) -> str | None:
    """The family of a litellm model string; None where the name tells none."""
    name = model.rpartition("/")[2].lower()
    found = (family for family, words in FAMILIES.items() if re.search(rf"(?<![a-z])({words})(?![a-z])", name))
    return next(found, None)


def shared_family(teacher: str, judge: str) -> str | None:
    """What a judge shares with the teacher, in words; None where they are not of a kind as far as their names tell."""
    if ORACLES in (teacher[: len(ORACLES)], judge[: len(ORACLES)]):
        return None
    if teacher == judge:
        return f"judge and teacher are the same model, {judge}"
    family = family_of(judge)
    if family is None or family != family_of(teacher):
        return None
    return f"judge ({judge}) and teacher ({teacher}) are of one family, {family}"
