"""Fix the date that a chat template writes: equal keys must give equal rows on every day.

The templates of Llama 3.2, Granite and Mistral Small get the current date from `strftime_now`. The `transformers`
library accepts no function in its place, so the fixed date is a macro in the template. The student is saved with it, so
any program uses the prompt that the student was trained on.
"""

from datetime import datetime

from tapir_exp.student.constants import TEMPLATE_DATE

CLOCK = "strftime_now"
"""Function by which a chat template gets the current date."""
CODES = "aAwdbBmyYHIpMSfjUWcxXGuVDFeT"
"""Format codes of strftime; those of time zones are empty."""


def pin_date(template: str) -> str:
    """Return a Jinja template with the date fixed to `TEMPLATE_DATE`; one without a date is returned unchanged."""
    macro = _macro()
    return macro + template if CLOCK in template and not template.startswith(macro) else template


def _macro() -> str:
    """Return a macro that takes precedence over the function of the same name."""
    date = datetime.fromisoformat(TEMPLATE_DATE)
    values = {f"%{code}": date.strftime(f"%{code}") for code in CODES}
    # GNU's form without the leading zero or space.
    values |= {f"%-{code}": values[f"%{code}"].lstrip("0 ") or "0" for code in "dmHIMSjye"}
    values |= {"%z": "", "%Z": "", "%%": "%"}
    return (
        f"{{%- macro {CLOCK}(format) -%}}{{%- set text = namespace(value=format) -%}}"
        f"{{%- for code, value in {values!r}.items() -%}}"
        "{%- set text.value = text.value | replace(code, value) -%}"
        "{%- endfor -%}{{ text.value }}{%- endmacro +%}"  # the plus keeps white space at the start
    )
