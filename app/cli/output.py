"""Tables for people: columns as wide as what stands in them, numbers to the right. Programs are given JSON instead."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import UTC, datetime

#: Between two columns.
_GAP = "  "
_SHOWN = 4


def table(head: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """The rows under their head, each a line. None is shown as `-`."""
    body = [list(row) for row in rows]
    columns = list(zip(*body, strict=True)) or [()] * len(head)
    right = [{type(cell) for cell in column} - {type(None)} == {int} for column in columns]
    shown = [list(head), *([_cell(cell) for cell in row] for row in body)]
    widths = [max(map(len, column)) for column in zip(*shown, strict=True)]
    return "\n".join(_line(row, widths, right) for row in shown)


def some(names: Iterable[str]) -> str:
    """The first of many names, and how many there are beside them."""
    every = list(names)
    rest = len(every) - _SHOWN
    return ", ".join(every[:_SHOWN]) + (f" +{rest}" if rest > 0 else "")


def pairs(rows: Iterable[tuple[str, object]]) -> str:
    """Names with what stands under them, which may be of several lines."""
    shown = [(plain(name), [plain(line) for line in _text(value).splitlines()]) for name, value in rows]
    width = max((len(name) for name, _ in shown), default=0)
    return "\n".join(
        f"{label.ljust(width)}{_GAP}{line}".rstrip()
        for name, lines in shown
        for label, line in zip([name, *[""] * len(lines)], lines, strict=False)
    )


def moment(seconds: int | None) -> str | None:
    """In UTC, to the minute."""
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M") if seconds else None


def clipped(text: str, width: int) -> str:
    """On one line, the end left out where it is longer."""
    line = " ".join(plain(text[: 2 * width]).split())
    return line if len(line) <= width and len(text) <= 2 * width else f"{line[: width - 1]}…"


def _line(cells: Sequence[str], widths: Sequence[int], right: Sequence[bool]) -> str:
    aligned = (
        cell.rjust(width) if to_right else cell.ljust(width)
        for cell, width, to_right in zip(cells, widths, right, strict=True)
    )
    return _GAP.join(aligned).rstrip()


def plain(text: str) -> str:
    """Without what a terminal would obey: much of what is shown was written by clients and upstreams."""
    return text if text.isprintable() else "".join(letter if letter.isprintable() else " " for letter in text)


def _cell(value: object) -> str:
    return plain(_text(value))


def _text(value: object) -> str:
    if value is None or value == "":
        return "-"
    return f"{value:,}" if isinstance(value, int) else str(value)
