"""Code: writing and fixing small functions, graded by the values they compute."""

import ast
import re
from collections.abc import Sequence
from dataclasses import dataclass
from random import Random

from tapir_exp.core.task_types import TaskType
from tapir_exp.lab.families.wording import Slots, WordedFamily, one_of
from tapir_exp.lab.family import Grade, Problem

INPUTS = (0, 1, 2, 3, 7, 10, -4)
"""Inputs that a function is evaluated on."""
LONGEST_CODE = 400
LARGEST_VALUE = 10**9

SIGNS = {"add": "+", "subtract": "-", "multiply": "*"}


@dataclass(frozen=True)
class Step:
    """One operation on the running value.

    Attributes:
        verb: a key of `SIGNS`.
        number: the other operand.
    """

    verb: str
    number: int


class CodeFamily(WordedFamily):
    """A family with functions of one variable as answers, which are compared by their values on `INPUTS`."""

    def final(self, response: str) -> str:
        """Return the values of the function in a response, or the reason why there are none."""
        try:
            return evaluate_on_inputs(response)
        except (ValueError, SyntaxError, RecursionError) as error:
            return f"no function: {error}"

    def grade(self, problem: Problem, response: str) -> Grade:
        """Score a response: full marks for the right values, otherwise up to 6 by the share of right values."""
        values, expected = self.final(response).split(), problem.answer.split()
        if values == expected:
            return self._grade_style(problem, response)
        if len(values) != len(expected) or values[0] != expected[0]:
            return Grade(1, self.final(response))
        # The right number of values but wrong ones: partial credit for near misses.
        right = sum(a == b for a, b in zip(values[1:], expected[1:], strict=True))
        return Grade(2 + round(4 * right / len(INPUTS)), f"wrong: {right} of {len(INPUTS)} inputs come out right")


class Functions(CodeFamily):
    """Writing a function of 2, 3 or 4 operations; refined: a comment, then one line for each operation."""

    name = "functions"
    task = TaskType.CODE_GENERATION
    wordings = (
        "Write a Python function of x: {steps}.",
        "Code f(x) in Python: {steps}.",
        "I need a Python function f of x that will {steps}.",
    )
    slots = {"steps": rf"first {one_of(SIGNS)} [1-9](?:, then {one_of(SIGNS)} [1-9])+"}

    def draw(self, rng: Random, level: int) -> Slots:
        return {"steps": describe_steps(draw_steps(rng, level + 1))}

    def solve(self, instruction: str, slots: Slots) -> Problem | None:
        steps = parse_steps(slots["steps"])
        if len(steps) > 4:
            return None
        slip = to_one_line([*steps[:-1], Step(steps[-1].verb, steps[-1].number + 1)])
        return code_problem(to_expression(steps), instruction, steps, "# one step a line", slip)


class Bugs(CodeFamily):
    """Fixing the one operation of 2, 3 or 4 that contradicts the comment; refined: one line for each operation."""

    name = "bugs"
    task = TaskType.CODE_DEBUG
    wordings = (
        "Fix the bug: {code} # {steps}.",
        "Debug this: {code} # {steps}.",
        "Correct the code: {code} # {steps}.",
    )
    slots = {
        "code": r"def f\(x\): return [\dx()*+ -]+",
        "steps": rf"first {one_of(SIGNS)} [1-9](?:, then {one_of(SIGNS)} [1-9])+",
    }

    def draw(self, rng: Random, level: int) -> Slots:
        steps = draw_steps(rng, level + 1)
        broken, index = list(steps), rng.randrange(len(steps))
        if rng.random() < 0.6:
            broken[index] = Step(rng.choice([verb for verb in SIGNS if verb != steps[index].verb]), steps[index].number)
        else:
            broken[index] = Step(steps[index].verb, rng.choice([n for n in range(2, 10) if n != steps[index].number]))
        return {"code": to_one_line(broken), "steps": describe_steps(steps)}

    def solve(self, instruction: str, slots: Slots) -> Problem | None:
        steps, broken = parse_steps(slots["steps"]), parse_code(slots["code"])
        # Exactly one operation must be wrong, and the written code must be in canonical form.
        wrong = sum(bad != good for bad, good in zip(broken, steps, strict=False))
        if wrong != 1 or len(broken) != len(steps) or len(steps) > 4 or to_one_line(broken) != slots["code"]:
            return None
        if evaluate_on_inputs(to_one_line(broken)) == evaluate_on_inputs(to_one_line(steps)):
            return None
        key = f"{to_expression(broken)} -> {to_expression(steps)}"
        return code_problem(key, instruction, steps, "# as the comment says", slip=to_one_line(broken))


def code_problem(key: str, instruction: str, steps: Sequence[Step], comment: str, slip: str) -> Problem:
    """Return the problem of writing a function with these steps; at level l there are l + 1 of them.

    Args:
        key: identifies the problem within its family.
        instruction: the problem as text.
        steps: the operations in order.
        comment: first line of the refined response.
        slip: the wrong code of an erring teacher.
    """
    lines = "".join(f"\n    x {SIGNS[step.verb]}= {step.number}" for step in steps)
    return Problem(
        key=key,
        level=len(steps) - 1,
        instruction=instruction,
        answer=evaluate_on_inputs(to_one_line(steps)),
        terse=to_one_line(steps),
        refined=f"{comment}\ndef f(x):{lines}\n    return x",
        slip=slip,
    )


def describe_steps(steps: Sequence[Step]) -> str:
    """Return the operations as text: `first add 3, then multiply 2`."""
    return "first " + ", then ".join(f"{step.verb} {step.number}" for step in steps)


def parse_steps(text: str) -> list[Step]:
    """Parse the operations in a text of `describe_steps`."""
    return [Step(verb, int(number)) for verb, number in re.findall(rf"({one_of(SIGNS)}) (\d)", text)]


def draw_steps(rng: Random, count: int) -> list[Step]:
    """Draw operations with numbers from 2 to 9."""
    return [Step(rng.choice(list(SIGNS)), rng.randint(2, 9)) for _ in range(count)]


def to_expression(steps: Sequence[Step]) -> str:
    """Return the operations as one expression in x, without redundant parentheses."""
    text = "x"
    for before, step in zip([None, *steps], steps, strict=False):
        # A product binds tighter than the sum before it.
        if before and before.verb != "multiply" and step.verb == "multiply":
            text = f"({text})"
        text += f" {SIGNS[step.verb]} {step.number}"
    return text


def to_one_line(steps: Sequence[Step]) -> str:
    """Return the operations as a function on one line."""
    return f"def f(x): return {to_expression(steps)}"


def parse_code(code: str) -> list[Step]:
    """Parse the operations in code of `to_one_line`; return an empty list for other code."""
    verbs = {ast.Add: "add", ast.Sub: "subtract", ast.Mult: "multiply"}
    try:
        node: ast.expr = ast.parse(code.rpartition("return ")[2], mode="eval").body
    except SyntaxError:
        return []
    steps = list[Step]()
    while isinstance(node, ast.BinOp) and isinstance(node.right, ast.Constant) and type(node.op) in verbs:
        # The last operation is the outermost node.
        steps.insert(0, Step(verbs[type(node.op)], int(str(node.right.value))))
        node = node.left
    return steps


def evaluate_on_inputs(code: str) -> str:
    """Return the values of a one-variable function on `INPUTS`, as text: `f: 2 5 8 ...`.

    Nothing is executed: a response is untrusted text. Assignments, a return and + - * are interpreted here.

    Raises:
        ValueError: the code is not a single function of that kind.
        SyntaxError: the code is not valid Python.
    """
    # Bounds on length and values keep deep nesting and huge numbers of a response from stalling the grader.
    if len(code) > LONGEST_CODE:
        raise ValueError("too long")
    match ast.parse(code.strip()).body:
        case [ast.FunctionDef(args=ast.arguments(args=[ast.arg(arg=variable)]), body=body)]:
            return " ".join(["f:", *(str(run_body(body, {variable: value})) for value in INPUTS)])
    raise ValueError("not one function of one variable")


def run_body(body: Sequence[ast.stmt], values: dict[str, int]) -> int:
    """Return the value of a function body, given the values of its variables."""
    for statement in body:
        match statement:
            case ast.Return(value=ast.expr() as value):
                return evaluate(value, values)
            case ast.Assign(targets=[ast.Name(id=name)], value=value):
                values[name] = evaluate(value, values)
            case ast.AugAssign(target=ast.Name(id=name) as target, op=op, value=value):
                left = ast.Name(id=name, ctx=ast.Load())
                values[name] = evaluate(ast.BinOp(left=ast.copy_location(left, target), op=op, right=value), values)
            case _:
                raise ValueError("a line that is neither an assignment nor a return")
    raise ValueError("nothing is returned")


def evaluate(node: ast.expr, values: dict[str, int]) -> int:
    """Return the value of an expression of integers, variables and + - *."""
    match node:
        case ast.Constant(value=int() as number) if not isinstance(number, bool):  # True is an int in Python
            return number
        case ast.Name(id=name) if name in values:
            return values[name]
        case ast.UnaryOp(op=ast.USub(), operand=operand):
            return -evaluate(operand, values)
        case ast.BinOp(left=left, op=op, right=right):
            result = operate(op, evaluate(left, values), evaluate(right, values))
            if abs(result) <= LARGEST_VALUE:
                return result
    raise ValueError("an expression of other things than whole numbers, variables and + - *")


def operate(op: ast.operator, left: int, right: int) -> int:
    """Return the result of one operation."""
    match op:
        case ast.Add():
            return left + right
        case ast.Sub():
            return left - right
        case ast.Mult():
            return left * right
    raise ValueError("an operator that is not + - *")
