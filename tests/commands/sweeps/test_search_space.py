"""The space of a search: what overrides stand for, and which are refused."""

from random import Random

import pytest

from tapir_exp.commands.sweeps.search_space import Parameter, SearchSpace, intervals
from tapir_exp.core.errors import ConfigError


@pytest.mark.parametrize(
    ("override", "expected", "text"),
    [
        ("a=interval(0.1,0.9)", Parameter("a", low=0.1, high=0.9), "numbers from 0.1 to 0.9"),
        ("a=int(interval(1,9))", Parameter("a", low=1, high=9, step=1.0, whole=True), "integers from 1 to 9"),
        ("a=range(0,5)", Parameter("a", low=0, high=4, step=1.0, whole=True), "integers from 0 to 4"),
        ("a=range(4,0,-2)", Parameter("a", low=2, high=4, step=2.0, whole=True), "integers from 2 to 4 in steps of 2"),
        ("a=range(0,1,0.25)", Parameter("a", low=0, high=0.75, step=0.25), "numbers from 0 to 0.75 in steps of 0.25"),
        ("a=tag(log,interval(1e-5,1e-3))", Parameter("a", low=1e-5, high=1e-3, log=True),
         "numbers from 1e-05 to 0.001, logarithmic"),
        ("a=null,0.5,0.5", Parameter("a", ("null", "0.5")), "null, 0.5"),
        ("+a.Math=choice(x,y)", Parameter("+a.Math", ("x", "y")), "x, y"),
    ],
    ids=lambda value: value if isinstance(value, str) and "=" in value else "",
)  # fmt: skip
def test_parse_reads_each_kind_of_values(override: str, expected: Parameter, text: str) -> None:
    (parameter,) = SearchSpace.parse(["seed=1", override]).parameters
    assert parameter == expected
    assert parameter.text == text
    rng = Random(0)
    for value in [parameter.sample(rng) for _ in range(50)]:
        assert value in parameter.choices if parameter.choices else parameter.low <= float(value) <= parameter.high


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("a=interval(1,0)", "a = interval(1,0): expected an interval from a smaller to a larger number"),
        ("a=interval(nan,inf)", "from a smaller to a larger number"),
        ("a=tag(log,interval(0,1))", "expected positive numbers"),
        ("a=tag(logs,interval(1,2))", "expected no tags but log, got logs"),
        ("a=range(3,4)", "expected a range with more than one number"),
        ("seed=1,2", "seed = 1,2: expected one seed"),
        ("a=interval(1,", "no viable alternative at input 'interval(1,'"),
        ("a=1", "search: expected at least one setting to search"),
    ],
)
def test_override_that_cannot_be_searched_is_refused(override: str, expected: str) -> None:
    with pytest.raises(ConfigError) as caught:
        SearchSpace.parse([override])
    assert expected in caught.value.problems[0]


def test_last_override_of_a_key_counts() -> None:
    space = SearchSpace.parse(["a=1,2", "b=3", "a=interval(0,1)", "b=4"])
    assert space.fixed == ("b=4",)
    assert space.job({"a": 0.123456}) == ["b=4", "a=0.1235"]


def test_rounded_value_stays_in_its_interval() -> None:
    assert Parameter("a", low=0.123456, high=0.99999).rounded(0.99999) == 0.99999
    assert Parameter("a", low=0.12346, high=0.99999).rounded(0.12346) == 0.1235


def test_corners_hold_every_choice_and_both_ends() -> None:
    space = SearchSpace.parse(["arm=tapir,lion,vanilla_sft", "a=interval(0,1)", "b=range(2,5)"])
    corners = list(space.corners())
    assert {job[0] for job in corners} == {"arm=tapir", "arm=lion", "arm=vanilla_sft"}
    assert {job[1] for job in corners} == {"a=0.0", "a=1.0"}
    assert {job[2] for job in corners} == {"b=2", "b=4"}


def test_interval_without_a_search_names_the_way_out() -> None:
    (problem,) = intervals(["a=interval(0,1)", "b=1,2"])
    assert intervals(["a=interval(1,"]) == []  # the composition reports it
    assert problem.startswith("a = interval(0,1): expected a list of values; add search=optuna")
