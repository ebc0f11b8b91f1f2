"""What the tools of the demo server compute: a clock, a calculator, and a search over a text with headings. Pure."""

from __future__ import annotations

import ast
import operator
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import datetime
from typing import NamedTuple
from zoneinfo import ZoneInfo

Number = int | float


def time_in(timezone: str, now: datetime) -> str:
    """`Thursday, 2026-11-26T13:31:05+01:00`. Raises ValueError for an unknown IANA time zone."""
    try:
        there = now.astimezone(ZoneInfo(timezone))
    except (KeyError, ValueError, OSError):
        raise ValueError(f"there is no time zone {timezone!r}; use one such as Europe/Paris") from None
    return f"{there:%A}, {there.isoformat(timespec='seconds')}"


# --- the calculator ---------------------------------------------------------------------------------------------

_LONGEST_EXPRESSION = 200
#: Of a whole number. Powers grow faster than anybody wants to wait.
_MOST_BITS = 4096
_BINARY: Mapping[type[ast.operator], Callable[[Number, Number], Number]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv,
    ast.Mod: operator.mod,
    ast.Pow: lambda base, exponent: _power(base, exponent),
}
_UNARY: Mapping[type[ast.unaryop], Callable[[Number], Number]] = {ast.UAdd: operator.pos, ast.USub: operator.neg}


def calculated(expression: str) -> Number:
    """The value of an expression of numbers, parentheses and + - * / // % **. Raises ValueError."""
    if len(expression) > _LONGEST_EXPRESSION:
        raise ValueError(f"the expression is longer than {_LONGEST_EXPRESSION} characters")
    try:
        return _value(ast.parse(expression.strip(), mode="eval").body)
    except SyntaxError:
        raise ValueError("this is no expression of numbers, parentheses and + - * / // % **") from None
    except ZeroDivisionError:
        raise ValueError("it divides by zero") from None
    except OverflowError:
        raise ValueError("the result is too large") from None


def _value(node: ast.expr) -> Number:
    match node:
        case ast.Constant(value=int() | float() as number) if not isinstance(number, bool):
            return number
        case ast.UnaryOp(op=sign, operand=operand) if type(sign) in _UNARY:
            return _UNARY[type(sign)](_value(operand))
        case ast.BinOp(left=left, op=op, right=right) if type(op) in _BINARY:
            return _bounded(_BINARY[type(op)](_value(left), _value(right)))
    raise ValueError("only numbers, parentheses and + - * / // % ** are understood")


def _power(base: Number, exponent: Number) -> Number:
    if isinstance(base, int) and abs(exponent) * base.bit_length() > _MOST_BITS:
        raise OverflowError
    result = base**exponent
    if isinstance(result, complex):
        raise ValueError("the result is no real number")
    return result


def _bounded(result: Number) -> Number:
    if isinstance(result, int) and result.bit_length() > _MOST_BITS:
        raise OverflowError
    return result


# --- the search -------------------------------------------------------------------------------------------------

_MOST_RESULTS = 3
_LONGEST_RESULT = 1500
#: How much more a word of the heading says than a word of the text.
_HEADING_WEIGHT = 5


class Section(NamedTuple):
    title: str
    text: str

    @property
    def anchor(self) -> str:
        """As GitHub makes it."""
        return re.sub(r"[^\w\- ]", "", self.title.lower()).replace(" ", "-")


def sections(text: str) -> Iterator[Section]:
    """The sections of a text in Markdown, by its headings. What looks like one in a code block is none."""
    title, lines, is_code = "", list[str](), False
    for line in text.splitlines():
        is_code ^= line.startswith("```")
        if line.startswith("#") and not is_code:
            yield Section(title, "\n".join(lines).strip())
            title, lines = line.lstrip("# ").strip(), []
        else:
            lines.append(line)
    yield Section(title, "\n".join(lines).strip())


def found(query: str, known: Sequence[Section]) -> Sequence[tuple[float, Section]]:
    """The sections that say most of the query's words, the best first, each with its score up to 1."""
    words = set(_words(query))
    scored = [(_score(words, section), section) for section in known if section.text]
    best = sorted((one for one in scored if one[0] > 0), key=lambda one: -one[0])[:_MOST_RESULTS]
    return [(round(score, 2), section._replace(text=section.text[:_LONGEST_RESULT])) for score, section in best]


def _score(words: set[str], section: Section) -> float:
    if not words:
        return 0.0
    title, text = _words(section.title), _words(section.text)
    shares = (_HEADING_WEIGHT * title.count(word) + text.count(word) for word in words)
    return sum(count / (count + _HEADING_WEIGHT) for count in shares) / len(words)


def _words(text: str) -> list[str]:
    """In lower case, without the plural's s."""
    return [word.rstrip("s") for word in re.findall(r"\w+", text.lower()) if len(word) > 1]
