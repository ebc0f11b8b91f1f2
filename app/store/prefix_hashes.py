"""Prefix hashes of conversations that clients keep themselves: by token, each hash leads to the response that ends
there. Lost rows do no harm except gaps in trees.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence

from app.contract.records import Trace
from app.store.database import Session
from app.store.grouped_writes import Group
from app.store.writer import Writer

CHUNK = 200


class PrefixHashes:
    def __init__(self, writer: Writer[Group], pepper: bytes) -> None:
        """`pepper` keys each hash, so that the table alone cannot confirm a guessed text."""
        self._writer = writer
        self._pepper = pepper[: hashlib.blake2b.MAX_KEY_SIZE]

    def trace(self, owner: str, trace: Trace) -> None:
        """Finds and writes the parent of a response that named none, some time after the answer: the response that
        ends where this one's input began.
        """
        self._writer.post(lambda group: self._write(group, owner, trace))

    def _write(self, group: Group, owner: str, trace: Trace) -> None:
        """Links a response to its newest known ancestor, and stores its own hash for later responses."""
        session = group.session
        row = session.row("SELECT pk, parent FROM response WHERE id = ? AND owner = ?", (trace.response, owner))
        if row is None:
            return
        pk, parent = row
        found = self._find(session, trace) if parent is None else None
        if found not in (None, pk):
            session.run("UPDATE response SET inferred = ? WHERE pk = ?", (found, pk))
        if trace.end is not None:
            group.add_prefix(trace.token, self._hash(trace.end), pk)

    def _find(self, session: Session, trace: Trace) -> int | None:
        """The response that ends at the longest known prefix."""
        for start in range(0, len(trace.starts), CHUNK):
            hashes = [self._hash(place) for place in trace.starts[start : start + CHUNK]]
            known = dict(_known(session, trace.token, hashes))
            for hash_ in hashes:
                if hash_ in known:
                    return known[hash_]
        return None

    def _hash(self, place: bytes) -> str:
        return hashlib.blake2b(place, digest_size=16, key=self._pepper).hexdigest()


def _known(session: Session, token: int, hashes: Sequence[str]) -> Iterable[tuple[str, int]]:
    marks = ", ".join("?" * len(hashes))
    rows = session.rows(
        f"SELECT hash, response FROM prefix WHERE token = ? AND hash IN ({marks})",
        (token, *hashes),
    )
    return ((hash_, int(response)) for hash_, response in rows)
