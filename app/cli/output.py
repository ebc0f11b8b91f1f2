"""Tables for people: columns as wide as what stands in them, numbers to the right. Programs are given JSON instead."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

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


def _line(cells: Sequence[str], widths: Sequence[int], right: Sequence[bool]) -> str:
    aligned = (
        cell.rjust(width) if to_right else cell.ljust(width)
        for cell, width, to_right in zip(cells, widths, right, strict=True)
    )
    return _GAP.join(aligned).rstrip()


def _cell(value: object) -> str:
    if value is None or value == "":
        return "-"
    return f"{value:,}" if isinstance(value, int) else str(value)
