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
    UpstreamLoading,
    UpstreamRefused,
)
from app.formats import Format
from app.memory import Budget
from app.records import ChannelStatus

log = logging.getLogger(__name__)

MAX_TRIES = 3
MAX_REST = 300.0
_POLL_SECONDS = 1.0
_EXHAUSTED_REST = 60.0

#: Seconds between two requests to a channel that is in cooldown while no other is left, or that loads its model.
_TRIAL_EVERY = 1.0
#: Seconds for which one owner's success shows that a channel works, whatever another owner's requests come to.
_PROOF = 60.0
#: Seconds after which those who wait for a model to be loaded look again.
_GLANCE = 0.2

#: Retries may add a fifth to the load, and a few more than that when there is little of it.
_RETRY_SHARE = 0.2
_RETRY_RESERVE = 10.0


#: How much of what is asked a channel would leave out.
Loss = Callable[[Channel, Format], int]


#: Waits for so many seconds; raises what ends the wait before.
Wait = Callable[[float], None]


@dataclass(slots=True)
class Health:
    """How one channel has fared lately."""

    in_flight: int = 0
    failures: int = 0
    blamed: set[str] = field(default_factory=set)
    """The owners whose requests have failed since it last went well; empty for failures that are the channel's own."""
    rests: int = 0
    resting_until: float = 0.0
    firm_until: float = 0.0
    """No request tries it before: it has said so, or it takes no key of ours."""
    on_trial: bool = False
    trying: bool = False
    """The one request that tries it is under way."""
    tried_at: float = -_TRIAL_EVERY
    loading: bool = False
    """It has said that it loads its model, when it was last asked."""
    last_error: str | None = None
    path: str = ""
    proofs: tuple[tuple[str, float], ...] = ()
    """The last successes of the last two owners: who and when."""

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

    def prove(self, owner: str, now: float) -> None:
        self.proofs = ((owner, now), *[proof for proof in self.proofs if proof[0] != owner][:1])

    def works_for_others(self, now: float) -> bool:
        """All failures are one owner's, and another one was served within the last minute."""
        return (
            len(self.blamed) == 1
            and "" not in self.blamed
            and any(owner not in self.blamed and now - since <= _PROOF for owner, since in self.proofs)
        )

    def end_cooldown(self) -> None:
        self.resting_until = self.firm_until = 0.0
        self.on_trial = self.trying = False


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

    def __init__(
        self,
        watched: WatchedTable,
        connections: int,
        clock: Callable[[], float] = monotonic,
        memory: Budget | None = None,
    ) -> None:
        """`memory`: what answers of upstreams share with all large bodies."""
        self._memory = memory
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

    def choices(
        self,
        model: str,
        prefer: str | None = None,
        loss: Loss | None = None,
        *,
        owner: str = "",
        wait: Wait | None = None,
    ) -> Iterator[Choice]:
        """The channels to try for a model, one after the other; each is to be used in a `with`. Those that leave less
        out of the turn come first. `owner` is who asks; `wait` is how one waits for a model that is being loaded,
        without it there is no waiting.

        Raises, before the first is given: InvalidRequest for a model nobody serves, FormatNotServed when none of its
        channels can, ChannelsBusy when all are full or resting. Ends early when the retry budget is spent.
        """
        able = self._able(model, RESPONSES)
        self._budget.pay()
        if loss is None or len(able) == 1:
            return self._tries(model, _ordered(able, prefer), owner, wait)
        losses = {channel.name: loss(channel, formats.load(channel.format)) for channel in able}
        ordered = sorted(_ordered(able, prefer), key=lambda channel: losses[channel.name])
        return self._tries(model, ordered, owner, wait)

    def chat_choices(self, model: str, *, owner: str = "", wait: Wait | None = None) -> Iterator[Choice]:
        """The same for a chat completion that is passed on as it is."""
        able = self._able(model, CHAT)
        self._budget.pay()
        return self._tries(model, _ordered(able, None), owner, wait)

    @property
    def compaction(self) -> Compaction:
        return self.table.compaction

    def usable(self) -> list[Channel]:
        """Channels that could take a request now."""
        return [channel for channel in self.table.channels if self._may_serve(channel)]

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
                upstream = Upstream(channel, self._connections, self._memory)
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

    def _tries(self, model: str, ordered: Sequence[Channel], owner: str, wait: Wait | None) -> Iterator[Choice]:
        """Those that are well; else the one in cooldown that is due for a trial; then those that load their model."""
        began = self._clock()
        tries, asked = 0, False
        for channel in ordered:
            if tries == MAX_TRIES:
                break
            if tries and not self._may_serve(channel):
                continue
            if tries and not self._budget.take():
                return
            if (choice := self._claim(channel, model, owner, self._may_serve)) is None:
                continue
            asked = True
            yield from _offered(choice)
            # A server that only needs time has not cost an attempt.
            tries += not choice.loads
        if not asked and (choice := self._trial(model, ordered, owner)) is not None:
            asked = True
            yield from _offered(choice)
        if wait is not None:
            for choice in self._until_loaded(model, ordered, owner, began, wait):
                asked = True
                yield from _offered(choice)
        if not asked:
            raise self._busy(model, ordered)

    def _trial(self, model: str, ordered: Sequence[Channel], owner: str) -> Choice | None:
        """When all channels are in cooldown: the one that ends first, or that was not tried for longest."""
        now = self._clock()
        states = [(self._health_of(channel), channel) for channel in ordered]
        if any(health.resting_until <= now or health.trying for health, _ in states):
            return None
        if any(now - health.tried_at < _TRIAL_EVERY for health, _ in states):
            return None
        due = [(health.tried_at, health.resting_until, at) for at, (health, _) in enumerate(states)]
        for _, _, at in sorted(due):
            health, channel = states[at]
            if health.firm_until <= now and (choice := self._claim(channel, model, owner, self._may_be_tried)):
                return choice
        return None

    def _until_loaded(
        self, model: str, ordered: Sequence[Channel], owner: str, began: float, wait: Wait
    ) -> Iterator[Choice]:
        """The channels that load their model, each asked once a second whoever waits, up to its `first_byte`."""
        waiting = [channel for channel in ordered if self._health_of(channel).loading]
        while waiting := [channel for channel in waiting if self._is_waited_for(channel, began)]:
            for channel in tuple(waiting):
                if (choice := self._claim(channel, model, owner, self._may_be_asked_again)) is None:
                    continue
                yield choice
                if not choice.loads:
                    # It has failed in another way.
                    waiting.remove(channel)
            wait(_GLANCE)

    def _is_waited_for(self, channel: Channel, began: float) -> bool:
        health, now = self._health_of(channel), self._clock()
        return now - began < channel.timeouts.first_byte and (health.loading or health.resting_until <= now)

    def _claim(self, channel: Channel, model: str, owner: str, may: Callable[[Channel], bool]) -> Choice | None:
        """A place in the channel, taken at once so that of a burst only one gets the last; None where there is none."""
        health = self._health_of(channel)
        with self._lock:
            if not may(channel):
                return None
            health.in_flight += 1
            tries = health.on_trial or health.resting_until > self._clock()
            if tries or health.loading:
                health.tried_at = self._clock()
            health.trying = health.trying or tries
        return Choice(self, channel, channel.upstream_model(model) or model, health, owner, claimed=True, tries=tries)

    def _may_serve(self, channel: Channel) -> bool:
        health = self._health_of(channel)
        if health.loading and self._clock() - health.tried_at < _TRIAL_EVERY:
            return False
        # After a rest one request at a time is let through until one has gone well.
        return self._has_room(channel) and health.resting_until <= self._clock() and not health.trying

    def _may_be_tried(self, channel: Channel) -> bool:
        health = self._health_of(channel)
        due = self._clock() - health.tried_at >= _TRIAL_EVERY
        return self._has_room(channel) and due and not health.trying

    def _may_be_asked_again(self, channel: Channel) -> bool:
        health = self._health_of(channel)
        if not health.loading:
            return self._may_serve(channel)
        return self._has_room(channel) and self._clock() - health.tried_at >= _TRIAL_EVERY

    def _has_room(self, channel: Channel) -> bool:
        return channel.max_concurrency is None or self._health_of(channel).in_flight < channel.max_concurrency

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
        soon = any(health.firm_until <= now or health.resting_until <= now for _, health in states)
        # One that is in cooldown may be tried within a second.
        wait = 1.0 if soon else min(waits)
        return ChannelsBusy(
            f"All channels that serve the model '{model}' are busy or resting ({reasons}). Please try again later.",
            retry_after=max(1.0, wait),
        )

    def _health_of(self, channel: Channel) -> Health:
        return self._health.setdefault(channel.name, Health())

    def enter(self, health: Health, tries: bool) -> None:
        with self._lock:
            health.in_flight += 1
            if tries and (health.on_trial or health.resting_until > self._clock()):
                health.trying = True

    def leave(self, health: Health, tries: bool) -> None:
        with self._lock:
            health.in_flight -= 1
            if tries:
                health.trying = False

    def accepted(self, health: Health, tries: bool) -> None:
        """The first valid event has come: a trial has succeeded, a model is loaded. How it ends is still to be seen."""
        if health.on_trial or health.trying or health.resting_until or health.loading:
            with self._lock:
                health.loading = False
                # An answer that began before the cooldown does not show that the next one would.
                if tries or health.resting_until <= self._clock():
                    health.end_cooldown()

    def succeeded(self, health: Health, owner: str, tries: bool) -> None:
        self.accepted(health, tries)
        health.prove(owner, self._clock())
        if health.failures or health.rests or health.last_error:
            with self._lock:
                health.failures = health.rests = 0
                health.blamed.clear()
                health.last_error = None

    def took(self, health: Health, path: str) -> None:
        if path:
            health.path = path

    def loads(self, health: Health) -> bool:
        """It is up and loads its model. True when that is news."""
        with self._lock:
            news, health.loading = not health.loading, True
            health.tried_at = self._clock()
            health.end_cooldown()
            return news

    def failed(self, channel: Channel, health: Health, error: UpstreamError, owner: str, tries: bool) -> None:
        if not error.counts:
            return
        with self._lock:
            now = self._clock()
            health.loading = False
            health.last_error = error.name
            firm = _firm(error)
            if tries and health.resting_until > now and not firm:
                # A trial that fails lengthens no cooldown.
                return
            health.failures += 1
            # The empty owner stands for everyone.
            health.blamed.add(owner if error.perhaps_input else "")
            if health.works_for_others(now) and not firm:
                health.failures = min(health.failures, channel.cooldown.after - 1)
            seconds = _rest(channel, health, error)
            if seconds:
                health.resting_until = now + seconds
                health.firm_until = now + (seconds if firm else error.retry_after or 0.0)
                health.tried_at = now - _TRIAL_EVERY
                health.rests += 1
                health.failures = 0
                health.blamed.clear()
                health.on_trial = True


def _offered(choice: Choice) -> Iterator[Choice]:
    """Its place is given back when no one takes it."""
    try:
        yield choice
    finally:
        choice.give_up()


class Choice:
    """One channel, chosen for one try. Entering it takes a place in the channel, leaving gives it back."""

    def __init__(
        self,
        channels: Channels,
        channel: Channel,
        model: str,
        health: Health,
        owner: str = "",
        *,
        claimed: bool = False,
        tries: bool = False,
    ) -> None:
        """`claimed`: its place is taken already. `tries`: it shows whether a cooldown is over."""
        self.channel = channel
        self.model = model
        self.format = formats.load(channel.format)
        self.loads = False
        """It has answered that it loads its model."""
        self._channels = channels
        self._health = health
        self._owner = owner
        self._claimed = claimed
        self._tries = tries

    def __enter__(self) -> Choice:
        if not self._claimed:
            self._channels.enter(self._health, self._tries)
        self._claimed = False
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._channels.leave(self._health, self._tries)

    def give_up(self) -> None:
        """The place that was taken and not used."""
        if self._claimed:
            self._claimed = False
            self._channels.leave(self._health, self._tries)

    def post(self, path: str, body: bytes, *, accept: str, watch: Watch | None) -> Exchange:
        """Raises UpstreamError when there is no answer at all; a refusal comes as the exchange's status."""
        if self.channel.base_url is None:
            return LocalExchange(*formats.serving(self.channel.format).serve(path, body))
        return self._channels.upstream(self.channel).post(path, body, accept=accept, watch=watch)

    def accepted(self) -> None:
        """The first valid event of its answer has come."""
        self._channels.accepted(self._health, self._tries)

    def succeeded(self) -> None:
        self._channels.succeeded(self._health, self._owner, self._tries)

    def took(self, path: str) -> None:
        """How its stream was read: `bytes`, `repaired`, `translated`; empty when there was none to read."""
        self._channels.took(self._health, path)

    def failed(self, error: UpstreamError) -> None:
        self.loads = isinstance(error, UpstreamLoading)
        if not self.loads:
            # The upstream's sentence may quote the prompt: it stands in the row.
            level = logging.INFO if isinstance(error, UpstreamRefused) else logging.WARNING
            log.log(level, "channel %s failed: %s", self.channel.name, _facts(error))
            self._channels.failed(self.channel, self._health, error, self._owner, self._tries)
        elif self._channels.loads(self._health):
            log.warning("channel %s loads its model: %s", self.channel.name, _facts(error))


def _facts(error: UpstreamError) -> str:
    return " ".join(filter(None, (error.name, error.cause)))


def _ordered(channels: Sequence[Channel], prefer: str | None) -> list[Channel]:
    """By priority, higher first; among equals the preferred one, then a draw by weight."""
    return sorted(channels, key=lambda channel: (-channel.priority, channel.name != prefer, -_draw(channel.weight)))


def _draw(weight: int) -> float:
    """Sorting by these gives each its share of first places (Efraimidis and Spirakis)."""
    return float(random.random() ** (1 / weight)) if weight else -1.0  # noqa: S311 - a share of load, not a secret


def _firm(error: UpstreamError) -> bool:
    """No trial may end this cooldown early: the key is not taken, nothing is left, or the upstream named the time."""
    return isinstance(error, UpstreamDenied | UpstreamLimited)


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
