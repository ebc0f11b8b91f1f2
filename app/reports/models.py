"""The models of the channel table, and the channels that serve each."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from typing import Any

from app.channels.table import Table
from app.contract.channel import Channel
from app.contract.records import Token


@dataclass(frozen=True, slots=True)
class ModelReport:
    """A model's name or a glob, as the table has it. The limits are None when the table does not state them."""

    name: str
    channels: tuple[Channel, ...]
    """Highest priority first."""
    context_window: int | None
    max_output_tokens: int | None

    def wire(self) -> dict[str, Any]:
        return {
            "id": self.name,
            "glob": any(self.name in channel.globs for channel in self.channels),
            "channels": [channel.name for channel in self.channels],
            "context_window": self.context_window,
            "max_output_tokens": self.max_output_tokens,
        }


def model_reports(table: Table) -> list[ModelReport]:
    """By name."""
    return [_report(table, name, channels) for name, channels in sorted(_channels_by_model(table).items())]


def model_names(table: Table, token: Token) -> list[str]:
    """The names that the table states and the token may use, those of the preferred channels first."""
    ranked = sorted(table.tagged(token.limits.tags).channels, key=lambda channel: -channel.priority)
    stated = (name for channel in ranked if channel.enabled for name in channel.models)
    return [name for name in dict.fromkeys(stated) if token.may_use(name)]


def _report(table: Table, name: str, channels: list[Channel]) -> ModelReport:
    facts = table.facts(name)
    return ModelReport(name, tuple(channels), facts.context_window, facts.max_output_tokens)


def _channels_by_model(table: Table) -> dict[str, list[Channel]]:
    served: defaultdict[str, list[Channel]] = defaultdict(list)
    for channel in sorted(table.channels, key=lambda channel: -channel.priority):
        if channel.enabled:
            for name in (*channel.models, *channel.globs):
                served[name].append(channel)
    return served
