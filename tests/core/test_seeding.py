"""Derived seeds decide draws: each use has fixed values, the same in every process."""

from collections.abc import Sequence
from random import Random

import pytest

from tapir_exp.core.seeding import derive_seed, derive_uniform, seed_digest


def test_derive_seed_of_an_expansion_call_is_pinned() -> None:
    assert derive_seed("7 2 0 1", 3, separator=" ", bits=48) == 66121484353340
    assert derive_seed(1, 1, 2, 0, 0, separator=" ", bits=48) == 278294501276657


def test_derive_seed_of_a_rollout_is_pinned() -> None:
    assert derive_seed("rollout", 5, "11507a0e2f5e69d5/3") == 6965584254792302


def test_derive_seed_of_a_conversation_turn_is_pinned() -> None:
    assert derive_seed(5, "q81", 1) == 23260435891471840


def test_derive_seed_has_the_requested_width() -> None:
    assert all(0 <= derive_seed(n, bits=48) < 2**48 for n in range(200))
    assert max(derive_seed(n, bits=48) for n in range(200)) > 2**46
    assert derive_seed("a", bits=8) == derive_seed("a") >> 48


def test_seed_digest_of_an_oracle_request_is_pinned() -> None:
    request = '["teacher", [{"content": "Add.", "role": "user"}], {"error_rate": 0.1}, 0.0, 2]'
    rng = Random(seed_digest(request).hex())
    assert [rng.random(), rng.random()] == [0.37909983282511694, 0.3111233391518228]


def test_derive_uniform_of_draws_is_pinned() -> None:
    assert derive_uniform(3, "hard set", "11507a0e2f5e69d5") == 0.08674996060012166
    assert derive_uniform("seed 1 round 2", "a") == 0.24124688840801095


@pytest.mark.parametrize(
    ("parts", "number"),
    [((0, "draw", "a"), 0.189651811), ((1, "draw", "a"), 0.5077136), (("0", "draw", "a"), 0.189651811)],
)
def test_derive_uniform_takes_parts_as_text(parts: Sequence[object], number: float) -> None:
    assert derive_uniform(*parts) == pytest.approx(number, abs=1e-8)


def test_derive_uniform_separates_its_parts() -> None:
    numbers = {derive_uniform("ab", "c"), derive_uniform("a", "bc"), derive_uniform("abc"), derive_uniform("c", "ab")}
    assert len(numbers) == 4


def test_derive_uniform_is_uniform() -> None:
    numbers = sorted(derive_uniform(0, n) for n in range(2000))
    assert 0 < numbers[0] < numbers[-1] < 1
    assert max(abs(number - n / 2000) for n, number in enumerate(numbers)) < 0.04  # Kolmogorov: p about 0.003
