import asyncio
from collections.abc import Callable, Sequence
from typing import Any

import pytest

from tapir_exp.llm import group_writer
from tapir_exp.llm.group_writer import MAX_GROUP, Entry, GroupWriter


class Committed:
    """Groups in the order of their commits."""

    def __init__(self) -> None:
        self.groups: list[list[Any]] = []

    def commit(self, entries: Sequence[Entry]) -> list[Any]:
        self.groups.append([entry.run(None) for entry in entries])
        return self.groups[-1]


def give(number: int) -> Callable[[Any], int]:
    return lambda _: number


def write_all(writer: GroupWriter, count: int) -> list[Any]:
    """Submit numbers within one pass of a loop, and return the results."""

    async def submit_all() -> list[Any]:
        return await asyncio.gather(*(writer.submit(give(number)) for number in range(count)))

    return asyncio.run(submit_all())


@pytest.mark.parametrize("count", [1, MAX_GROUP - 1, MAX_GROUP, MAX_GROUP + 1, 5 * MAX_GROUP + 3])
def test_group_has_at_most_max_group_entries_in_their_order(count: int) -> None:
    committed = Committed()
    writer = GroupWriter(committed.commit, lambda: None)
    assert write_all(writer, count) == list(range(count))
    writer.close()
    assert [number for group in committed.groups for number in group] == list(range(count))
    full, rest = divmod(count, MAX_GROUP)
    assert [len(group) for group in committed.groups] == [MAX_GROUP] * full + [rest] * (rest > 0)


def test_full_group_is_committed_before_the_interval_is_over(monkeypatch: pytest.MonkeyPatch) -> None:
    committed = Committed()
    writer = GroupWriter(committed.commit, lambda: None)
    write_all(writer, 1)
    monkeypatch.setattr(group_writer, "MIN_INTERVAL_S", 30.0)

    async def submit() -> int:
        for number in range(MAX_GROUP + 1):
            writer.submit(give(number))
        return sum(map(len, committed.groups))

    assert asyncio.run(submit()) == 1 + MAX_GROUP
    writer.close()
    assert sum(map(len, committed.groups)) == 2 + MAX_GROUP
