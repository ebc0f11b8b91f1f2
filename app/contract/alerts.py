"""Alerts as values, and where they are sent."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True)
class AlertTarget:
    """`alerts:` of the channel table."""

    url: str
    secret: str = field(repr=False)
    """Signs the requests, after the Standard Webhooks specification."""


@dataclass(frozen=True, slots=True)
class Alert:
    event: str
    """`channel.down`, `budget.blocked` and so on."""
    text: str
    """One sentence. Chat programs that take `text` show it."""
    data: Mapping[str, Any]
