"""The list of models: literal names at once, globs from the upstream's own list, fetched in the background."""

from __future__ import annotations

import logging
import threading
from collections.abc import Mapping
from contextlib import closing
from fnmatch import fnmatchcase
from time import monotonic
from typing import Any

import orjson

from app.channels.selection import Channels
from app.channels.surfaces import SURFACES
from app.channels.table import Table
from app.contract.channel import Channel
from app.errors import UpstreamError

log = logging.getLogger(__name__)

_REFRESH_SECONDS = 300.0


class ModelList:
    def __init__(self, channels: Channels) -> None:
        self._channels = channels
        self._lock = threading.Lock()
        self._fetched: dict[str, tuple[float, tuple[str, ...]]] = {}
        self._fetching: set[str] = set()

    def models(self) -> list[dict[str, Any]]:
        """OpenAI's model objects, by name. It never waits: the list of an upstream is missing until it was fetched."""
        table = self._channels.table
        owners: dict[str, str] = {}
        for channel in _enabled(table):
            for name in (*channel.models, *self._matching(channel)):
                owners.setdefault(name, channel.name)
        return [_model(name, owners[name], table) for name in sorted(owners)]

    def prefetch(self) -> None:
        """Fetches the lists of all upstreams with globs, so that the first listing is complete."""
        for channel in _enabled(self._channels.table):
            self._matching(channel)

    def _matching(self, channel: Channel) -> list[str]:
        """The names in the upstream's list, if it was fetched, that match a glob of the channel."""
        if not channel.globs or channel.base_url is None:
            return []
        at, names = self._fetched.get(channel.name, (None, ()))
        if at is None or monotonic() - at > _REFRESH_SECONDS:
            self._fetch_soon(channel)
        return [name for name in names if any(fnmatchcase(name, glob) for glob in channel.globs)]

    def _fetch_soon(self, channel: Channel) -> None:
        with self._lock:
            if channel.name in self._fetching:
                return
            self._fetching.add(channel.name)
        threading.Thread(target=self._fetch, args=(channel,), name=f"models-{channel.name}", daemon=True).start()

    def _fetch(self, channel: Channel) -> None:
        names: tuple[str, ...] = self._fetched.get(channel.name, (0.0, ()))[1]
        try:
            with closing(self._channels.selected(channel, "").get("/models")) as exchange:
                names = _names(exchange.read())
        except UpstreamError as error:
            log.warning("channel %s did not list its models: %s", channel.name, error.message)
        finally:
            with self._lock:
                self._fetched[channel.name] = (monotonic(), names)
                self._fetching.discard(channel.name)


def _names(body: bytes) -> tuple[str, ...]:
    try:
        listing = orjson.loads(body)
    except ValueError:
        return ()
    data = listing.get("data") if isinstance(listing, dict) else None
    entries = data if isinstance(data, list) else []
    return tuple(entry["id"] for entry in entries if isinstance(entry, dict) and isinstance(entry.get("id"), str))


def _enabled(table: Table) -> list[Channel]:
    return [channel for channel in table.channels if channel.enabled]


def _model(name: str, owner: str, table: Table) -> dict[str, Any]:
    facts: Mapping[str, Any] = table.models.get(name, {})
    serving = table.serving(name)
    known = {key: facts[key] for key in ("context_window", "max_output_tokens") if key in facts}
    return {
        "id": name,
        "object": "model",
        "created": 0,
        "owned_by": owner,
        "supported_endpoints": [surface.path for surface in SURFACES if any(map(surface.serves, serving))],
        **known,
    }
