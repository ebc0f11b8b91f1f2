"""Infers the parent of a request whose client sends the whole conversation each turn.

It compares hashes of the items within one thread of one token. Only hashes are stored, after the answer, and no
answer depends on them.
"""

from __future__ import annotations

import hashlib
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import partial
from heapq import heappop, heappush
from queue import Empty, SimpleQueue
from typing import Any

import orjson

from app.contract.items import CALL_TYPES, Item, is_client_side, is_hidden
from app.contract.records import CHAINABLE, Outcome, Prompt, Token, Trace
from app.contract.redaction import redacted_item
from app.contract.turn import Turn
from app.relay.client_thread import ClientThread, ThreadNames
from app.relay.prompts import Prompts
from app.store.store import Store

#: Turns that may wait to be traced. Further turns are dropped, which leaves a gap in their trees.
BACKLOG = 100

#: Seconds before each further search for a turn's parent. The worker that answered the parent may not have written it
#: yet. After the last search the nearest known ancestor becomes the parent.
WAITS = (0.25, 0.75, 2.0)
#: Seconds for the turns that wait to be traced when the process ends.
_CLOSING = 5.0

#: Called with the outcome of a turn.
OnOutcome = Callable[[Outcome], None]

_DIGEST = 16
#: A request with one of these fields names its own history.
_PARENT_FIELDS = ("previous_response_id", "conversation")
#: How the id of a response begins.
_RESPONSE = "resp_"
#: Item types that clients may leave out or change.
_IGNORED_TYPES = frozenset({"reasoning", "compaction_trigger"})
#: Of these, the types that make another request of the same items.
_REQUESTS = frozenset({"compaction_trigger"})
#: Members that change while an item travels between client and upstream.
_VOLATILE_KEYS = frozenset(
    {
        "annotations",
        "cache_control",
        "created_by",
        "encrypted_content",
        "id",
        "internal_chat_message_metadata_passthrough",
        "logprobs",
        "phase",
        "prompt_cache_breakpoint",
        "status",
    }
)


@dataclass(frozen=True, slots=True)
class _TracedTurn:
    """The data of a turn that waits to be traced."""

    id: str
    owner: str
    token: int
    names: ThreadNames
    history: str | None
    """Where the client says that its history is; None if the input holds it."""
    input: Iterable[Item]
    outcome: Outcome
    began_at: int
    ended_at: int
    """Milliseconds."""


@dataclass(frozen=True, slots=True, order=True)
class _WaitingTrace:
    """A trace whose parent is not in the store yet."""

    due: float
    """When to search for the parent again, by the monotonic clock."""
    owner: str = field(compare=False)
    trace: Trace = field(compare=False)
    waits: int = field(compare=False, default=0)
    """Number of waits so far."""


class InferredParents:
    """One a process. Its thread starts with the first turn to trace."""

    def __init__(self, store: Store, prompts: Prompts, waits: Sequence[float] = WAITS) -> None:
        self._store = store
        self._prompts = prompts
        self._waits = waits
        self._turns: SimpleQueue[_TracedTurn | _WaitingTrace | None] = SimpleQueue()
        self._thread: threading.Thread | None = None
        self._starting = threading.Lock()
        self._closed = False

    def track(self, turn: Turn, token: Token, names: ThreadNames) -> OnOutcome | None:
        """Traces the turn once it has its outcome. `names`: what the client calls the thread."""
        request = turn.request
        history = next(filter(None, map(request.get, _PARENT_FIELDS)), None)
        if history is None and not request.get("input"):
            return None
        place = history if history is None or isinstance(history, str) else ""
        items, began = request.get("input") or (), _now()
        return lambda outcome: self._put(
            _TracedTurn(turn.id, turn.owner, token.key, names, place, items, outcome, began, _now())
        )

    def close(self) -> None:
        """Traces the turns that wait, with the parents that are known, and ends the thread."""
        with self._starting:
            self._closed = True
            thread = self._thread
        if thread is not None and thread.is_alive():
            self._turns.put(None)
            thread.join(_CLOSING)

    def _put(self, turn: _TracedTurn) -> None:
        if self._turns.qsize() >= BACKLOG:
            return
        self._turns.put(turn)
        if self._thread is None or not self._thread.is_alive():
            self._start()

    def _start(self) -> None:
        with self._starting:
            if not self._closed and (self._thread is None or not self._thread.is_alive()):
                self._thread = threading.Thread(target=self._run, name="inferred-parents", daemon=True)
                self._thread.start()

    def _run(self) -> None:
        waiting: list[_WaitingTrace] = []
        while (turn := self._next(waiting)) is not None:
            if isinstance(turn, _TracedTurn):
                self._trace(turn)
            elif turn.due > time.monotonic() and len(waiting) < BACKLOG:
                heappush(waiting, turn)
            else:
                self._write(turn)
        for trace in sorted(waiting):
            self._write(trace)

    def _next(self, waiting: list[_WaitingTrace]) -> _TracedTurn | _WaitingTrace | None:
        """A turn to trace, a trace that has to wait, or the first of the waiting ones once it is due; None at the end.
        Blocks until there is one."""
        if not waiting:
            return self._turns.get()
        pause = waiting[0].due - time.monotonic()
        if pause > 0:
            with suppress(Empty):
                return self._turns.get(timeout=pause)
        return heappop(waiting)

    def _trace(self, turn: _TracedTurn) -> None:
        thread = turn.names.thread()
        if thread is not None and (turn.history is None or thread.has_id):
            traced = replace(_traced(turn, thread), began_at=turn.began_at, ended_at=turn.ended_at)
            self._write(_WaitingTrace(0, turn.owner, replace(traced, prompt=self._prompt(turn))))

    def _write(self, trace: _WaitingTrace) -> None:
        """Writes a trace, unless it still has to wait."""
        is_last = self._closed or trace.waits == len(self._waits)
        self._store.prefixes.trace(trace.owner, trace.trace, None if is_last else partial(self._wait, trace))

    def _wait(self, trace: _WaitingTrace) -> None:
        """Called by the store's writer."""
        due = time.monotonic() + self._waits[trace.waits]
        later = replace(trace, due=due, waits=trace.waits + 1)
        if self._closed:
            self._write(later)
        else:
            self._turns.put(later)

    def _prompt(self, turn: _TracedTurn) -> Prompt | None:
        prompt = turn.outcome.prompt
        if prompt is None or turn.history is not None:
            return None
        return self._prompts.with_items(turn.owner, prompt, turn.input, orjson.loads(turn.outcome.output))


def names_no_history(request: Mapping[str, Any]) -> bool:
    """Whether the input of the request holds its whole history."""
    return not any(map(request.get, _PARENT_FIELDS))


def _now() -> int:
    return time.time_ns() // 1_000_000


def _traced(turn: _TracedTurn, thread: ClientThread) -> Trace:
    if turn.history is not None:
        return trace_chained(turn.id, turn.token, thread, turn.history, turn.input)
    output = orjson.loads(turn.outcome.output) if turn.outcome.status in CHAINABLE else None
    return trace(turn.id, turn.token, thread, turn.input, output)


def trace_chained(response: str, token: int, thread: ClientThread, history: str, input: Iterable[Item]) -> Trace:
    """The thread of a turn whose parent the client names. Nothing is inferred from its input, except that a turn with
    the same input after the same response is a retry. After a conversation it need not be one: that goes on.
    """
    rolling_hash = _RollingHash(f"{thread.key}\0{history}")
    for item in input:
        rolling_hash.add(item)
    is_response = history.startswith(_RESPONSE)
    return replace(_of_thread(response, token, thread), question=rolling_hash.state if is_response else None)


def _of_thread(response: str, token: int, thread: ClientThread) -> Trace:
    parents = tuple(_digest(key.encode()) for key in thread.parents)
    return Trace(
        response, token, (), None, thread=_digest(thread.key.encode()), parents=parents, subagent=thread.subagent
    )


def trace(
    response: str, token: int, thread: ClientThread, input: Iterable[Item], output: Iterable[Item] | None
) -> Trace:
    """The hashes at which earlier answers end within `input`, longest first, and the hash of this response's own end.
    Without an output no later request can continue the response.
    """
    rolling_hash, kinds = _RollingHash(thread.key), []
    for item in input:
        rolling_hash.add(item)
        kinds.append(item.get("type") in _REQUESTS)
    starts = rolling_hash.ends()
    question = _digest(rolling_hash.state + bytes(kinds[-1:])) if thread.has_id or starts else None
    found = replace(_of_thread(response, token, thread), starts=starts, question=question)
    if output is None:
        return found
    for item in output:
        rolling_hash.add(item)
    return replace(found, end=rolling_hash.state)


class _RollingHash:
    """A rolling hash over items. A compaction replaces the items before it, so the hash starts again there."""

    def __init__(self, thread: str) -> None:
        self._root = self.state = _digest(thread.encode())
        self._answered = False
        self._ends: list[bytes] = []

    def add(self, item: Item) -> None:
        stable = identity(item)
        if stable is None:
            return
        if self._answered and is_client_side(item):
            self._ends.append(self.state)
        before = self._root if item.get("type") == "compaction" else self.state
        self.state = _digest(before + orjson.dumps(stable, option=orjson.OPT_SORT_KEYS))
        self._answered = not is_client_side(item)

    def ends(self) -> tuple[bytes, ...]:
        """The hashes at the end of each answer that client items follow, longest first."""
        ends = [*self._ends, self.state] if self._answered else self._ends
        return tuple(reversed(ends))


def _digest(data: bytes) -> bytes:
    return hashlib.blake2b(data, digest_size=_DIGEST).digest()


# --- the identity of an item ------------------------------------------------------------------------------------


def identity(item: Item) -> list[Any] | None:
    """The part of an item that survives a round trip to the client; None for an item that a client may leave out."""
    kind = item.get("type") or "message"
    if kind in _IGNORED_TYPES or is_hidden(item):
        return None
    if kind == "message":
        return [item.get("role"), _content(item.get("content"))]
    if kind == "compaction":
        return [kind, item.get("encrypted_content")]
    if kind in CALL_TYPES and item.get("call_id"):
        # Many clients parse and re-encode the arguments.
        return [kind, item["call_id"], item.get("name")]
    return [kind, _stable(redacted_item(item))]


def _content(content: Any) -> list[Any]:
    """Text as a list of parts. A string equals one text part, whatever the part's type."""
    if isinstance(content, str):
        return [content]
    parts = content if isinstance(content, list) else []
    return [part["text"] if isinstance(part.get("text"), str) else _stable(part) for part in parts]


def _stable(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {
            name: _stable(inner)
            for name, inner in value.items()
            if name not in _VOLATILE_KEYS and inner not in (None, [])
        }
    return [_stable(inner) for inner in value] if isinstance(value, list) else value
