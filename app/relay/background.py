"""Background responses: asked for, made by a worker later, followed and cancelled from anywhere.

A run drives the same walk as a streamed request does. The client that it works for is a `Line` of its own, which is
hung up when the run shall end.
"""

from __future__ import annotations

import logging
import select
import socket
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import replace
from functools import partial
from time import monotonic, sleep
from typing import Any, TypeVar, cast

import orjson

from app.bodies import needed_to_parse
from app.echo import Echo
from app.errors import (
    ChannelsBusy,
    ClientGone,
    EndedElsewhere,
    GatewayError,
    InternalError,
    InvalidRequest,
    NotFound,
    Overloaded,
    ShuttingDown,
    StoreUnavailable,
)
from app.memory import Budget, Share
from app.records import RUNNING, Batch, Job, Outcome, Stored, Token
from app.relay.asked import Asked
from app.relay.events import TOGETHER, Follower, Log
from app.relay.keeper import Running
from app.relay.mover import Pace
from app.relay.ports import Choice, Queue
from app.relay.recorder import Recorder, draft
from app.relay.responses import StoredResponses, shown
from app.relay.stream import told_of
from app.relay.turn_run import TurnParts, run_of, run_of_request, turn_of
from app.sealing import Seal
from app.store import Store
from app.turn import Item, Turn

log = logging.getLogger(__name__)

T = TypeVar("T")

#: Seconds for which an answer that is there waits for a store that does not answer.
_PATIENCE = 60.0
_PAUSE, _LONGEST_PAUSE = 1.0, 5.0
#: Seconds for which channels may be busy before a response fails for it.
_BUSY = 600.0
#: Seconds that runs may take to end once they were told to.
_LAST_WORDS = 5.0


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


class Background:
    def __init__(
        self,
        store: Store,
        parts: TurnParts,
        responses: StoredResponses,
        queue: Queue,
        seal: Seal,
        pace: Pace,
        kept: int,
        budget: Budget,
    ) -> None:
        """`kept`: seconds for which the events of a response are kept after its end. `budget`: of the memory for large
        bodies."""
        self._store = store
        self._parts = parts
        self._responses = responses
        self._queue = queue
        self._seal = seal
        self._pace = pace
        self._kept = kept
        self._budget = budget
        self._runs: dict[str, Run] = {}
        self._unknown: set[str] = set()
        self._lock = threading.Lock()
        self._ended = threading.Event()

    # --- asking, in a worker that serves

    def create(self, token: Token, request: Mapping[str, Any], asked: Asked) -> dict[str, Any]:
        """The response as it waits, stored. Raises GatewayError as an answer at once would."""
        run = run_of_request(self._parts, token, request, asked)
        with suppress(ChannelsBusy):
            run.check_served()
        once = run.claim()
        if (earlier := once.earlier()) is not None:
            return run.replayed(earlier)
        with once:
            return self._enqueue(run.turn, token, asked.request_id)

    def _enqueue(self, turn: Turn, token: Token, request_id: str) -> dict[str, Any]:
        waiting = turn.echo.response(
            id=turn.id,
            created_at=turn.created_at,
            model=turn.model,
            status="queued",
            previous_response_id=turn.previous_response_id,
        )
        told = told_of(waiting)
        self._store.jobs.add(
            draft(turn, token, request_id),
            self._seal.close(token.owner, orjson.dumps(turn.request)).encode(),
            Batch(0, len(told) - 1, b"".join(told)),
            self._queue.enlist,
        )
        self._queue.ring(turn.id)
        return waiting

    def stream(self, token: Token, request: Mapping[str, Any], asked: Asked) -> Iterator[bytes]:
        waiting = self.create(token, request, asked)
        return self.follow(token, waiting["id"], None, asked.client)

    def follow(
        self, token: Token, response_id: str, after: int | None, client: int | None, include: Sequence[str] = ()
    ) -> Iterator[bytes]:
        """The events numbered higher than `after`, as they are made. Raises NotFound and InvalidRequest."""
        stored = self._responses.stored(token, response_id)
        if not is_background(stored):
            raise InvalidRequest(
                "Only a background response can be streamed again. Leave out 'stream'.",
                code="unsupported_value",
                param="stream",
            )

        def ended() -> dict[str, Any]:
            return shown(self._responses.stored(token, response_id), include)

        begun = shown(stored, include)
        return Follower(self._store, self._pace, client, token.owner, begun, ended).events(after)

    def cancel(self, token: Token, response_id: str) -> dict[str, Any]:
        """The response as it is then; one that has ended stays as it is."""
        stored = self._responses.stored(token, response_id)
        if not is_background(stored):
            raise InvalidRequest("Cannot cancel a synchronous response.")
        if stored.status in RUNNING:
            self._store.responses.cancel(token.owner, response_id)
            stored = self._responses.stored(token, response_id)
        return shown(stored)

    # --- making, in a worker of its own

    def run(self, response_id: str) -> None:
        """Makes one response, if it still waits."""
        try:
            with self._entered(response_id) as run:
                job = self._store.jobs.claim(response_id) if run is not None else None
                if run is not None and job is not None:
                    # Not before the claim has committed: until then the keeper finds no row in progress and would
                    # take the response for one that was ended elsewhere.
                    self._parts.running.add(response_id, run.hang_up)
                    run.work(job)
        except NotFound:
            log.info("background response %s was deleted before it was begun", response_id)
        except StoreUnavailable:
            log.warning("background response %s could not be begun; it is rung for again", response_id)

    def start(self) -> None:
        threading.Thread(target=self._keep_together, name="events", daemon=True).start()

    def drain(self, seconds: float) -> None:
        """Runs may finish within that time; what still runs then is given back, or fails."""
        self._wait(seconds)
        with self._lock:
            self._ended.set()
            runs = list(self._runs.values())
        for run in runs:
            run.end(ShuttingDown())
        self._wait(_LAST_WORDS)

    def tend(self) -> None:
        """Rings again for what waits, and forgets what was told long ago. Any worker does it now and then."""
        self._recover()
        for response_id in self._store.jobs.unheard(self._queue.enlist):
            self._queue.ring(response_id)
        self._store.events.expire(self._kept)

    def _recover(self) -> None:
        """What was claimed while the store was leaving, so that nobody here heard of it, waits again."""
        unknown = self._store.reaper.running() - self._runs.keys()
        for response_id in unknown & self._unknown:
            if self._store.jobs.give_back(response_id, self._queue.enlist):
                self._queue.ring(response_id)
        self._unknown = unknown

    @contextmanager
    def _entered(self, response_id: str) -> Iterator[Run | None]:
        """The run of a response; None when it is at work here already, or nothing is begun any more."""
        run = Run(
            response_id,
            self._store,
            self._parts,
            self._responses,
            self._queue,
            self._seal,
            self._ended,
            Share(self._budget),
        )
        with self._lock:
            free = response_id not in self._runs and not self._ended.is_set()
            if free:
                self._runs[response_id] = run
        if not free:
            yield None
            return
        try:
            yield run
        finally:
            self._parts.running.remove(response_id)
            with self._lock:
                del self._runs[response_id]
            run.close()

    def _keep_together(self) -> None:
        """Keeps what was told last before an upstream fell silent."""
        while True:
            with self._lock:
                runs = list(self._runs.values())
            for run in runs:
                run.flush()
            if self._ended.wait(TOGETHER) and not runs:
                return

    def _wait(self, seconds: float) -> None:
        until = monotonic() + seconds
        while self._runs and monotonic() < until:
            sleep(TOGETHER)


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


def is_background(stored: Stored) -> bool:
    return Echo.stored(stored.settings, stored.echo).fields.get("background") is True


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
