"""Prefix hashes of conversations that clients keep themselves: by token, each hash leads to the response that ends
there. Beside them, the thread of each response: where it was started, and which response is a retry of which. Lost rows
do no harm except gaps in trees.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Sequence

from app.contract.records import CHAINABLE, Prompt, Trace
from app.store.database import Session
from app.store.dialects import Dialect
from app.store.grouped_writes import Group
from app.store.prompt_digests import Whole
from app.store.writer import Writer

CHUNK = 200

_COLUMNS = ("response", "thread", "question", "retry_of", "started_by", "subagent", "ended_at")
_OF_THREAD = (
    "SELECT w.response FROM thread_turn w JOIN response r ON r.pk = w.response WHERE w.thread = ? AND r.owner = ?"
)
_ANY = f"{_OF_THREAD} LIMIT 1"
#: The newest response that had ended at a time.
_NEWEST = f"{_OF_THREAD} AND w.ended_at <= ? ORDER BY w.ended_at DESC, w.response DESC LIMIT 1"
#: The newest one with an answer.
_NEWEST_ANSWER = (
    f"{_OF_THREAD} AND w.ended_at <= ? AND r.prompt IS NOT NULL AND r.pk <> ?"
    " ORDER BY w.ended_at DESC, w.response DESC LIMIT 1"
)
#: The first response to a question; later ones are retries of it.
_RETRIED = (
    "SELECT w.response FROM thread_turn w JOIN response r ON r.pk = w.response"
    " WHERE w.question = ? AND r.owner = ? ORDER BY w.ended_at, w.response LIMIT 1"
)

#: The root of a response's tree, and whether another turn than this one continues the response.
_ABOVE = (
    "SELECT COALESCE(f.root, f.pk), EXISTS (SELECT 1 FROM response c WHERE c.parent = f.pk"
    " AND c.status IN ('completed', 'incomplete')) OR EXISTS (SELECT 1 FROM response c WHERE c.inferred = f.pk"
    " AND c.pk <> ? AND c.status IN ('completed', 'incomplete')) FROM response f WHERE f.pk = ? AND f.owner = ?"
)


class PrefixHashes:
    def __init__(self, writer: Writer[Group], pepper: bytes, dialect: Dialect) -> None:
        """`pepper` keys each hash, so that the table alone cannot confirm a guessed text."""
        self._writer = writer
        self._insert = dialect.unless_there("thread_turn", _COLUMNS)
        self._pepper = pepper[: hashlib.blake2b.MAX_KEY_SIZE]

    def trace(self, owner: str, trace: Trace, on_missing: Callable[[], object] | None = None) -> None:
        """Finds and writes the parent of a response that named none, some time after the answer: the response that
        ends where this one's input began.

        `on_missing`: called by the writer, and nothing is written, while no response ends at the longest start. None:
        the longest known one counts.
        """
        missing = False

        def write(group: Group) -> None:
            nonlocal missing
            nearest = self._find(group.session, trace.token, trace.starts[:1])
            missing = nearest is None and bool(trace.starts) and on_missing is not None
            if not missing:
                self._write(group, owner, trace, nearest)

        def look_again(error: BaseException | None) -> None:
            if on_missing is not None and (missing or error is not None):
                on_missing()

        self._writer.post(write, None if on_missing is None else look_again)

    def _write(self, group: Group, owner: str, trace: Trace, nearest: int | None) -> None:
        """Links a response to its newest known ancestor, and stores its own hash for later responses. `nearest`: the
        response at the longest start."""
        session = group.session
        row = session.row("SELECT pk, parent, status FROM response WHERE id = ? AND owner = ?", (trace.response, owner))
        if row is None:
            return
        pk, parent, status = row
        found = nearest or self._find(session, trace.token, trace.starts[1:]) if parent is None else None
        if trace.prompt is not None:
            self._write_prompt(session, owner, trace, trace.prompt, pk, found)
        if found not in (None, pk):
            session.run("UPDATE response SET inferred = ? WHERE pk = ?", (found, pk))
        retried = self._place(session, owner, trace, pk, is_first=found is None and parent is None)
        above = found or retried
        if parent is None and above not in (None, pk):
            _join(group, owner, pk, above, may_branch=retried is None and status in CHAINABLE)
        if trace.end is not None:
            group.add_prefix(trace.token, self._hash(trace.end), pk)

    def _write_prompt(
        self, session: Session, owner: str, trace: Trace, prompt: Prompt, pk: int, inferred: int | None
    ) -> None:
        """Stores the digests of a whole prompt, as an addition to that response of the thread which has most of it in
        common: the inferred parent, or the newest one if the client has changed an earlier item.
        """
        whole = Whole(prompt)
        newest = session.row(_NEWEST_ANSWER, (self._in_token(trace.token, trace.thread), owner, trace.began_at, pk))
        base, shared = None, 0
        for candidate in dict.fromkeys((inferred, int(newest[0]) if newest else None)):
            if candidate is None or candidate == pk:
                continue
            common = whole.shared(session, candidate)
            if common is not None and (base is None or common >= shared):
                base, shared = candidate, common
        session.run("UPDATE response SET prompt = ? WHERE pk = ?", (whole.packed(base, shared), pk))

    def _place(self, session: Session, owner: str, trace: Trace, pk: int, *, is_first: bool) -> int | None:
        """Stores the thread of a response, the response whose retry it is, and for the first one of a thread the
        response that started the thread. Returns the first of them.
        """
        if not trace.thread:
            return None
        thread, question = self._in_token(trace.token, trace.thread), None
        retried = started_by = None
        if trace.question is not None:
            question = self._in_token(trace.token, trace.question)
            retried = session.row(_RETRIED, (question, owner))
        if is_first and trace.parents and session.row(_ANY, (thread, owner)) is None:
            parents = (self._in_token(trace.token, parent) for parent in trace.parents)
            newest = (session.row(_NEWEST, (parent, owner, trace.began_at)) for parent in parents)
            started_by = next(filter(None, newest), None)
        values = (pk, thread, question, retried and retried[0], started_by and started_by[0], trace.subagent)
        session.run(self._insert, (*values, trace.ended_at))
        return int(retried[0]) if retried else None

    def _in_token(self, token: int, place: bytes) -> str:
        return self._hash(b"%d " % token + place)

    def _find(self, session: Session, token: int, starts: Sequence[bytes]) -> int | None:
        """The response that ends at the first known one of these prefixes."""
        for start in range(0, len(starts), CHUNK):
            hashes = [self._hash(place) for place in starts[start : start + CHUNK]]
            known = dict(_known(session, token, hashes))
            for hash_ in hashes:
                if hash_ in known:
                    return known[hash_]
        return None

    def _hash(self, place: bytes) -> str:
        return hashlib.blake2b(place, digest_size=16, key=self._pepper).hexdigest()


def _join(group: Group, owner: str, pk: int, above: int, *, may_branch: bool) -> None:
    """Moves a response that was the root of a tree into the tree of the response above it."""
    row = group.session.row(_ABOVE, (pk, above, owner))
    # One that came of this response itself is in its tree already.
    if row is not None and row[0] != pk:
        root, is_continued = row
        group.session.run("UPDATE response SET root = ? WHERE pk = ?", (root, pk))
        group.trees.join(pk, int(root), int(may_branch and bool(is_continued)))


def _known(session: Session, token: int, hashes: Sequence[str]) -> Iterable[tuple[str, int]]:
    marks = ", ".join("?" * len(hashes))
    rows = session.rows(
        f"SELECT hash, response FROM prefix WHERE token = ? AND hash IN ({marks})",
        (token, *hashes),
    )
    return ((hash_, int(response)) for hash_, response in rows)
