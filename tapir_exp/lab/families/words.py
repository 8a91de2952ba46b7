"""The small vocabulary that several families share."""


def words_of(text: str) -> tuple[str, ...]:
    """The words of a text."""
    return tuple(text.split())


NAMES = words_of("Anna Ben Carl Dan Emma Gus Jack Kate Leo Mia Rosa Tina")
COLORS = words_of("red blue green white black yellow brown pink")
THINGS = words_of("apple book cup egg key lamp map pen soap tea")
