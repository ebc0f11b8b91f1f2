"""The lists of models that the upstreams of the channels answer with: fetched in the background, kept for minutes. A
caller never waits for an upstream.
"""

from __future__ import annotations

import logging
import threading
from contextlib import closing
from time import monotonic

from app import formats
from app.channels.listed_models import ListedModels, read_list
from app.channels.selection import Channels
from app.contract.channel import Channel
from app.errors import UpstreamError

log = logging.getLogger(__name__)

_REFRESH_SECONDS = 300.0


class UpstreamLists:
    """One a process. Every method may be called from any thread."""

    def __init__(self, channels: Channels) -> None:
        self._channels = channels
        self._lock = threading.Lock()
        self._fetched: dict[str, tuple[float, ListedModels]] = {}
        self._fetching: set[str] = set()

    def of(self, channel: Channel) -> ListedModels:
        """The newest list of the channel's upstream; an empty one until the first was fetched."""
        if channel.base_url is None:
            return ListedModels()
        at, listed = self._fetched.get(channel.name, (None, ListedModels()))
        if at is None or monotonic() - at > _REFRESH_SECONDS:
            self._fetch_soon(channel)
        return listed

    def _fetch_soon(self, channel: Channel) -> None:
        with self._lock:
            if channel.name in self._fetching:
                return
            self._fetching.add(channel.name)
        threading.Thread(target=self._fetch, args=(channel,), name=f"models-{channel.name}", daemon=True).start()

    def _fetch(self, channel: Channel) -> None:
        listed = self._fetched.get(channel.name, (0.0, ListedModels()))[1]
        try:
            listed = self._ask(channel)
        except UpstreamError as error:
            # Only globs need the list; many servers have none.
            level = logging.WARNING if channel.globs else logging.INFO
            log.log(level, "channel %s did not list its models: %s", channel.name, error.message)
        finally:
            with self._lock:
                self._fetched[channel.name] = (monotonic(), listed)
                self._fetching.discard(channel.name)

    def _ask(self, channel: Channel) -> ListedModels:
        listed = self._get(channel, formats.list_path(channel.format))
        if listed.further is None:
            return listed
        try:
            return listed.with_facts(self._get(channel, listed.further))
        except UpstreamError as error:
            log.info("channel %s did not tell its windows: %s", channel.name, error.message)
            return listed

    def _get(self, channel: Channel, path: str) -> ListedModels:
        with closing(self._channels.selected(channel, "").get(path)) as exchange:
            return read_list(exchange.read())
