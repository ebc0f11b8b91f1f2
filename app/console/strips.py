"""The strip of a channel's outcomes: a day in bars of five minutes, as four SVG paths in a box of 288 by 34."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from app.reports.channel_overview import Outcomes

#: The line that answers stand on, the height of the highest ones, and the least that can be seen.
_LINE, _HIGH, _LEAST = 21.0, 20.0, 1.5
#: Where failures begin below it, and how deep the most of them reach.
_BELOW, _DEEP = 22.5, 8.0
_FOOT, _FOOT_HIGH = 31, 3


class Strip(NamedTuple):
    """Each is the `d` of a path."""

    none: str
    """Where nothing was asked."""
    ok: str
    bad: str
    cool: str


def strip_of(outcomes: Outcomes) -> Strip:
    asked = [answered + errors for answered, errors in zip(outcomes.answered, outcomes.errors, strict=True)]
    return Strip(
        none="".join(_silences(asked)) or "M0 0",
        ok="".join(_answers(outcomes.answered)) or "M0 0",
        bad="".join(_errors(outcomes.errors)) or "M0 0",
        cool="".join(
            f"M{place} {_FOOT}h1v{_FOOT_HIGH}h-1z" for place, is_cool in enumerate(outcomes.in_cooldown) if is_cool
        )
        or "M0 0",
    )


def _answers(counts: Sequence[int]) -> Iterator[str]:
    most = max(counts, default=0)
    for place, count in enumerate(counts):
        if count:
            height = _number(max(_LEAST, _HIGH * count / most))
            top = _number(_LINE - float(height))
            yield f"M{_number(place + 0.1)} {top}h.8v{height}h-.8z"


def _errors(counts: Sequence[int]) -> Iterator[str]:
    most = max(counts, default=0)
    for place, count in enumerate(counts):
        if count:
            yield f"M{place} {_BELOW}h1v{_number(max(2 * _LEAST, _DEEP * count / most))}h-1z"


def _silences(asked: Sequence[int]) -> Iterator[str]:
    """One bar for each stretch of at least an hour in which nothing was asked."""
    begin = 0
    for place in range(len(asked) + 1):
        if place == len(asked) or asked[place]:
            if place - begin >= 12:
                yield f"M{begin} 1h{place - begin}v{_number(_LINE - 1)}h-{place - begin}z"
            begin = place + 1


def _number(value: float) -> str:
    return f"{value:.1f}".removesuffix(".0")
