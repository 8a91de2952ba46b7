"""Render chat templates within bounds: a template from elsewhere may loop for hours or write gigabytes."""

import re
import time
from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache
from typing import Any

from jinja2 import Template, TemplateError, nodes
from jinja2.sandbox import SandboxedEnvironment
from jinja2.visitor import NodeTransformer
from transformers import PreTrainedTokenizerBase
from transformers.utils.chat_template_utils import _compile_jinja_template

from tapir_exp.core.errors import ConfigError

MAX_STEPS = 200_000
"""Passes of loops and calls of macros in one rendering."""
MAX_SECONDS = 5.0
MAX_CHARACTERS = 10_000_000
"""Longest text of a rendering, and of each value inside a template."""
MAX_NUMBER = 1_000_000
"""Largest number that a function, a filter or a repetition takes, such as a width."""
MAX_PRODUCT = 200_000_000
"""Largest product of the lengths of two arguments, which bounds what a replacement or a join writes."""
STEP, CHECK = "_tapir_step", "_tapir_check"
SIZED = (str, bytes, list, tuple, dict, range)
WIDE_FORMAT = re.compile(r"\d{7,}")


class TemplateBoundError(Exception):
    """A template exceeds a bound. It is no TemplateError, which a template could not catch either."""


class Bounds:
    """Counts the work of one rendering."""

    def __init__(self) -> None:
        self.steps, self.characters, self.started = 0, 0, time.monotonic()

    def step(self) -> str:
        """Count a pass of a loop or a call; returns an empty text, because templates write it."""
        self.steps += 1
        if self.steps > MAX_STEPS:
            raise TemplateBoundError(f"it takes more than {MAX_STEPS} steps")
        if self.steps % 256 == 0 and time.monotonic() - self.started > MAX_SECONDS:
            raise TemplateBoundError(f"it takes longer than {MAX_SECONDS:g} s")
        return ""

    def check(self, value: Any) -> Any:
        """Return a value inside a template, if it is small enough."""
        if isinstance(value, SIZED):
            self.characters += len(value)
            if len(value) > MAX_CHARACTERS or self.characters > 50 * MAX_CHARACTERS:
                raise TemplateBoundError(f"it writes more than {MAX_CHARACTERS} characters")
        elif isinstance(value, int) and value.bit_length() > 4096:
            raise TemplateBoundError("it computes numbers of thousands of digits")
        return value

    def check_arguments(self, name: str, arguments: Sequence[Any]) -> None:
        """Reject arguments of a function or a filter that make a large value."""
        for argument in arguments:
            if isinstance(argument, int) and abs(argument) > MAX_NUMBER:
                raise TemplateBoundError(f"it uses the number {str(argument)[:20]} as an argument")
            if "format" in name and isinstance(argument, str) and WIDE_FORMAT.search(argument):
                raise TemplateBoundError("it formats a value with a width of millions")
        lengths = sorted((len(value) for value in arguments if isinstance(value, SIZED)), reverse=True)
        first, second = (*lengths, 0, 0)[:2]
        if first * second > MAX_PRODUCT:
            raise TemplateBoundError("it combines values of millions of characters")


def render_messages(
    tokenizer: PreTrainedTokenizerBase, messages: Sequence[dict[str, str]], *, add_generation_prompt: bool
) -> str:
    """Render a conversation with the tokenizer's template, as `apply_chat_template` does, within bounds.

    Raises:
        ConfigError: If the template fails, or exceeds a bound.
    """
    try:
        template = tokenizer.get_chat_template()
        if not isinstance(template, str):
            raise TemplateBoundError(f"it is {type(template).__name__}; expected a text")
        return _render(template, messages, add_generation_prompt, dict(tokenizer.special_tokens_map))
    # A template can raise nearly any error; RecursionError and MemoryError are no reason to stop without a sentence.
    except Exception as error:
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        remedy = "Set student.chat_template=chatml or llama2, or correct the template of the model"
        problem = f"student.chat_template: the template of the tokenizer cannot be used: {reason}. {remedy}"
        raise ConfigError([problem]) from error


def _render(
    template: str, messages: Sequence[dict[str, str]], add_generation_prompt: bool, special_tokens: dict[str, Any]
) -> str:
    if len(template) > MAX_NUMBER:
        raise TemplateBoundError(f"it has more than {MAX_NUMBER} characters")
    compiled, holder = _compile(template)
    holder.append(bounds := Bounds())
    pieces: list[str] = []
    total = 0
    try:
        names = {"messages": list(messages), "tools": None, "documents": None, **special_tokens}
        for piece in compiled.generate(**names, add_generation_prompt=add_generation_prompt):
            total += len(piece)
            if total > MAX_CHARACTERS:
                raise TemplateBoundError(f"it writes more than {MAX_CHARACTERS} characters")
            pieces.append(piece)
    finally:
        holder.remove(bounds)
    return "".join(pieces)


@lru_cache(maxsize=8)
def _compile(text: str) -> tuple[Template, list[Bounds]]:
    """Compile a template in the environment of transformers, with a step in each loop and macro.

    Returns:
        The template, and the bounds of the renderings in progress, the innermost last.
    """
    # An environment of its own, not the cached one; compiling the text there would compute its constants unbounded.
    environment: Any = _compile_jinja_template.__wrapped__("").environment
    holder: list[Bounds] = []
    environment.globals[STEP] = lambda: holder[-1].step()
    for name in ("lipsum", "cycler", "joiner"):
        environment.globals.pop(name, None)
    _bound_operators(environment, holder)
    environment.filters = {name: _bound(name, function, holder) for name, function in environment.filters.items()}
    environment.filters[CHECK] = environment.globals[CHECK] = lambda value: holder[-1].check(value)
    call: Callable[..., Any] = environment.call

    def bounded_call(context: Any, function: Any, /, *args: Any, **kwargs: Any) -> Any:
        holder[-1].step()
        name = getattr(function, "__name__", "")
        if name != "safe_range":  # bounded by jinja2
            holder[-1].check_arguments(name, [getattr(function, "__self__", None), *args, *kwargs.values()])
        return holder[-1].check(call(context, function, *args, **kwargs))

    def bounded_format(value: Any) -> Any:
        text = getattr(value, "__self__", None)
        if isinstance(text, str) and getattr(value, "__name__", "") in ("format", "format_map"):
            holder[-1].check_arguments("format", [text])
        return wrap_format(value)

    wrap_format = environment.wrap_str_format
    environment.call, environment.wrap_str_format = bounded_call, bounded_format
    tree = _Instrument().visit(environment.parse(text))
    return environment.from_string(tree.set_environment(environment)), holder


class _Instrument(NodeTransformer):
    """Adds a step to every loop and macro, and a check to every text that is put together."""

    def visit_For(self, node: nodes.For) -> nodes.Node:  # noqa: N802  # a name of jinja2
        self.generic_visit(node)
        step = nodes.Output([_call(STEP, [], node.lineno)]).set_lineno(node.lineno)
        node.body.insert(0, step)
        return node

    visit_Macro = visit_CallBlock = visit_For  # noqa: N815

    def visit_Concat(self, node: nodes.Concat) -> nodes.Node:  # noqa: N802
        self.generic_visit(node)
        return _call(CHECK, [node], node.lineno)

    def visit_AssignBlock(self, node: nodes.AssignBlock) -> nodes.Node:  # noqa: N802
        self.generic_visit(node)
        node.filter = nodes.Filter(node.filter, CHECK, [], [], None, None).set_lineno(node.lineno)  # type: ignore[assignment]
        return node


def _call(name: str, arguments: list[nodes.Expr], lineno: int) -> nodes.Call:
    call = nodes.Call(nodes.Name(name, "load"), arguments, [], None, None).set_lineno(lineno)
    assert isinstance(call, nodes.Call)
    return call


def _bound(name: str, function: Callable[..., Any], holder: list[Bounds]) -> Callable[..., Any]:
    def bounded(*args: Any, **kwargs: Any) -> Any:
        bounds = holder[-1]
        bounds.step()
        # The length of an iterator is not known before it is read; no iterator of a template is endless.
        args = tuple(list(value) if isinstance(value, Iterator) else value for value in args)
        bounds.check_arguments(name, [*args, *kwargs.values()])
        return bounds.check(function(*args, **kwargs))

    # Jinja reads from these attributes whether a filter takes the environment or the context.
    bounded.__dict__.update(getattr(function, "__dict__", {}))
    return bounded


def _bound_operators(environment: SandboxedEnvironment, holder: list[Bounds]) -> None:
    """Bound the operators that can make large values."""
    environment.intercepted_binops = frozenset({"*", "**", "+", "%"})
    table = dict(environment.binop_table)

    def multiply(left: Any, right: Any) -> Any:
        for one, other in ((left, right), (right, left)):
            if isinstance(one, str | list | tuple) and isinstance(other, int) and len(one) * other > MAX_CHARACTERS:
                raise TemplateBoundError(f"it repeats a value {str(other)[:20]} times")
        return holder[-1].check(table["*"](left, right))

    def power(left: Any, right: Any) -> Any:
        holder[-1].check_arguments("**", [left])
        if isinstance(right, int) and abs(right) > 64:
            raise TemplateBoundError(f"it raises to the power {str(right)[:20]}")
        return holder[-1].check(table["**"](left, right))

    def add(left: Any, right: Any) -> Any:
        return holder[-1].check(table["+"](left, right))

    def modulo(left: Any, right: Any) -> Any:
        if isinstance(left, str):  # a width such as %999999999d
            raise TemplateError("the operator % on a text is not supported in chat templates")
        return table["%"](left, right)

    environment.binop_table = {**table, "*": multiply, "**": power, "+": add, "%": modulo}
