"""The context of a conversation as a small line: its path, and where compactions cut it."""

from __future__ import annotations

from dataclasses import dataclass

from app.reports.conversations import Contexts

#: The line's highest and lowest place, of 18 px; it is 100 wide.
_TOP, _BOTTOM = 2.0, 16.5


@dataclass(frozen=True, slots=True)
class Sparkline:
    path: str
    """Of an SVG, 100 wide and 18 high."""
    drops: tuple[float, ...]
    """Where the context was compacted, in percent of the width."""


def sparkline(contexts: Contexts) -> Sparkline | None:
    """None when there is no line to draw."""
    tokens = contexts.tokens
    if len(tokens) < 2:
        return None
    step, largest = 100 / (len(tokens) - 1), max(tokens) or 1
    points = (f"{at * step:.1f} {_BOTTOM - (_BOTTOM - _TOP) * value / largest:.1f}" for at, value in enumerate(tokens))
    return Sparkline(f"M{'L'.join(points)}", tuple(round(at * step, 1) for at in contexts.compactions))
