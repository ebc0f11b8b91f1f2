"""One background response at work in this worker."""

from __future__ import annotations

import logging
import select
import socket
import threading
from collections.abc import Callable, Iterable, Sequence
from contextlib import closing, suppress
from dataclasses import replace
from functools import partial
from time import monotonic
from typing import Any, TypeVar, cast

import orjson

from app.contract.items import Item
from app.contract.records import Job, Outcome, Stored, Token
from app.contract.response import Echo
from app.contract.turn import Turn
from app.errors import (
    ChannelsBusy,
    ClientGone,
    EndedElsewhere,
    GatewayError,
    InternalError,
    Overloaded,
    ShuttingDown,
    StoreUnavailable,
)
from app.memory import Share
from app.relay.background.event_log import Log
from app.relay.lease_keeper import Running
from app.relay.ports import Choice, Queue
from app.relay.recorder import Recorder
from app.relay.request_context import Asked
from app.relay.responses import StoredResponses
from app.relay.turn_run import TurnParts, run_of, turn_of
from app.request_bodies import needed_to_parse
from app.sealing import Seal
from app.store.store import Store

T = TypeVar("T")

log = logging.getLogger(__name__)

#: Seconds for which an answer that is there waits for a store that does not answer.
_PATIENCE = 60.0

_PAUSE, _LONGEST_PAUSE = 1.0, 5.0

#: Seconds for which channels may be busy before a response fails for it.
_BUSY = 600.0


class Line:
    """Stands where a client's connection stands: whoever waits for an upstream sees at once that it was hung up."""

    def __init__(self) -> None:
        self._ours, self._theirs = socket.socketpair()

    def fileno(self) -> int:
        return self._ours.fileno()

    def hang_up(self) -> None:
        with suppress(OSError):
            self._theirs.shutdown(socket.SHUT_RDWR)

    def wait(self, seconds: float) -> None:
        """Raises ClientGone when it is hung up by then."""
        poll = select.poll()
        poll.register(self._ours, select.POLLRDHUP)
        if poll.poll(seconds * 1000):
            raise ClientGone

    def close(self) -> None:
        self._ours.close()
        self._theirs.close()


class Run:
    """One response at work in this worker."""

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
    ) -> None:
        """`share`: what it has of the memory for large bodies, until it is closed."""
        self.id = response_id
        self._share = share
        self._store = store
        # The run itself is known as running here; its stream is not, a second time.
        self._parts = replace(parts, running=Running())
        self._responses = responses
        self._queue = queue
        self._seal = seal
        self._ended = ended
        self._line = Line()
        self._log: Log | None = None
        self.reason: GatewayError = EndedElsewhere()

    def work(self, job: Job) -> None:
        """Until the row says how it ended, or waits again."""
        token = Token(key=job.token, name="", owner=job.owner, prefix="")
        told = self._log = Log(self._store, job.id, job.last)
        stored = self.insist(lambda: self._responses.stored(token, job.id), float("inf"))
        recorder = _RunRecorder(self._store, self, told, _unopened(stored), token)
        try:
            turn = self._open(job, token)
            recorder = _RunRecorder(self._store, self, told, turn, token)
            self._follow(self._opened(turn, token, recorder, told), told)
        except ClientGone:
            recorder.cancel()
        except GatewayError as error:
            recorder.fail(error)
        except Exception:
            # The one border of a run: whatever it is, nobody shall wait for this response for ever.
            log.exception("background response %s failed", job.id)
            recorder.fail(InternalError())

    def _open(self, job: Job, token: Token) -> Turn:
        body = self._seal.open(job.owner, job.request.decode())
        needed = needed_to_parse(body, self._share.limit)
        asked = Asked("", share=self._share, size=len(body))
        self.insist(lambda: asked.hold_bytes(needed), _BUSY)
        request = orjson.loads(body)
        self._share.shrink(needed - len(body))
        del body
        turn = self.insist(lambda: turn_of(self._parts, token, request), _PATIENCE)
        self.insist(lambda: asked.hold(turn), _BUSY)
        return replace(turn, id=job.id, created_at=job.created_at, stream=True)

    def _opened(self, turn: Turn, token: Token, recorder: Recorder, told: Log) -> Iterable[bytes]:
        """Nobody waits at a connection, so channels that are busy are asked again for a while."""
        until = monotonic() + _BUSY
        while True:
            asked = Asked("", self._line.fileno(), say=told.add)
            try:
                return run_of(self._parts, token, turn, asked, recorder).events()
            except ChannelsBusy as error:
                if monotonic() >= until:
                    raise
                self._line.wait(min(error.retry_after or _PAUSE, _LONGEST_PAUSE))

    def _follow(self, events: Iterable[bytes], told: Log) -> None:
        with closing(cast(Any, events)):
            try:
                for data in events:
                    told.add(data)
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
        self._line.hang_up()

    def close(self) -> None:
        self._line.close()
        self._share.close()

    def flush(self) -> None:
        """What waits is kept. When that fails, whoever adds the next hears of it."""
        if self._log is not None:
            with suppress(GatewayError):
                self._log.flush()

    def give_back(self) -> bool:
        given = self._store.jobs.give_back(self.id, self._queue.enlist)
        if given:
            self._queue.ring(self.id)
        return given

    def insist(self, work: Callable[[], T], seconds: float) -> T:
        """`work`, again while the store does not answer or there is no memory. Raises StoreUnavailable and Overloaded
        when that takes too long."""
        until = monotonic() + seconds
        while True:
            try:
                return work()
            except (StoreUnavailable, Overloaded):
                if monotonic() >= until or self._ended.wait(_PAUSE):
                    raise


class _RunRecorder(Recorder):
    """Writes down a response whose row is there before the run begins."""

    def __init__(self, store: Store, run: Run, told: Log, turn: Turn, token: Token) -> None:
        super().__init__(store, turn, token, "")
        self._run = run
        self._told = told

    def begin(self) -> None:
        """Its row was there before it was asked for."""

    def refuse(self, error: GatewayError) -> None:
        """The run hears of it as well, and may try again."""

    def cancel(self, partial: Sequence[Item] = (), choice: Choice | None = None) -> None:
        self.fail(self._run.reason, partial, choice)

    def fail(self, error: GatewayError, partial: Sequence[Item] = (), choice: Choice | None = None) -> dict[str, Any]:
        if not self._saved:
            with suppress(GatewayError):
                self._told.flush()
            self._told.close()
            if isinstance(error, ShuttingDown) and not self._told.answered:
                self._saved = self._run.give_back()
        return super().fail(error, partial, choice)

    def _save(self, outcome: Outcome) -> bool:
        if self._saved:
            return True
        return self._run.insist(lambda: self._kept(outcome), _PATIENCE)

    def _save_failure(self, error: GatewayError, ended: Outcome) -> None:
        """Nobody waits for it, so the run waits for the store; what cannot be written by then is written later."""
        try:
            self._run.insist(partial(super()._save, ended), _PATIENCE)
        except StoreUnavailable:
            self._save_later(ended)

    def _kept(self, outcome: Outcome) -> bool:
        with suppress(EndedElsewhere):
            self._told.flush()
        self._told.close()
        return super()._save(outcome)


def _unopened(stored: Stored) -> Turn:
    """As much of a turn as it takes to write down that it failed."""
    return Turn(
        id=stored.id,
        owner=stored.owner,
        created_at=stored.created_at,
        model=stored.model,
        request={"background": True},
        input=(),
        echo=Echo.stored(stored.settings, stored.echo),
    )
