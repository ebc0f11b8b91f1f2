"""Tables for people: columns as wide as their longest cell, numbers to the right. Programs use JSON instead."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import UTC, datetime

#: The gap between two columns.
_GAP = "  "
_SHOWN = 4


def table(head: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """The head and the rows, one line each. None and an empty text are shown as `-`."""
    body = [list(row) for row in rows]
    columns = list(zip(*body, strict=True)) or [()] * len(head)
    right = [{type(cell) for cell in column} - {type(None)} == {int} for column in columns]
    shown = [list(head), *([_cell(cell) for cell in row] for row in body)]
    widths = [max(map(len, column)) for column in zip(*shown, strict=True)]
    return "\n".join(_line(row, widths, right) for row in shown)


def some(names: Iterable[str]) -> str:
    """The first few names, and the number of the others: `a, b, c, d +2`."""
    every = list(names)
    rest = len(every) - _SHOWN
    return ", ".join(every[:_SHOWN]) + (f" +{rest}" if rest > 0 else "")


def pairs(rows: Iterable[tuple[str, object]]) -> str:
    """One line for a name and its value; a value of several lines is aligned below its first."""
    shown = [(plain(name), [plain(line) for line in _text(value).splitlines()]) for name, value in rows]
    width = max((len(name) for name, _ in shown), default=0)
    return "\n".join(
        f"{label.ljust(width)}{_GAP}{line}".rstrip()
        for name, lines in shown
        for label, line in zip([name, *[""] * len(lines)], lines, strict=False)
    )


def counted(count: int, noun: str) -> str:
    """`1 token`, `2 tokens`."""
    return f"{count:,} {noun}" if count == 1 else f"{count:,} {noun}s"


def percent(share: float | None) -> str | None:
    """A share from 0 to 1 as `87 %`. What is not all is never shown as 100 %."""
    return None if share is None else f"{int(share * 100)} %"


def moment(seconds: int | None) -> str | None:
    """Unix seconds as a date and time in UTC, to the minute."""
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M") if seconds else None


def clipped(text: str, width: int) -> str:
    """The text on one line, cut to `width` characters."""
    line = " ".join(plain(text[: 2 * width]).split())
    return line if len(line) <= width and len(text) <= 2 * width else f"{line[: width - 1]}…"


def _line(cells: Sequence[str], widths: Sequence[int], right: Sequence[bool]) -> str:
    aligned = (
        cell.rjust(width) if to_right else cell.ljust(width)
        for cell, width, to_right in zip(cells, widths, right, strict=True)
    )
    return _GAP.join(aligned).rstrip()


def plain(text: str) -> str:
    """Replaces control characters, which a terminal would obey: clients and upstreams wrote much of the text."""
    return text if text.isprintable() else "".join(letter if letter.isprintable() else " " for letter in text)


def _cell(value: object) -> str:
    return plain(_text(value))


def _text(value: object) -> str:
    if value is None or value == "":
        return "-"
    return f"{value:,}" if isinstance(value, int) else str(value)
