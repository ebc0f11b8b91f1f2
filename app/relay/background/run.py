"""The run of one background response in this worker."""

from __future__ import annotations

import logging
import select
import socket
import threading
from collections.abc import Callable, Iterable, Sequence
from contextlib import closing, suppress
from dataclasses import replace
from functools import partial
from time import monotonic, time
from typing import Any, Protocol, TypeVar, cast

import orjson

from app import trace_context
from app.channels.selection import SelectedChannel
from app.contract.items import Item
from app.contract.records import Job, Outcome, StoredResponse, Token
from app.contract.response import Echo
from app.contract.turn import Turn
from app.errors import (
    ChannelsBusy,
    ClientGone,
    EndedElsewhere,
    GatewayError,
    InternalError,
    Overloaded,
    RateLimited,
    ShuttingDown,
    StoreUnavailable,
)
from app.memory import Share
from app.relay.background.event_log import EventLog
from app.relay.background.waiting_places import WaitingPlaces
from app.relay.lease_keeper import RunningStreams
from app.relay.prompts import Prompts
from app.relay.recorder import Recorder
from app.relay.request_context import RequestContext
from app.relay.responses import StoredResponses
from app.relay.runs import run_of, turn_of
from app.relay.turn_run import TurnParts
from app.request_bodies import needed_to_parse
from app.sealing import Seal
from app.store.store import Store

T = TypeVar("T")

log = logging.getLogger(__name__)

#: Seconds that a finished answer waits for a store that does not answer.
_STORE_TIMEOUT = 60.0

_PAUSE, _LONGEST_PAUSE = 1.0, 5.0

#: Seconds that channels may be busy before the response fails.
_BUSY_TIMEOUT = 600.0
#: Age in seconds after which a response is not postponed any more.
_OLDEST = 86_400


class Queue(Protocol):
    """Carries ids of queued responses to the background workers. A lost id is queued again later."""

    def add_in_transaction(self, response_id: str) -> None:
        """Called inside the transaction that queues the response, for a queue in the same database."""
        ...

    def add_after_commit(self, response_id: str) -> None:
        """Called after that commit, for any other queue."""
        ...


class _Postponed(Exception):
    """The run would have to wait, and there is no place for that."""


class CancelSocket:
    """Stands in for a client's connection: code that waits for an upstream sees at once that it was hung up."""

    def __init__(self) -> None:
        self._local, self._peer = socket.socketpair()

    def fileno(self) -> int:
        return self._local.fileno()

    def hang_up(self) -> None:
        with suppress(OSError):
            self._peer.shutdown(socket.SHUT_RDWR)

    def wait(self, seconds: float) -> None:
        """Raises ClientGone when the socket is hung up within this time."""
        poll = select.poll()
        poll.register(self._local, select.POLLRDHUP)
        if poll.poll(seconds * 1000):
            raise ClientGone

    def close(self) -> None:
        self._local.close()
        self._peer.close()


class Run:
    """The run of one response in this worker."""

    def __init__(
        self,
        response_id: str,
        store: Store,
        parts: TurnParts,
        responses: StoredResponses,
        queue: Queue,
        seal: Seal,
        ended: threading.Event,
        share: Share,
        places: WaitingPlaces,
    ) -> None:
        """`share`: the run's part of the memory for large bodies; `close` releases it."""
        self.id = response_id
        self._share = share
        self._store = store
        # `BackgroundJobs` registers the run for stops, so its stream must not be registered as well.
        self._parts = replace(parts, running=RunningStreams())
        self._responses = responses
        self._queue = queue
        self._seal = seal
        self._ended = ended
        self._places = places
        self._cancel_socket = CancelSocket()
        self._log: EventLog | None = None
        self.reason: GatewayError = EndedElsewhere()

    def work(self, job: Job) -> None:
        """Returns once the row has its end, or the response is queued again. Then the next one of its token is tried
        that was postponed."""
        try:
            self._work(job)
        except _Postponed:
            self._places.postpone(job.token, self.id)
        else:
            self._requeue_next(job.token)

    def _work(self, job: Job) -> None:
        token = self._token(job)
        event_log = self._log = EventLog(self._store, job.id, job.last)
        stored = self.retried(lambda: self._responses.stored(token, job.id), float("inf"))
        recorder = _RunRecorder(self._store, self, event_log, _unopened_turn(stored), token, self._parts.prompts)
        try:
            turn = self._open(job, token)
            recorder = _RunRecorder(self._store, self, event_log, turn, token, self._parts.prompts)
            self._record_events(self._started(turn, token, recorder, event_log), event_log)
        except _Postponed:
            self._put_back(event_log)
            raise
        except ClientGone:
            recorder.cancel()
        except GatewayError as error:
            recorder.fail(error)
        except Exception:
            # The border of a run: without this the response would stay in progress for ever.
            log.exception("background response %s failed", job.id)
            recorder.fail(InternalError())

    def _token(self, job: Job) -> Token:
        """The client's token, as far as a run needs it: its owner, its limits, and the tool servers that it may use."""
        known = self.retried(lambda: self._store.tokens.of_key(job.token), float("inf"))
        named = known or Token(key=job.token, name="", owner=job.owner, prefix="")
        # The request was permitted when it was created, and is stored whatever the token says by now.
        return replace(named, owner=job.owner, models=(), stores=True)

    def _open(self, job: Job, token: Token) -> Turn:
        trace_context.enter(self._parts.read_trace(*job.trace))
        body = self._seal.open(job.owner, job.request.decode())
        needed = needed_to_parse(body, self._share.limit)
        context = RequestContext("", share=self._share, size=len(body))
        self.retried(lambda: context.hold_bytes(needed), _BUSY_TIMEOUT)
        request = orjson.loads(body)
        self._share.shrink(needed - len(body))
        del body
        turn = self.retried(lambda: turn_of(self._parts, token, request), _STORE_TIMEOUT)
        self.retried(lambda: context.hold(turn), _BUSY_TIMEOUT)
        return replace(turn, id=job.id, created_at=job.created_at, stream=True)

    def _started(self, turn: Turn, token: Token, recorder: Recorder, event_log: EventLog) -> Iterable[bytes]:
        """No client waits, so busy channels and limits of the token are retried for a while."""
        deadline = monotonic() + _BUSY_TIMEOUT
        with self._places.place(token.key) as place:
            while True:
                context = RequestContext("", self._cancel_socket.fileno(), send_early=event_log.add)
                try:
                    return run_of(self._parts, token, turn, context, recorder).events()
                except (ChannelsBusy, RateLimited) as error:
                    recorder.admission.settle(None)
                    if error.should_retry is False or monotonic() >= deadline:
                        raise
                    if not place.take():
                        if time() - turn.created_at >= _OLDEST:
                            raise
                        raise _Postponed from error
                    self._cancel_socket.wait(min(error.retry_after or _PAUSE, _LONGEST_PAUSE))

    def _put_back(self, event_log: EventLog) -> None:
        """Ends the run as if it had not started. The response waits in the database, and is run again later."""
        with suppress(GatewayError):
            event_log.flush()
        event_log.close()
        # Without the store, the row stays this worker's, which queues it again once it sees that nothing runs it.
        with suppress(StoreUnavailable):
            self.retried(lambda: self._store.jobs.postpone(self.id), _STORE_TIMEOUT)

    def _requeue_next(self, token: int) -> None:
        # The store queues again what stays behind.
        with suppress(StoreUnavailable):
            while (response_id := self._places.next_postponed(token)) is not None:
                if self._store.jobs.requeue_postponed(response_id, self._queue.add_in_transaction):
                    self._queue.add_after_commit(response_id)
                    return

    def _record_events(self, events: Iterable[bytes], event_log: EventLog) -> None:
        with closing(cast(Any, events)):
            try:
                for data in events:
                    event_log.add(data)
            except GatewayError as error:
                self.reason = error
                raise
            except Exception:
                self.reason = InternalError()
                raise

    def end(self, reason: GatewayError) -> None:
        self.reason = reason
        self.hang_up()

    def hang_up(self) -> None:
        self._cancel_socket.hang_up()

    def close(self) -> None:
        self._cancel_socket.close()
        self._share.close()

    def flush(self) -> None:
        """Stores the pending events. A failure is ignored: the next `add` meets it again."""
        if self._log is not None:
            with suppress(GatewayError):
                self._log.flush()

    def requeue(self) -> bool:
        requeued = self._store.jobs.requeue(self.id, self._queue.add_in_transaction)
        if requeued:
            self._queue.add_after_commit(self.id)
        return requeued

    def retried(self, attempt: Callable[[], T], seconds: float) -> T:
        """The result of `attempt`, with retries while the store does not answer or memory is short. Raises
        StoreUnavailable and Overloaded when the time is over."""
        deadline = monotonic() + seconds
        while True:
            try:
                return attempt()
            except (StoreUnavailable, Overloaded):
                if monotonic() >= deadline or self._ended.wait(_PAUSE):
                    raise


class _RunRecorder(Recorder):
    """Records a response whose row exists before the run."""

    def __init__(self, store: Store, run: Run, event_log: EventLog, turn: Turn, token: Token, prompts: Prompts) -> None:
        super().__init__(store, turn, token, "", prompts=prompts)
        self._run = run
        self._event_log = event_log

    def begin(self) -> None:
        """The row exists already, and does not name the channel."""
        self._has_row = True
        if self._channel is not None:
            self._store.responses.note_channel(self.draft.id, self._channel)

    def refuse(self, error: GatewayError) -> None:
        """The run gets the same error and decides on a retry."""

    def cancel(self, partial: Sequence[Item] = (), selected: SelectedChannel | None = None) -> None:
        self.fail(self._run.reason, partial, selected)

    def fail(
        self, error: GatewayError, partial: Sequence[Item] = (), selected: SelectedChannel | None = None
    ) -> dict[str, Any]:
        if not self._saved:
            with suppress(GatewayError):
                self._event_log.flush()
            self._event_log.close()
            if isinstance(error, ShuttingDown) and not self._event_log.answered:
                self._saved = self._run.requeue()
        return super().fail(error, partial, selected)

    def _save(self, outcome: Outcome) -> bool:
        if self._saved:
            return True
        return self._run.retried(lambda: self._save_after_events(outcome), _STORE_TIMEOUT)

    def _save_failure(self, error: GatewayError, failure: Outcome) -> None:
        """No client waits, so the run waits for the store. After a timeout the row is written later."""
        try:
            self._run.retried(partial(super()._save, failure), _STORE_TIMEOUT)
        except StoreUnavailable:
            self._save_later(failure)

    def _save_after_events(self, outcome: Outcome) -> bool:
        with suppress(EndedElsewhere):
            self._event_log.flush()
        self._event_log.close()
        return super()._save(outcome)


def _unopened_turn(stored: StoredResponse) -> Turn:
    """A turn with only as much as a failure's record needs."""
    return Turn(
        id=stored.id,
        owner=stored.owner,
        created_at=stored.created_at,
        model=stored.model,
        request={"background": True},
        input=(),
        echo=Echo.stored(stored.settings, stored.echo),
    )
