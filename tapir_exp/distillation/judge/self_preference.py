"""Find a risk of self-preference bias: judges prefer responses of their own model family, in 71 % of the cases."""

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
"""Pattern of a model name by family; incomplete, so that an unknown model has no family."""
LAB_PREFIX = "lab/"
"""Models of the lab have the right answers and prefer no family."""


def family_of(model: str) -> str | None:
    """Return the family of a litellm model string; None if the name shows none."""
    name = model.rpartition("/")[2].lower()
    # A word of the name must not be part of a longer one: `yi` is in many names.
    matches = (family for family, words in FAMILIES.items() if re.search(rf"(?<![a-z])({words})(?![a-z])", name))
    return next(matches, None)


def shared_family(teacher: str, judge: str) -> str | None:
    """Return what judge and teacher share, as a clause for a warning; None if their names show nothing in common."""
    if teacher.startswith(LAB_PREFIX) or judge.startswith(LAB_PREFIX):
        return None
    if teacher == judge:
        return f"judge and teacher are the same model, {judge}"
    family = family_of(judge)
    if family is None or family != family_of(teacher):
        return None
    return f"judge ({judge}) and teacher ({teacher}) belong to the same family, {family}"
