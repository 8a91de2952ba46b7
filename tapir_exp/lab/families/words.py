"""The small vocabulary that several families share."""


def words_of(text: str) -> tuple[str, ...]:
    """The words of a text."""
    return tuple(text.split())


NAMES = words_of("Anna Ben Carl Dan Emma Fay Gus Hana Ivan Jack Kate Leo Mia Nora Omar Paul Rosa Sam Tina Will")
COLORS = words_of("red blue green white black yellow brown pink")
THINGS = words_of("apple book bread coin cup egg key lamp map milk pen ring rope salt shoe soap tea water")
