"""The ledger: what was paid, what was not, and a price that is unknown stays unknown."""

from tapir_exp.llm.chat import Usage
from tapir_exp.llm.ledger import Ledger, Spend


def usage(usd: float | None = 0.25) -> Usage:
    return Usage(prompt_tokens=100, completion_tokens=10, usd=usd)


def test_roles_are_kept_apart_and_summed() -> None:
    ledger = Ledger()
    ledger.record_paid("teacher", usage())
    ledger.record_paid("teacher", usage())
    ledger.record_cached("teacher")
    ledger.record_paid("judge", usage(0.5))
    assert ledger.spent("teacher") == Spend(calls=2, cached=1, prompt_tokens=200, completion_tokens=20, usd=0.5)
    assert ledger.spent("judge") == Spend(calls=1, prompt_tokens=100, completion_tokens=10, usd=0.5)
    assert ledger.spent() == Spend(calls=3, cached=1, prompt_tokens=300, completion_tokens=30, usd=1.0)
    assert ledger.spent("labeller") == Spend()


def test_one_unknown_price_makes_the_cost_unknown_but_keeps_the_tokens() -> None:
    ledger = Ledger()
    ledger.record_paid("teacher", usage())
    ledger.record_paid("judge", usage(None))
    assert ledger.spent("teacher").usd == 0.25
    assert ledger.spent() == Spend(calls=2, prompt_tokens=200, completion_tokens=20, usd=None)


def test_a_stage_takes_the_difference() -> None:
    ledger = Ledger()
    ledger.record_paid("teacher", usage(0.1))
    before = ledger.spent()
    ledger.record_paid("teacher", usage(0.2))
    ledger.record_cached("teacher")
    assert ledger.spent() - before == Spend(calls=1, cached=1, prompt_tokens=100, completion_tokens=10, usd=0.2)


def test_what_was_answered_from_the_cache_cost_nothing_even_after_calls_of_unknown_price() -> None:
    ledger = Ledger()
    ledger.record_paid("teacher", usage(None))
    before = ledger.spent()
    ledger.record_cached("teacher")
    assert ledger.spent() - before == Spend(cached=1, usd=0.0)


def test_a_stage_with_unknown_prices_has_an_unknown_cost() -> None:
    ledger = Ledger()
    before = ledger.spent()
    ledger.record_paid("teacher", usage(None))
    assert (ledger.spent() - before).usd is None
