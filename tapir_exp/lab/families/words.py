"""Vocabulary that several families share."""


def word_list(text: str) -> tuple[str, ...]:
    """Split a text into words."""
    return tuple(text.split())


NAMES = word_list("Anna Ben Carl Dan Emma Gus Jack Kate Leo Mia Rosa Tina")
COLORS = word_list("red blue green white black yellow brown pink")
THINGS = word_list("apple book cup egg key lamp map pen soap tea")
