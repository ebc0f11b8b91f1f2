"""Selects the channels for a request: those that serve the model, the preferred one first, without those that are full,
paused or in cooldown.

`app.channels.health` holds the state of each channel.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from secrets import token_bytes
from time import monotonic, time
from types import TracebackType
from typing import Protocol

from app import formats
from app.channels.affinity import Affinity, RecentChannels, rank
from app.channels.health import Health, Need, Place, RetryBudget
from app.channels.pauses import Pauses
from app.channels.remedies import LearntRemedies
from app.channels.slots import UNLIMITED, Slot, Slots
from app.channels.surfaces import PASSTHROUGH, RESPONSES, Surface
from app.channels.table import Table
from app.channels.upstream import Exchange, LocalExchange, Upstream
from app.channels.waiting_line import WaitingLines
from app.channels.watched_table import LastTable
from app.contract.channel import Channel, Compaction
from app.contract.money import cost_of
from app.contract.pauses import RETRY_SECONDS, Pause
from app.contract.records import ChannelStatus
from app.contract.remedies import ROW, Remedy
from app.contract.token_estimate import TILES, ImageRule
from app.contract.tools import not_callable
from app.contract.usage import Usage
from app.errors import ChannelsBusy, UpstreamError, UpstreamLoading, UpstreamRefused
from app.formats import Format
from app.memory import Budget
from app.request_watch import Watch

log = logging.getLogger(__name__)

MAX_ATTEMPTS = 3
_POLL_SECONDS = 1.0

#: Seconds between two checks of a request that waits for a model to be loaded.
_LOADING_POLL_SECONDS = 0.2

#: Makes an error from the status, headers and body of an answer. Each format has its own.
DecodeError = Callable[[int, Mapping[str, str], bytes], UpstreamError]

#: Counts the parts of a request that a channel would leave out.
CountLosses = Callable[[Channel, Format], int]

_NO_CONVERSATION = Affinity()

#: Seconds to wait for a slot in a channel without a queue when an attempt enters it again.
_SLOT_AGAIN_SECONDS = 1.0
#: Seconds between two looks of the request that is first in line: a slot may be freed by another process.
_SLOT_POLL_SECONDS = 0.02


class Wait(Protocol):
    """Waits for so many seconds, or until the descriptor `wake` is readable. Raises the error that ends the wait
    early."""

    def __call__(self, seconds: float, wake: int | None = None) -> None: ...


class Channels:
    """The channels of this process, with their health and connections."""

    def __init__(
        self,
        watched: LastTable,
        connections: int,
        clock: Callable[[], float] = monotonic,
        memory: Budget | None = None,
        remedies: LearntRemedies | None = None,
        slots: Slots | None = None,
        recent: RecentChannels | None = None,
        pauses: Pauses | None = None,
    ) -> None:
        """`memory`: the budget that answers of upstreams share with all large bodies. `slots`: those that all processes
        of the machine share; None for limits of this process alone. `recent`: where conversations
        have moved, in all processes of the machine; None for those of this process. `pauses`: the channels that
        operators have taken out of service; None for none."""
        self.remedies = remedies or LearntRemedies()
        self.pauses = pauses or Pauses()
        self._memory = memory
        self._watched = watched
        self._connections = connections
        self._clock = clock
        self._lock = threading.Lock()
        self._polled = clock()
        self._health: dict[str, Health] = {}
        self._upstreams: dict[str, tuple[Channel, Upstream]] = {}
        self._budget = RetryBudget()
        self._recent = recent or RecentChannels()
        self._slots = slots or Slots(token_bytes())
        self._lines = WaitingLines()

    @property
    def table(self) -> Table:
        """The present table. One caller checks the file once a second; the others do not wait for it."""
        now = self._clock()
        if now - self._polled >= _POLL_SECONDS and self._lock.acquire(blocking=False):
            try:
                self._polled = now
                self._watched.poll()
            finally:
                self._lock.release()
        return self._watched.current

    def select(
        self,
        model: str,
        affinity: Affinity = _NO_CONVERSATION,
        count_losses: CountLosses | None = None,
        *,
        upstream_servers: Sequence[str] = (),
        wait: Wait | None = None,
    ) -> Iterator[SelectedChannel]:
        """The channels to try for a model, one after the other; use each in a `with`. Channels that leave out less of
        the turn come first; among equals, the channel of the conversation. `upstream_servers`: labels of MCP servers
        that the upstream itself has to call. `wait` waits for a model that is being loaded; without it, the selection
        does not wait.

        Raises before the first channel: InvalidRequest for a model that no channel serves, and for MCP servers that
        none of its channels can call; FormatNotServed when none of
        its channels serves this endpoint, ChannelsBusy when all are full, paused or in cooldown. It ends early when the
        retry budget is spent.
        """
        eligible = self._answering(model, upstream_servers, affinity.tags)
        return self._select(eligible, model, affinity, count_losses, wait)

    def check_served(self, model: str, upstream_servers: Sequence[str] = (), tags: Collection[str] | None = ()) -> None:
        """Raises as `select` does for a model and MCP servers that no channel serves, whatever state they are in.
        `tags`: see `Affinity`."""
        self._answering(model, upstream_servers, tags)

    def select_for_passthrough(
        self, path: str, model: str, affinity: Affinity = _NO_CONVERSATION, *, wait: Wait | None = None
    ) -> Iterator[SelectedChannel]:
        """Like `select`, for a request to the passthrough endpoint with this path."""
        return self._select(self._eligible(model, PASSTHROUGH[path], affinity.tags), model, affinity, None, wait)

    def image_rule(self, model: str, tags: Collection[str] | None = ()) -> ImageRule:
        """How the first channel of a model counts images. `tags`: see `Affinity`."""
        serving = self.table.tagged(tags).serving(model)
        return formats.image_rule(serving[0].format) if serving else TILES

    @property
    def compaction(self) -> Compaction:
        return self.table.compaction

    def summary_model(self, model: str, tags: Collection[str] | None) -> str:
        """The model that writes the summary of a conversation with this model: the table's, unless all of its channels
        lie outside of these tags, else the conversation's own."""
        chosen = self.table.compaction.model
        if chosen is None or (self.table.serving(chosen) and not self.table.tagged(tags).serving(chosen)):
            return model
        return chosen

    def usable(self) -> list[Channel]:
        """The channels that could take a request now."""
        return [channel for channel in self.table.channels if self._is_available(channel)]

    def statuses(self) -> tuple[ChannelStatus, ...]:
        """The state in this process of the channels that were considered so far or are paused, in the order of the
        table."""
        return tuple(self._statuses())

    def _statuses(self) -> Iterator[ChannelStatus]:
        for channel in self.table.channels:
            pause = self.pauses.of(channel.name)
            if pause is not None or channel.name in self._health:
                yield self._health_of(channel).status(channel.name, pause.state if pause else "")

    def refresh(self) -> None:
        """Learns what operators have ordered. Raises StoreUnavailable."""
        for name in self.pauses.refresh():
            if (health := self._health.get(name)) is not None:
                health.end_cooldown()

    @property
    def waiting(self) -> int:
        """Requests of this process that wait for a slot of a channel."""
        return self._lines.waiting

    def selected(self, channel: Channel, model: str) -> SelectedChannel:
        """This channel, whatever its state is."""
        return SelectedChannel(self, channel, channel.upstream_model(model) or model, self._health_of(channel))

    def upstream(self, channel: Channel) -> Upstream:
        """The upstream of this row. A changed row gets new connections."""
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

    def _row(self, channel: Channel, model: str) -> Channel:
        return self.remedies.row(channel, channel.upstream_model(model) or model)

    def _answering(self, model: str, upstream_servers: Sequence[str], tags: Collection[str] | None) -> list[Channel]:
        eligible = self._eligible(model, RESPONSES, tags)
        if not upstream_servers:
            return eligible
        native = [channel for channel in eligible if channel.mcp == "native"]
        if not native:
            raise not_callable(upstream_servers[0])
        return native

    def _eligible(self, model: str, surface: Surface, tags: Collection[str] | None) -> list[Channel]:
        table = self.table.tagged(tags)
        serving = table.serving(model)
        if not serving:
            raise surface.unknown(model, table.nearest(model))
        eligible = [channel for channel in serving if surface.serves(channel)]
        if not eligible:
            raise surface.not_served(model, serving)
        return eligible

    def _select(
        self,
        eligible: Sequence[Channel],
        model: str,
        affinity: Affinity,
        count_losses: CountLosses | None,
        wait: Wait | None,
    ) -> Iterator[SelectedChannel]:
        self._budget.deposit()
        if len(eligible) == 1:
            return self._attempts(model, eligible, affinity.owner, wait)
        conversation = affinity.digest()
        ranked = sorted(eligible, key=lambda channel: (channel.priority, rank(conversation, channel)), reverse=True)
        last = affinity.channel or self._recent.get(conversation, (channel.name for channel in ranked))
        ordered = sorted(ranked, key=lambda channel: (-channel.priority, channel.name != last))
        if count_losses is not None:
            losses = {
                channel.name: count_losses(self._row(channel, model), formats.load(channel.format))
                for channel in eligible
            }
            ordered.sort(key=lambda channel: losses[channel.name])
        following = _Following(self._recent, conversation, ranked[0].name)
        return _each_following(self._attempts(model, ordered, affinity.owner, wait), following)

    def _attempts(
        self, model: str, ordered: Sequence[Channel], owner: str, wait: Wait | None
    ) -> Iterator[SelectedChannel]:
        """The available channels; without any, the one in cooldown that is due for a trial; then those that load their
        model. Paused channels are left out."""
        working = [channel for channel in ordered if self.pauses.of(channel.name) is None]
        began = self._clock()
        attempts, tried = 0, False
        for channel in working:
            if attempts == MAX_ATTEMPTS:
                break
            if attempts and not self._is_available(channel):
                continue
            if attempts and not self._budget.withdraw():
                return
            if (
                channel.name in self._lines
                or (selected := self._claim(channel, model, owner, Need.AVAILABLE, wait)) is None
            ):
                continue
            tried = True
            yield from _offered(selected)
            # A server that is loading its model costs no attempt.
            attempts += not selected.loads
        if not tried and (selected := self._trial(model, working, owner, wait)) is not None:
            tried = True
            yield from _offered(selected)
        if (
            not tried
            and wait is not None
            and (selected := self._in_line(model, working, owner, began, wait)) is not None
        ):
            tried = True
            yield from _offered(selected)
        if wait is not None:
            for selected in self._until_loaded(model, working, owner, began, wait):
                tried = True
                yield from _offered(selected)
        if not tried:
            raise self._busy(model, ordered)

    def _trial(self, model: str, ordered: Sequence[Channel], owner: str, wait: Wait | None) -> SelectedChannel | None:
        """When all channels are in cooldown: the one with the oldest trial, or else the earliest end of cooldown."""
        if not all(self._health_of(channel).needs_trial for channel in ordered):
            return None
        for channel in sorted(ordered, key=lambda channel: self._health_of(channel).trial_order):
            if (selected := self._claim(channel, model, owner, Need.TRIAL, wait)) is not None:
                return selected
        return None

    def _in_line(
        self, model: str, ordered: Sequence[Channel], owner: str, began: float, wait: Wait
    ) -> SelectedChannel | None:
        """Waits for a slot of the full channels that have a queue. None when no slot is free in time."""
        queues = [channel for channel in ordered if channel.queue and self._health_of(channel).available(None)]
        if not queues:
            return None
        deadline = began + max(channel.queue for channel in queues)
        with self._lines.joined(channel.name for channel in queues) as place:
            while (left := deadline - self._clock()) > 0:
                firsts = [channel for channel in queues if self._lines.is_first(channel.name, place)]
                for channel in firsts:
                    if (selected := self._claim(channel, model, owner, Need.AVAILABLE, wait)) is not None:
                        return selected
                wait(min(left, _SLOT_POLL_SECONDS) if firsts else left, place.fileno())
                place.clear()
        return None

    def _until_loaded(
        self, model: str, ordered: Sequence[Channel], owner: str, began: float, wait: Wait
    ) -> Iterator[SelectedChannel]:
        """The channels that load their model, until their `first_byte` has passed. All waiting requests together try
        each of them once a second."""
        waiting = [channel for channel in ordered if self._health_of(channel).loading]
        while waiting := [channel for channel in waiting if self._is_waited_for(channel, began)]:
            for channel in tuple(waiting):
                if (selected := self._claim(channel, model, owner, Need.LOADED, wait)) is None:
                    continue
                yield selected
                if not selected.loads:
                    # It has failed for another reason.
                    waiting.remove(channel)
            wait(_LOADING_POLL_SECONDS)

    def _is_waited_for(self, channel: Channel, began: float) -> bool:
        health = self._health_of(channel)
        if self.pauses.of(channel.name) is not None:
            return False
        return self._clock() - began < channel.timeouts.first_byte and (health.loading or not health.cooldown_left)

    def _claim(self, channel: Channel, model: str, owner: str, need: Need, wait: Wait | None) -> SelectedChannel | None:
        """Enters the channel at once; None when its state does not allow it."""
        if self.pauses.of(channel.name) is not None:
            # Its pause has begun while the request waited.
            return None
        health = self._health_of(channel)
        if (place := health.claim(need, channel.max_concurrency)) is None:
            return None
        if (slot := self._slots.take(channel)) is None:
            health.leave(place)
            return None
        upstream_model = channel.upstream_model(model) or model
        return SelectedChannel(self, channel, upstream_model, health, owner, claimed=_Claimed(place, slot), wait=wait)

    def slot_again(self, channel: Channel, wait: Wait | None) -> Slot:
        """A slot for a second request of the same attempt, which has left its slot. Raises ChannelsBusy."""
        deadline = self._clock() + (channel.queue or _SLOT_AGAIN_SECONDS)
        while (slot := self._slots.take(channel)) is None:
            if wait is None or self._clock() >= deadline:
                raise self._busy(channel.name, [channel])
            wait(_SLOT_POLL_SECONDS)
        return slot

    def freed(self, channel: Channel) -> None:
        """A slot of the channel is free again."""
        if channel.queue:
            self._lines.freed(channel.name)

    def _is_available(self, channel: Channel) -> bool:
        return self.pauses.of(channel.name) is None and self._health_of(channel).available(channel.max_concurrency)

    def _busy(self, model: str, channels: Sequence[Channel]) -> ChannelsBusy:
        pauses = {channel.name: pause for channel in channels if (pause := self.pauses.of(channel.name)) is not None}
        if len(pauses) == len(channels):
            return _all_paused(model, pauses.values())
        states = [(channel.name, self._health_of(channel)) for channel in channels if channel.name not in pauses]
        waits = [left for _, health in states if (left := health.cooldown_left)]
        reasons = ", ".join(
            f"{channel.name}: {pauses.get(channel.name) or _why_busy(self._health_of(channel))}" for channel in channels
        )
        # A channel in cooldown may be tried within a second, unless its cooldown is firm.
        wait = min(waits) if waits and all(health.is_firm for _, health in states) else 1.0
        return ChannelsBusy(
            f"All channels that serve the model '{model}' are busy or in cooldown ({reasons}). Please try again later.",
            retry_after=max(1.0, wait),
        )

    def _health_of(self, channel: Channel) -> Health:
        health = self._health.get(channel.name)
        return health if health is not None else self._health.setdefault(channel.name, Health(self._clock))


def _why_busy(health: Health) -> str:
    return health.last_error or "failed" if health.cooldown_left else "full"


def _all_paused(model: str, pauses: Collection[Pause]) -> ChannelsBusy:
    reasons = ", ".join(f"{pause.channel}: {pause}" for pause in pauses)
    return ChannelsBusy(
        f"All channels that serve the model '{model}' are paused ({reasons}). Please try again later.",
        retry_after=max(1.0, min(RETRY_SECONDS if pause.left is None else pause.left for pause in pauses)),
    )


@dataclass(frozen=True, slots=True)
class _Following:
    """Notes the channel that has answered a conversation, so that its next turn goes there."""

    recent: RecentChannels
    conversation: bytes
    home: str
    """The channel that the conversation has without a note."""

    def note(self, channel: str) -> None:
        if channel != self.home:
            self.recent.put(self.conversation, channel)
        else:
            self.recent.drop(self.conversation)


def _each_following(selection: Iterator[SelectedChannel], following: _Following) -> Iterator[SelectedChannel]:
    for selected in selection:
        selected.following = following
        yield selected


def _offered(selected: SelectedChannel) -> Iterator[SelectedChannel]:
    """Yields the channel, and gives its place back when the caller does not enter it."""
    try:
        yield selected
    finally:
        selected.give_up()


@dataclass(frozen=True, slots=True)
class _Claimed:
    """What a request has taken before it enters the channel."""

    place: Place
    slot: Slot


class SelectedChannel:
    """One channel, selected for one attempt. `with` takes a place in the channel and gives it back at the end."""

    def __init__(
        self,
        channels: Channels,
        channel: Channel,
        model: str,
        health: Health,
        owner: str = "",
        *,
        claimed: _Claimed | None = None,
        wait: Wait | None = None,
    ) -> None:
        """`claimed`: the place and the slot, when they are taken already; without them the limit of the channel does
        not count. `wait` waits for a slot when the channel is entered again."""
        self.channel = channel
        self.model = model
        self.row = channels.remedies.row(channel, model)
        """The row to encode requests for: the channel's, with what was learnt for this model."""
        self.format = formats.load(channel.format)
        self.loads = False
        """Whether it has answered that it is loading its model."""
        self.following: _Following | None = None
        """Set when other channels could have answered too."""
        self._channels = channels
        self._health = health
        self._owner = owner
        self._claimed = claimed
        self._place = claimed.place if claimed else Place.ORDINARY
        self._slot = claimed.slot if claimed else UNLIMITED
        self._is_limited = claimed is not None
        self._wait = wait

    def __enter__(self) -> SelectedChannel:
        if self._claimed is None:
            if self._is_limited:
                self._slot = self._channels.slot_again(self.channel, self._wait)
            self._health.enter(self._place)
        self._claimed = None
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._leave()

    def priced(self, model: str, usage: Usage) -> Usage:
        """The usage of one exchange, with its cost by the table's price of the model. `model`: the public name."""
        return replace(usage, cost=cost_of(usage, self._channels.table.prices(model), int(time())))

    def give_up(self) -> None:
        """Gives back what was taken and not used."""
        if self._claimed is not None:
            self._claimed = None
            self._leave()

    def _leave(self) -> None:
        self._slot.close()
        self._health.leave(self._place)
        self._channels.freed(self.channel)

    def post(
        self,
        path: str,
        body: bytes,
        *,
        accept: str,
        watch: Watch | None,
        decode_error: DecodeError | None = None,
        trace: bytes = b"",
    ) -> Exchange:
        """Sends a request and returns its answer, which has status 200. `trace`: more lines of its head. Raises
        UpstreamError for another status, made by `decode_error` or by the format, and for a missing answer."""
        exchange: Exchange
        if self.channel.base_url is None:
            exchange = LocalExchange(*formats.serving(self.channel.format).serve(path, body))
        else:
            exchange = self._channels.upstream(self.channel).post(path, body, accept=accept, watch=watch, trace=trace)
        return self._checked(exchange, decode_error)

    def get(self, path: str) -> Exchange:
        """Like `post`, for a GET request."""
        return self._checked(self._channels.upstream(self.channel).get(path), None)

    def _checked(self, exchange: Exchange, decode_error: DecodeError | None) -> Exchange:
        if exchange.status == 200:
            return exchange
        with closing(exchange):
            raise (decode_error or self.format.decode_error)(exchange.status, exchange.headers, exchange.read())

    def learn(self, remedies: Iterable[Remedy]) -> None:
        """Remembers remedies that have helped."""
        self._channels.remedies.learn(self.channel, self.model, remedies)

    def learn_window(self, tokens: int) -> None:
        """Remembers the model's window, which a refusal has named."""
        self.learn([Remedy(ROW, "learnt_window", tokens)])

    def guess_window(self, tokens: int) -> None:
        """Remembers what fitted after refusals that named no number."""
        self.learn([Remedy(ROW, "guessed_window", tokens)])

    def accepted(self) -> None:
        """Notes that the first valid event of its answer has come."""
        self._health.accepted(self._place)

    def succeeded(self) -> None:
        if self.following is not None:
            self.following.note(self.channel.name)
        self._health.succeeded(self._owner, self._place)

    def note_path(self, path: str) -> None:
        """Notes how its stream was read: `bytes`, `repaired`, `translated`; empty when there was no stream."""
        self._health.note_path(path)

    def failed(self, error: UpstreamError) -> None:
        self.loads = isinstance(error, UpstreamLoading)
        if not self.loads:
            # The upstream's message may quote the prompt, so it is stored in the row and not logged.
            level = logging.INFO if isinstance(error, UpstreamRefused) else logging.WARNING
            log.log(level, "channel %s failed: %s", self.channel.name, _facts(error))
            self._health.failed(error, self.channel.cooldown, self._owner, self._place)
        elif self._health.note_loading():
            log.warning("channel %s is loading its model: %s", self.channel.name, _facts(error))


def _facts(error: UpstreamError) -> str:
    return " ".join(filter(None, (error.name, error.cause)))
