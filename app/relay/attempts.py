"""The attempts of one exchange: one channel after another, until one succeeds.

Every exchange goes through `Attempts.first`: answers, streams, passthrough, compaction passes and counts. A `Step` does
the work on one channel. This module decides which failures count, what is recorded and which channel is next.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from time import monotonic, time_ns
from types import TracebackType
from typing import Any, Generic, Protocol, TypeVar
from urllib.parse import urlsplit

import orjson

from app import trace_context
from app.channels.affinity import Affinity
from app.channels.selection import Channels, DecodeError, SelectedChannel
from app.channels.upstream import Exchange
from app.contract.channel import Channel
from app.contract.records import Attempt, AttemptSpan
from app.contract.redaction import without_upstream
from app.contract.remedies import ROW, Remedy, apply_all
from app.contract.token_estimate import estimate_context
from app.contract.turn import Answer, Turn
from app.contract.usage import Usage
from app.errors import ContextTooLong, GatewayError, InvalidRequest, UpstreamBroken, UpstreamError, UpstreamLoading
from app.formats import Decoder, Format, adapted, remedies_for, replay, unenforced
from app.relay.streaming.client_connection import ClientConnection
from app.relay.streaming.transport import Flow, ThreadTransport
from app.relay.tools.refused_tools import without_refused
from app.request_watch import Watch
from app.trace_context import TraceContext

#: The smallest window that a model can have, in tokens.
MIN_WINDOW = 512

#: Retries on one channel after refusals.
MAX_REMEDIES = 4

JSON = "application/json"
EVENTS = "text/event-stream"

#: Called with the record of each attempt.
OnAttempt = Callable[[Attempt], None]
#: The turn as a channel can read it.
ForChannel = Callable[[Turn, Channel], Turn]


class ChannelAttempt:
    """One attempt on one channel. It occupies a slot of the channel while entered, and closes the exchange it opens."""

    def __init__(self, attempts: Attempts[Any], selected: SelectedChannel) -> None:
        self.selected = selected
        self.dropped: Sequence[str] = ()
        """Types of the tools that the channel does not receive."""
        self.adapted: Sequence[str] = ()
        """What else the channel does not receive as the client sent it."""
        self.shortened = False
        """The channel does not receive the oldest items."""
        self.path = ""
        """How the answer was read: `bytes`, `repaired` or `translated`; empty for an unstreamed answer."""
        self.unseen: Sequence[str] = ()
        """What the channel receives and no client may see, not even quoted in an error."""
        self.usage: Usage | None = None
        """What the exchange has used, if the turn may have several."""
        self._attempts = attempts
        self._exchange: Exchange | None = None
        self._started_at = monotonic()
        self._trace = trace_context.current()
        self._span = None if self._trace is None else _span(self._trace, selected)
        self._stays_open = False
        self._closed = False

    def __enter__(self) -> ChannelAttempt:
        self.selected.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool:
        """Suppresses a failure if another channel may be tried. `Attempts.next` raises it when none is left."""
        if error is None and self._stays_open:
            return False
        try:
            return self._settle(error)
        finally:
            self.close()

    def open(
        self, path: str, body: bytes, *, accept: str, watch: Watch, decode_error: DecodeError | None = None
    ) -> Exchange:
        """The upstream's answer with status 200. Raises UpstreamError and ClientGone."""
        trace = b"" if self._trace is None else self._trace.head_lines(self._span.id if self._span else "")
        self._exchange = self.selected.post(
            path, body, accept=accept, watch=watch, decode_error=decode_error, trace=trace
        )
        return self._exchange

    def keep_open(self) -> None:
        """Keeps the attempt open after the `with` block, because its stream is still being read. `close` ends it."""
        self._stays_open = True

    def succeeded(self) -> None:
        self._attempts.succeeded(self)

    def failed(self, error: UpstreamError) -> None:
        self._redact(error)
        self._attempts.failed(self, error)

    def _redact(self, error: UpstreamError) -> None:
        """Removes what the upstream may have repeated of its channel: the client and the row get these words."""
        channel = self.selected.channel
        error.message = without_upstream(error.message, channel, *self.unseen)
        if error.upstream_message is not None:
            error.upstream_message = without_upstream(error.upstream_message, channel, *self.unseen)

    def redacted(self, answer: Answer) -> Answer:
        """The answer; one that has failed without what the upstream may have repeated of its channel."""
        if answer.failure is None:
            return answer
        self._redact(answer.failure)
        return replace(answer, error={**(answer.error or {}), "message": answer.failure.message})

    def record(self, error: GatewayError | None) -> Attempt:
        """The entry for this attempt in the response's row."""
        milliseconds = round((monotonic() - self._started_at) * 1000)
        channel = self.selected.channel.name
        if error is None:
            return Attempt(
                channel,
                milliseconds,
                200,
                None,
                self.path,
                tuple(self.dropped),
                adapted=tuple(self.adapted),
                usage=self.usage,
                shortened=self.shortened,
                span=self._span,
            )
        message = error.upstream_message if isinstance(error, UpstreamError) else None
        return Attempt(channel, milliseconds, error.status, error.name, upstream_message=message, span=self._span)

    def close(self) -> None:
        if self._closed:
            return
        self._closed = True
        try:
            if self._exchange is not None:
                self._exchange.close()
        finally:
            self.selected.__exit__(None, None, None)

    def _settle(self, error: BaseException | None) -> bool:
        if error is None:
            self.succeeded()
        elif isinstance(error, UpstreamError):
            self.failed(error)
            return True
        elif isinstance(error, InvalidRequest) and self._exchange is None:
            # Nothing was sent. Another format may be able to carry the request.
            self._attempts.skipped(error)
            return True
        return False


def _span(trace: TraceContext, selected: SelectedChannel) -> AttemptSpan | None:
    """None when the gateway makes no spans in this trace."""
    if not trace.span:
        return None
    url = urlsplit(selected.channel.base_url or "")
    return AttemptSpan(trace_context.new_span(), time_ns(), selected.model, url.hostname or "", url.port)


A = TypeVar("A", bound=ChannelAttempt)
A_contra = TypeVar("A_contra", bound=ChannelAttempt, contravariant=True)
T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)


class Step(Protocol[A_contra, T_co]):
    """The work of one exchange on a channel."""

    def run(self, attempt: A_contra, /) -> T_co:
        """Raises UpstreamError for a failure of the channel. Raises InvalidRequest, before anything is sent, for a
        request that the channel's format cannot carry."""
        ...


class Attempts(ABC, Generic[A]):
    """The attempts of one exchange on its selected channels, in their order."""

    def __init__(
        self,
        candidates: Iterator[SelectedChannel],
        record: OnAttempt,
        counted: tuple[type[UpstreamError], ...] = (UpstreamError,),
    ) -> None:
        """`record` is called with the entry of each attempt. `counted`: failures that concern the whole channel. Any
        other failure leaves the channel's health unchanged and does not end the loop. Without `counted` types a success
        leaves it unchanged as well.
        """
        self._selected = candidates
        self._record = record
        self._counted = counted
        self.last: GatewayError | None = None
        """The last failure, or else the first reason for skipping a channel."""

    def first(self, step: Step[A, T]) -> T:
        """The result of the first attempt that succeeds. Raises GatewayError: the last failure, or the first one that
        every other channel would repeat."""
        while True:
            attempt = self.next()
            with attempt:
                return step.run(attempt)

    def next(self) -> A:
        """The next attempt. Raises GatewayError when no channel is left, or when every other channel would fail too."""
        if isinstance(self.last, self._counted) and not self.last.elsewhere:
            raise self.last
        for selected in self._selected:
            try:
                return self._attempt_on(selected)
            except InvalidRequest as error:
                self.skipped(error)
        raise self.last or UpstreamBroken("No channel is left to try.")

    def succeeded(self, attempt: ChannelAttempt) -> None:
        if self._counted:
            attempt.selected.succeeded()
            if attempt.path:
                attempt.selected.note_path(attempt.path)
        self._record(attempt.record(None))

    def failed(self, attempt: ChannelAttempt, error: UpstreamError) -> None:
        if isinstance(error, self._counted):
            attempt.selected.failed(error)
        if not (isinstance(error, UpstreamLoading) and isinstance(self.last, UpstreamLoading)):
            # A loading model is recorded once, although several attempts may meet it.
            self._record(attempt.record(error))
        self.last = error

    def skipped(self, error: InvalidRequest) -> None:
        self.last = self.last or error

    @abstractmethod
    def _attempt_on(self, selected: SelectedChannel) -> A: ...


class ChannelAttempts(Attempts[ChannelAttempt]):
    """The attempts of an exchange that is the same on every channel."""

    def _attempt_on(self, selected: SelectedChannel) -> ChannelAttempt:
        return ChannelAttempt(self, selected)


class TurnAttempt(ChannelAttempt):
    """An attempt to answer a turn."""

    def __init__(
        self, attempts: Attempts[Any], selected: SelectedChannel, turn: Turn, remedies: Sequence[Remedy] = ()
    ) -> None:
        """`remedies`: changes of the row that earlier refusals of this channel called for."""
        super().__init__(attempts, selected)
        self.remedies = remedies
        self.row = apply_all(remedies, selected.row)
        self.turn = for_row(turn, self.row)
        """The turn as this channel can read it."""
        self.unseen = unseen(turn)
        self.left_out: Sequence[str] = ()
        """Names of tools of servers that the upstream has refused."""

    def encoded(self) -> bytes:
        """The body to send. Raises InvalidRequest for a turn that the channel's format cannot carry."""
        format_ = self.selected.format
        body, changes = adapted(format_.encode(self.turn, self.row, self.selected.model), self.row)
        self.dropped = format_.dropped(self.turn, self.row)
        learnt = (str(remedy) for remedy in self.remedies if remedy.kind == ROW)
        unseen_tools = (f"drop tool {name}" for name in self.left_out)
        unsaid = unenforced(self.turn.request, self.row.text_format)
        self.adapted = tuple(dict.fromkeys((*changes, *unsaid, *learnt, *self.turn.changes, *unseen_tools)))
        return body

    def open(
        self, path: str, body: bytes, *, accept: str, watch: Watch, decode_error: DecodeError | None = None
    ) -> Exchange:
        exchange = super().open(path, body, accept=accept, watch=watch, decode_error=decode_error)
        if self.remedies:
            self.selected.learn(self.remedies)
        return exchange


def unseen(turn: Turn) -> Sequence[str]:
    """What a channel receives of the turn and no client may see."""
    return (turn.cache_key,) if turn.cache_key else ()


def for_row(turn: Turn, row: Channel) -> Turn:
    """The turn, which knows what its answer has to be restored from, and whether the upstream streams it."""
    functions_only, stream = row.tools == "functions", turn.stream or row.streaming == "always"
    if (turn.functions_only, turn.stream) == (functions_only, stream):
        return turn
    return replace(turn, functions_only=functions_only, stream=stream)


class TurnAttempts(Attempts[TurnAttempt]):
    """The attempts to answer a turn. A channel that refuses a part of the request is tried again without that part."""

    def __init__(
        self,
        turn: Turn,
        channels: Channels,
        for_channel: ForChannel,
        record: OnAttempt,
        watch: Watch,
        affinity: Affinity,
        upstream_servers: Sequence[str] = (),
    ) -> None:
        """`upstream_servers`: labels of the MCP servers that the upstream itself has to call. Raises as
        `Channels.select`."""
        self._turn = turn
        self._channels = channels
        self._for_channel = for_channel
        candidates = channels.select(
            turn.model, affinity, self._count_losses, upstream_servers=upstream_servers, wait=watch.wait
        )
        super().__init__(candidates, record)
        self._refused: ChannelAttempt | None = None
        self._retried: SelectedChannel | None = None
        self._retries = 0
        self._amended: set[str] = set()
        """What the turn was changed for on this channel."""

    def next(self) -> TurnAttempt:
        refused, self._refused = self._refused, None
        if isinstance(refused, TurnAttempt) and (retry := self._retry(refused)) is not None:
            return retry
        return super().next()

    def failed(self, attempt: ChannelAttempt, error: UpstreamError) -> None:
        super().failed(attempt, error)
        if isinstance(error, ContextTooLong) and error.window is not None:
            self._learn_window(attempt.selected, error.window)
        self._refused = attempt

    def _learn_window(self, selected: SelectedChannel, window: int) -> None:
        """Remembers the window that a refusal names, unless the table states one, or the number cannot be it."""
        turn = self._turn
        if self._channels.table.facts(turn.model).context_window is not None:
            return
        tokens = estimate_context(turn.chain, turn.input, turn.echo.shared_settings())
        if MIN_WINDOW <= window <= 2 * (tokens + (turn.request.get("max_output_tokens") or 0)):
            selected.learn_window(window)

    def _attempt_on(self, selected: SelectedChannel) -> TurnAttempt:
        return TurnAttempt(self, selected, self._for_channel(self._turn, selected.channel))

    def _retry(self, refused: TurnAttempt) -> TurnAttempt | None:
        """A retry on the same channel that mends what it refused; None when nothing can be mended."""
        if refused.selected is not self._retried:
            self._retried, self._retries, self._amended = refused.selected, 0, set()
        if not isinstance(self.last, UpstreamError):
            return None
        if self._retries == MAX_REMEDIES:
            self._learn_progress(refused, self.last)
            return None
        self._retries += 1
        return (
            self._without_refused(refused, self.last)
            or self._with_remedies(refused, self.last)
            or self._without_tools(refused, self.last)
        )

    def _learn_progress(self, refused: TurnAttempt, error: UpstreamError) -> None:
        """Remembers the remedies of this attempt if another one would follow: the next request begins with them, or no
        request would ever pass an upstream that refuses more."""
        if refused.remedies and remedies_for(error, orjson.loads(refused.encoded()), refused.row):
            refused.selected.learn(refused.remedies)

    def _without_refused(self, refused: TurnAttempt, error: UpstreamError) -> TurnAttempt | None:
        """A retry, once for each refusal, without a part of the conversation."""
        reason = error.code or error.message
        if reason in self._amended:
            return None
        selected = refused.selected
        turn = selected.format.amended(refused.turn, refused.row, error)
        if turn is None:
            return None
        self._amended.add(reason)
        retry = TurnAttempt(self, selected, turn, refused.remedies)
        retry.shortened = refused.shortened or isinstance(error, ContextTooLong)
        retry.left_out = refused.left_out
        return retry

    def _with_remedies(self, refused: TurnAttempt, error: UpstreamError) -> TurnAttempt | None:
        """A retry with what the refusal's words call for."""
        if error.refusal is None:
            return None
        remedies = remedies_for(error, orjson.loads(refused.encoded()), refused.row)
        if not remedies:
            return None
        retry = TurnAttempt(self, refused.selected, refused.turn, (*refused.remedies, *remedies))
        retry.shortened = refused.shortened
        retry.left_out = refused.left_out
        return retry

    def _without_tools(self, refused: TurnAttempt, error: UpstreamError) -> TurnAttempt | None:
        """A retry without the tools of servers that the refusal names."""
        if error.refusal is None:
            return None
        left = without_refused(refused.turn, error.refusal, orjson.loads(refused.encoded()))
        if left is None:
            return None
        turn, names = left
        retry = TurnAttempt(self, refused.selected, turn, refused.remedies)
        retry.shortened = refused.shortened
        retry.left_out = (*refused.left_out, *sorted(names))
        return retry

    def _count_losses(self, row: Channel, format_: Format) -> int:
        return len(format_.dropped(self._turn, row))


# --- reading the answer to a turn ---------------------------------------------------------------------------------


class Unstreamed:
    """The step for an unstreamed answer."""

    def __init__(self, watch: Watch) -> None:
        self._watch = watch

    def run(self, attempt: TurnAttempt) -> tuple[Answer, TurnAttempt]:
        answer = posted(attempt, attempt.turn, _path(attempt.turn, attempt.selected), attempt.encoded(), self._watch)
        answer = attempt.redacted(answer)
        attempt.path = answer.path
        return answer, attempt


class StreamedInside:
    """The step that reads a stream for no client. A cancellation closes the upstream while it still sends."""

    def __init__(self, watch: Watch, transport: ThreadTransport) -> None:
        self._watch = watch
        self._transport = transport

    def run(self, attempt: TurnAttempt) -> tuple[Answer, TurnAttempt]:
        flow, _ = open_flow(attempt, 0, self._watch, None)
        self._transport.read(flow)
        answer = _whole(flow.decoder.answer)
        attempt.path = answer.path
        return answer, attempt


def open_flow(
    attempt: TurnAttempt, number: int, watch: Watch, connection: ClientConnection | None
) -> tuple[Flow[Decoder], bytes]:
    """The stream of a channel that answered with 200, and its first events, if it has any yet. `number` is the sequence
    number of the next event. The attempt closes the exchange. Raises UpstreamError and ClientGone."""
    turn, format_ = attempt.turn, attempt.selected.format
    exchange = attempt.open(_path(turn, attempt.selected), attempt.encoded(), accept=EVENTS, watch=watch)
    limits = attempt.selected.channel.timeouts
    if "json" in exchange.headers.get("content-type", ""):
        # The upstream ignored `stream` and sent one JSON body. The client still gets events.
        answer = replay(format_.decode(exchange.read(), turn), turn, number)
        return Flow(exchange, answer, limits, watch, connection), answer.feed(b"")
    return Flow(exchange, format_.decoder(turn, number), limits, watch, connection), b""


def _path(turn: Turn, selected: SelectedChannel) -> str:
    return selected.format.path(selected.model, turn.stream)


def posted(attempt: ChannelAttempt, turn: Turn, path: str, body: bytes, watch: Watch) -> Answer:
    """The answer to one unstreamed request of an attempt."""
    return _decoded(attempt.selected.format, attempt.open(path, body, accept=JSON, watch=watch), turn)


def encoded(turn: Turn, selected: SelectedChannel) -> bytes:
    """The body for this channel, with what was learnt of its upstream."""
    return adapted(selected.format.encode(turn, selected.row, selected.model), selected.row)[0]


def _decoded(format_: Format, exchange: Exchange, turn: Turn) -> Answer:
    content = exchange.read()
    if "event-stream" not in exchange.headers.get("content-type", ""):
        return format_.decode(content, turn)
    # Some upstreams stream although the request did not ask for it.
    decoder = format_.decoder(turn, 0)
    decoder.feed(content)
    decoder.finish()
    return _whole(decoder.answer)


def _whole(answer: Answer | None) -> Answer:
    """The complete answer. Raises UpstreamBroken if it failed after it had started."""
    if answer is None or answer.status == "failed":
        if answer is not None and answer.failure is not None:
            raise answer.failure
        error = answer.error if answer else None
        raise UpstreamBroken((error or {}).get("message") or "The model's server failed.")
    return answer
