"""What the exchanges of one turn hand on to the next one."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from app.contract.items import OPAQUE_TYPES, Item
from app.sealing import is_sealed


@dataclass(frozen=True, slots=True)
class Round:
    """One exchange as the next exchange's model reads it."""

    items: Sequence[Item]
    """The model's own items as it wrote them, and behind them a `function_call_output` for each call that the gateway
    answered. The calls have the names that the turn exposes."""
    family: str | None = None
    """The channel family that can read the opaque items; None if there are none."""

    def readable_by(self, family: str) -> Round:
        """The round without what only another family can read."""
        if self.family in (None, family):
            return self
        return replace(self, items=list(_without_secrets(self.items)), family=None)


def _without_secrets(items: Iterable[Item]) -> Iterable[Item]:
    for item in items:
        if item.get("type") not in OPAQUE_TYPES or is_sealed(item.get("encrypted_content")):
            # What the gateway has sealed says itself whose it is.
            yield item
        elif item.get("content") or item.get("summary"):
            yield {name: value for name, value in item.items() if name != "encrypted_content"}
