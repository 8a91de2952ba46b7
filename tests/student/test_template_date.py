"""The fixed date of chat templates, in every form in which they ask for it."""

from datetime import datetime

import pytest
from jinja2 import Environment

from tapir_exp.student.constants import TEMPLATE_DATE
from tapir_exp.student.template_date import pin_date

FORMATS = ("%d %b %Y", "%B %d, %Y", "%Y-%m-%d", "%A, %-d %B %Y %H:%M:%S", "%x %X %c %j %%", "today", "")


@pytest.mark.parametrize("form", FORMATS)
def test_pinned_template_writes_the_fixed_date(form: str) -> None:
    template = pin_date("  {{ strftime_now('" + form + "') }}!")
    environment = Environment(autoescape=False, trim_blocks=True, lstrip_blocks=True)  # as transformers
    rendered = environment.from_string(template).render(strftime_now=lambda _: "the clock")
    assert rendered == "  " + datetime.fromisoformat(TEMPLATE_DATE).strftime(form) + "!"


def test_pin_is_applied_once() -> None:
    once = pin_date("{% if strftime_now is defined %}{{ strftime_now('%Y') }}{% endif %}")
    assert pin_date(once) == once
    assert Environment(autoescape=False).from_string(once).render() == "2024"


def test_template_without_a_date_is_unchanged() -> None:
    assert pin_date("{{ messages }}") == "{{ messages }}"
