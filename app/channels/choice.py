"""Which channel next: those that serve the model, the preferred first, the resting and the full ones left out.

State is this process's own: how many requests a channel has in flight, how often it failed in a row, until when it
rests. Nothing here knows what is asked of a channel, only how it went.
"""

from __future__ import annotations

import logging
import random
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from time import monotonic
from types import TracebackType

from app import formats
from app.channels.endpoints import CHAT, RESPONSES, Endpoint
from app.channels.table import Channel, Compaction, Table
from app.channels.upstream import Exchange, LocalExchange, Upstream, Watch
from app.channels.watch import WatchedTable
from app.errors import (
    ChannelsBusy,
    UpstreamDenied,
    UpstreamError,
    UpstreamLimited,
)
from app.formats import Format
from app.records import ChannelStatus

log = logging.getLogger(__name__)

MAX_TRIES = 3
MAX_REST = 300.0
_POLL_SECONDS = 1.0
_EXHAUSTED_REST = 60.0

#: What the log says of the paths that do not speak for themselves.
_PATHS = {"bytes": "relayed as bytes"}

#: Retries may add a fifth to the load, and a few more than that when there is little of it.
_RETRY_SHARE = 0.2
_RETRY_RESERVE = 10.0


#: How much of what is asked a channel would leave out.
Loss = Callable[[Channel, Format], int]


@dataclass(slots=True)
class Health:
    """How one channel has fared lately."""

    in_flight: int = 0
    failures: int = 0
    rests: int = 0
    resting_until: float = 0.0
    on_trial: bool = False
    last_error: str | None = None
    path: str = ""

    def status(self, name: str, now: float) -> ChannelStatus:
        return ChannelStatus(
            name=name,
            in_flight=self.in_flight,
            failures=self.failures,
            rests=self.rests,
            resting=max(0.0, self.resting_until - now),
            on_trial=self.on_trial,
            last_error=self.last_error,
            path=self.path,
        )


@dataclass(slots=True)
class RetryBudget:
    """Every request pays a share in, every second try takes one out."""

    balance: float = _RETRY_RESERVE
    lock: threading.Lock = field(default_factory=threading.Lock)

    def pay(self) -> None:
        with self.lock:
            self.balance = min(_RETRY_RESERVE, self.balance + _RETRY_SHARE)

    def take(self) -> bool:
        with self.lock:
            if self.balance < 1:
                return False
            self.balance -= 1
            return True


class Channels:
    """The channel table at work in this process."""

    def __init__(self, watched: WatchedTable, connections: int, clock: Callable[[], float] = monotonic) -> None:
        self._watched = watched
        self._connections = connections
        self._clock = clock
        self._lock = threading.Lock()
        self._polled = clock()
        self._health: dict[str, Health] = {}
        self._upstreams: dict[str, tuple[Channel, Upstream]] = {}
        self._budget = RetryBudget()

    @property
    def table(self) -> Table:
        """The table as the file has it now; looked at once a second, never waited for."""
        now = self._clock()
        if now - self._polled >= _POLL_SECONDS and self._lock.acquire(blocking=False):
            try:
                self._polled = now
                self._watched.poll()
            finally:
                self._lock.release()
        return self._watched.current

    def choices(self, model: str, prefer: str | None = None, loss: Loss | None = None) -> Iterator[Choice]:
        """The channels to try for a model, one after the other; each is to be used in a `with`. Those that leave less
        out of the turn come first.

        Raises, before the first is given: InvalidRequest for a model nobody serves, FormatNotServed when none of its
        channels can, ChannelsBusy when all are full or resting. Ends early when the retry budget is spent.
        """
        able = self._able(model, RESPONSES)
        self._budget.pay()
        if loss is None or len(able) == 1:
            return self._tries(model, _ordered(able, prefer))
        losses = {channel.name: loss(channel, formats.load(channel.format)) for channel in able}
        return self._tries(model, sorted(_ordered(able, prefer), key=lambda channel: losses[channel.name]))

    def chat_choices(self, model: str) -> Iterator[Choice]:
        """The same for a chat completion that is passed on as it is."""
        able = self._able(model, CHAT)
        self._budget.pay()
        return self._tries(model, _ordered(able, None))

    @property
    def compaction(self) -> Compaction:
        return self.table.compaction

    def usable(self) -> list[Channel]:
        """Channels that could take a request now."""
        return [channel for channel in self.table.channels if self._available(channel)]

    def statuses(self) -> tuple[ChannelStatus, ...]:
        """How the channels that were looked at fare in this process, in the table's order."""
        now = self._clock()
        return tuple(
            self._health[channel.name].status(channel.name, now)
            for channel in self.table.channels
            if channel.name in self._health
        )

    def choice(self, channel: Channel, model: str) -> Choice:
        """This very channel, however it fares."""
        return Choice(self, channel, channel.upstream_model(model) or model, self._health_of(channel))

    def upstream(self, channel: Channel) -> Upstream:
        """The connections of this very row; a row that was changed gets new ones."""
        with self._lock:
            row, upstream = self._upstreams.get(channel.name, (None, None))
            if upstream is None or row != channel:
                if upstream is not None:
                    upstream.close()
                upstream = Upstream(channel, self._connections)
                self._upstreams[channel.name] = (channel, upstream)
        return upstream

    def close(self) -> None:
        with self._lock:
            for _, upstream in self._upstreams.values():
                upstream.close()
            self._upstreams.clear()

    def _able(self, model: str, endpoint: Endpoint) -> list[Channel]:
        table = self.table
        serving = table.serving(model)
        if not serving:
            raise endpoint.unknown(model, table.nearest(model))
        able = [channel for channel in serving if endpoint.serves(channel)]
        if not able:
            raise endpoint.not_served(model, serving)
        return able

    def _tries(self, model: str, ordered: Sequence[Channel]) -> Iterator[Choice]:
        tries = 0
        for channel in ordered:
            if tries == MAX_TRIES or not self._available(channel):
                continue
            if tries and not self._budget.take():
                return
            tries += 1
            yield self.choice(channel, model)
        if not tries:
            raise self._busy(model, ordered)

    def _available(self, channel: Channel) -> bool:
        health = self._health_of(channel)
        if channel.max_concurrency is not None and health.in_flight >= channel.max_concurrency:
            return False
        # After a rest one request at a time is let through until one has gone well.
        return health.resting_until <= self._clock() and not (health.on_trial and health.in_flight)

    def _busy(self, model: str, channels: Sequence[Channel]) -> ChannelsBusy:
        now = self._clock()
        states = [(channel, self._health_of(channel)) for channel in channels]
        waits = [health.resting_until - now for _, health in states if health.resting_until > now]
        reasons = ", ".join(
            f"{channel.name}: {health.last_error or 'failed'}"
            if health.resting_until > now
            else f"{channel.name}: full"
            for channel, health in states
        )
        wait = min(waits) if len(waits) == len(states) else 1.0
        return ChannelsBusy(
            f"All channels that serve the model '{model}' are busy or resting ({reasons}). Please try again later.",
            retry_after=max(1.0, wait),
        )

    def _health_of(self, channel: Channel) -> Health:
        return self._health.setdefault(channel.name, Health())

    def enter(self, health: Health) -> None:
        with self._lock:
            health.in_flight += 1

    def leave(self, health: Health) -> None:
        with self._lock:
            health.in_flight -= 1

    def succeeded(self, health: Health) -> None:
        if health.failures or health.rests or health.on_trial:
            with self._lock:
                health.failures = health.rests = 0
                health.on_trial = False
                health.last_error = None

    def took(self, channel: Channel, health: Health, path: str) -> None:
        if path and path != health.path:
            health.path = path
            log.info("channel %s: its streams are %s", channel.name, _PATHS.get(path, path))

    def failed(self, channel: Channel, health: Health, error: UpstreamError) -> None:
        if not error.counts:
            return
        with self._lock:
            health.failures += 1
            health.last_error = error.code
            seconds = _rest(channel, health, error)
            if seconds:
                health.resting_until = self._clock() + seconds
                health.rests += 1
                health.failures = 0
                health.on_trial = True


class Choice:
    """One channel, chosen for one try. Entering it takes a place in the channel, leaving gives it back."""

    def __init__(self, channels: Channels, channel: Channel, model: str, health: Health) -> None:
        self.channel = channel
        self.model = model
        self.format = formats.load(channel.format)
        self._channels = channels
        self._health = health

    def __enter__(self) -> Choice:
        self._channels.enter(self._health)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._channels.leave(self._health)

    def post(self, path: str, body: bytes, *, accept: str, watch: Watch | None) -> Exchange:
        """Raises UpstreamError when there is no answer at all; a refusal comes as the exchange's status."""
        if self.channel.base_url is None:
            return LocalExchange(*formats.serving(self.channel.format).serve(path, body))
        return self._channels.upstream(self.channel).post(path, body, accept=accept, watch=watch)

    def succeeded(self) -> None:
        self._channels.succeeded(self._health)

    def took(self, path: str) -> None:
        """How its stream was read: `bytes`, `repaired`, `translated`; empty when there was none to read."""
        self._channels.took(self.channel, self._health, path)

    def failed(self, error: UpstreamError) -> None:
        log.info("channel %s failed: %s %s", self.channel.name, error.code, error.message)
        self._channels.failed(self.channel, self._health, error)


def _ordered(channels: Sequence[Channel], prefer: str | None) -> list[Channel]:
    """By priority, higher first; among equals the preferred one, then a draw by weight."""
    return sorted(channels, key=lambda channel: (-channel.priority, channel.name != prefer, -_draw(channel.weight)))


def _draw(weight: int) -> float:
    """Sorting by these gives each its share of first places (Efraimidis and Spirakis)."""
    return float(random.random() ** (1 / weight)) if weight else -1.0  # noqa: S311 - a share of load, not a secret


def _rest(channel: Channel, health: Health, error: UpstreamError) -> float:
    """Seconds for which the channel rests after this failure, 0 for not at all."""
    if isinstance(error, UpstreamLimited):
        if error.exhausted:
            return _EXHAUSTED_REST
        if error.retry_after:
            return error.retry_after
    if isinstance(error, UpstreamDenied) or health.failures >= channel.cooldown.after:
        return min(channel.cooldown.seconds * (health.rests + 1), MAX_REST)
    return 0.0
