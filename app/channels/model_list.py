"""The list of models: literal names at once, globs from the upstream's own list."""

from __future__ import annotations

from collections.abc import Collection
from fnmatch import fnmatchcase
from typing import Any

from app.channels.model_facts import KnownFacts
from app.channels.selection import Channels
from app.channels.surfaces import SURFACES
from app.channels.table import Table
from app.channels.upstream_lists import UpstreamLists
from app.contract.channel import Channel

#: The facts that an entry shows, if they are known.
_SHOWN = ("context_window", "max_output_tokens", "modalities")


class ModelList:
    def __init__(self, channels: Channels, lists: UpstreamLists, facts: KnownFacts) -> None:
        self._channels = channels
        self._lists = lists
        self._facts = facts

    def models(self, tags: Collection[str] | None = ()) -> list[dict[str, Any]]:
        """OpenAI's model objects, by name, of the channels with one of these tags; see `Affinity`. It never waits: the
        list of an upstream is missing until it was fetched."""
        table = self._channels.table.tagged(tags)
        owners: dict[str, str] = {}
        for channel in _enabled(table):
            for name in (*channel.models, *self._matching(channel)):
                owners.setdefault(name, channel.name)
        return [self._model(name, owners[name], table) for name in sorted(owners)]

    def prefetch(self) -> None:
        """Fetches the lists of all upstreams, so that the first listing is complete."""
        for channel in _enabled(self._channels.table):
            self._lists.of(channel)

    def _matching(self, channel: Channel) -> list[str]:
        """The names in the upstream's list, if it was fetched, that match a glob of the channel."""
        if not channel.globs:
            return []
        names = self._lists.of(channel).names
        return [name for name in names if any(fnmatchcase(name, glob) for glob in channel.globs)]

    def _model(self, name: str, owner: str, table: Table) -> dict[str, Any]:
        facts = self._facts.facts(name)
        serving = table.serving(name)
        return {
            "id": name,
            "object": "model",
            "created": 0,
            "owned_by": owner,
            "supported_endpoints": [surface.path for surface in SURFACES if any(map(surface.serves, serving))],
            **{key: value for key in _SHOWN if (value := getattr(facts, key)) is not None},
        }


def _enabled(table: Table) -> list[Channel]:
    return [channel for channel in table.channels if channel.enabled]
