"""The store: what was said and by whom, in SQLite or MySQL, behind one object. It knows nothing of the web, of
upstreams or of wire formats; JSON passes through it as bytes.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

from app.errors import StoreUnavailable
from app.records import (
    Batch,
    Chain,
    ChannelStatus,
    Claim,
    Claimed,
    Draft,
    Job,
    Outcome,
    Page,
    Stored,
    StoredItem,
    Token,
    Trace,
    WorkerStatus,
)
from app.store import backup, chain, claims, items, migrations, pruning, stats, tree, usage
from app.store.claims import Claims
from app.store.conversations import Conversations
from app.store.database import Database, Session
from app.store.events import Events
from app.store.group import Group, Statements
from app.store.jobs import Enlist, Jobs
from app.store.leases import Leases
from app.store.places import Places
from app.store.prefixes import Prefixes
from app.store.pruning import Pruned
from app.store.responses import Responses
from app.store.tokens import Tokens
from app.store.tree import Detail, Node, Tree
from app.store.unwritten import Unwritten
from app.store.writer import Writer

__all__ = ["Detail", "Node", "Pruned", "Store", "Tree"]

_UNTOLD: Mapping[str, str] = MappingProxyType({})
UPGRADE_WAIT = 3600
"""Seconds that a change of a large table may take."""


class Store:
    """One a process, for all its threads; nothing is opened before the first call, and never across a fork.

    Whatever touches an owner's data takes the owner first. When the database cannot do it, StoreUnavailable.
    """

    def __init__(
        self,
        url: str,
        *,
        peppers: Sequence[bytes],
        group_limit: int = 64,
        lease: int = 60,
        server: Mapping[str, str] = _UNTOLD,
    ) -> None:
        """`url`: sqlite:///relative.db, sqlite:////absolute.db or mysql://user:password@host:port/name. `peppers`: the
        key that new tokens are hashed with, then those that were in use before.
        """
        self._url = url
        self._database = Database(url)
        statements = Statements.of(self._database.dialect)

        def open_group(session: Session) -> Group:
            return Group(session, statements)

        self._writer: Writer[Group] = Writer(self._database, open_group, limit=group_limit)
        self._unwritten = Unwritten(self._writer)
        self._leases = Leases(self._database, lease, server)
        self._places = Places()
        self._responses = Responses(self._database, self._writer, self._leases, self._places, self._unwritten)
        self._jobs = Jobs(self._database, self._writer, self._leases, self._responses)
        self._events = Events(self._database, self._writer, self._leases)
        self._tokens = Tokens(self._database, self._writer, peppers)
        self._claims = Claims(self._database, self._leases)
        self.conversations = Conversations(self._database)
        self._prefixes = Prefixes(peppers[0])

    # --- responses ----------------------------------------------------------------------------------------------

    def begin(self, draft: Draft) -> None:
        """Commits an `in_progress` row that names this worker: before this, the id is told to nobody."""
        self._responses.begin(draft)

    def finish(self, draft: Draft, outcome: Outcome) -> bool:
        """Returns after the commit. False when a cancel, a delete or the reaper was first: its row stays as it is."""
        return self._responses.finish(draft, outcome)

    def finish_later(self, draft: Draft, outcome: Outcome) -> None:
        """Keeps an end that the database could not take, and writes it when it can, if the row is still in progress
        then. Returns at once.
        """
        self._responses.finish_later(draft, outcome)

    def note(self, draft: Draft, outcome: Outcome) -> None:
        """The metadata of a response that is not kept, written behind the answer; no content goes with it."""
        self._responses.note(draft, outcome)

    def trace(self, owner: str, trace: Trace) -> None:
        """Finds the parent of a response that named none, behind the answer: the one that ends where it began."""
        self._writer.post(lambda group: self._prefixes.write(group, owner, trace))

    def chain(self, owner: str, response_id: str) -> Chain:
        """The response and what was said before it, from the newest compaction on."""
        return chain.load(self._database, self._places, owner, response_id, chain.RECENT)

    def full_chain(self, owner: str, response_id: str) -> Chain:
        """The same from the very first response, behind every compaction."""
        return chain.load(self._database, self._places, owner, response_id, chain.WHOLE)

    def response(self, owner: str, response_id: str) -> Stored | None:
        return self._responses.read(owner, response_id)

    def cancel(self, owner: str, response_id: str) -> bool:
        """True when this call ended it."""
        return self._responses.cancel(owner, response_id)

    def delete(self, owner: str, response_id: str) -> bool:
        """Removes the content for good; False when there was none to remove."""
        return self._responses.delete(owner, response_id)

    def claim_key(self, token: int, claim: Claim, response_id: str) -> Claimed | None:
        """None when the key is the response's from now on, else the response that has it already."""
        try:
            return self._claims.take(token, claim, response_id)
        except StoreUnavailable:
            # It may have been committed all the same.
            self._release_later(token, claim, response_id)
            raise

    def release_key(self, token: int, claim: Claim, response_id: str) -> None:
        """The response came to nothing: the key is free again, at the latest when the database is back."""
        try:
            self._claims.release(token, claim, response_id)
        except StoreUnavailable:
            self._release_later(token, claim, response_id)

    def _release_later(self, token: int, claim: Claim, response_id: str) -> None:
        def write(group: Group) -> None:
            claims.release(group.session, token, claim, response_id)

        self._unwritten.keep(f"the key of {response_id}", write, write, 0)

    def item(self, owner: str, item_id: str) -> StoredItem | None:
        """The newest copy among all inputs and outputs the owner keeps."""
        return items.find(self._database, owner, [item_id]).get(item_id)

    def items(self, owner: str, ids: Sequence[str]) -> dict[str, Mapping[str, Any]]:
        """Those that are there, in responses or in conversations, by their id."""
        found: dict[str, Mapping[str, Any]] = {
            item_id: stored.item for item_id, stored in items.find(self._database, owner, ids).items()
        }
        elsewhere = [item_id for item_id in ids if item_id not in found]
        return {**found, **self.conversations.find(owner, elsewhere)}

    # --- background responses -----------------------------------------------------------------------------------

    def enqueue(self, draft: Draft, request: bytes, told: Batch, enlist: Enlist) -> None:
        """Commits a `queued` row with the request and the events that told of it; `enlist` is called in the same
        transaction.
        """
        self._jobs.add(draft, request, told, enlist)

    def claim(self, response_id: str) -> Job | None:
        """What waited is in progress now, and this worker's; None for everything else."""
        return self._jobs.claim(response_id)

    def give_back(self, response_id: str, enlist: Enlist) -> bool:
        """What this worker has claimed waits again. False when somebody has ended it."""
        return self._jobs.give_back(response_id, enlist)

    def unheard(self, enlist: Enlist) -> list[str]:
        """Ids of those that wait although their doorbell rang long ago; it rings again."""
        return self._jobs.unheard(enlist)

    def unattended(self) -> int:
        """How many background responses wait while no worker for them lives, on any host."""
        return self._jobs.unattended()

    def keep_events(self, response_id: str, batch: Batch) -> bool:
        """Returns after the commit. False when somebody else has ended the response or makes it now."""
        return self._events.keep(response_id, batch)

    def events(self, owner: str, response_id: str, after: int) -> Page | None:
        """What was told of a background response, numbered higher than `after`; None when there is none."""
        return self._events.read(owner, response_id, after)

    def expire_events(self, age: int) -> int:
        """Removes the events of responses that ended so many seconds ago."""
        return self._events.expire(age)

    @property
    def database(self) -> Database:
        """For a queue that keeps its tasks beside our rows."""
        return self._database

    # --- looking at them ----------------------------------------------------------------------------------------

    def find(self, start: str) -> list[tuple[str, str]]:
        """Owner and id of the response of this id, or of those that begin so: one, or two when it is not clear which.
        For an operator, who may see everybody's.
        """
        return tree.find(self._database, start)

    def tree(self, owner: str, response_id: str) -> Tree | None:
        """All that came from the same root, without content; deleted ones and those that were not kept as well."""
        return tree.load(self._database, owner, response_id)

    def detail(self, owner: str, response_id: str) -> Detail | None:
        """All that is known of a response."""
        return tree.detail(self._database, owner, response_id)

    # --- tokens and usage ---------------------------------------------------------------------------------------

    def create_token(
        self,
        name: str,
        owner: str,
        *,
        models: Sequence[str] | None = None,
        expires_at: int | None = None,
        keeps: bool = True,
    ) -> tuple[Token, str]:
        """The token and its secret, which is not kept and seen only here. Without `models` it may use every model."""
        return self._tokens.create(name, owner, models=models, expires_at=expires_at, keeps=keeps)

    def tokens(self) -> list[Token]:
        return self._tokens.all()

    def revoke_token(self, name: str) -> bool:
        """Every other process refuses it within two seconds."""
        return self._tokens.revoke(name)

    def token(self, secret: str) -> Token | None:
        """None alike for an unknown, an expired and a revoked one."""
        return self._tokens.check(secret)

    def usage(self, since_day: str) -> list[dict[str, Any]]:
        """Sums by day, token, model and channel since a day (YYYY-MM-DD, UTC)."""
        return usage.since(self._database, since_day)

    # --- workers ------------------------------------------------------------------------------------------------

    def renew_lease(self, status: Sequence[ChannelStatus] = ()) -> None:
        """Says that this worker lives, and how its channels fare; due every few seconds while responses are in
        progress.
        """
        self._leases.extend(status)

    def make_background(self) -> None:
        """From now on the lease says that this process makes background responses."""
        self._leases.background = 1

    def end_lease(self) -> None:
        """Says that this worker ends; its responses in progress, if there still are any, are failed by the next."""
        self._leases.end()

    def statuses(self) -> list[WorkerStatus]:
        """What the living workers said of their channels, by the worker's name."""
        return self._leases.statuses()

    @property
    def lease(self) -> int:
        """Seconds for which a worker is believed to live after it last said so."""
        return self._leases.lease

    def running(self) -> set[str]:
        """Ids of this worker's responses in progress that nobody has ended, here or elsewhere."""
        return self._leases.running() - self._unwritten.names()

    def reap(self) -> int:
        """Fails the responses of workers that stopped saying so, unless they can be made once more; how many."""
        return self._leases.reap(self._jobs.take_back)

    def reap_own(self, known: Collection[str]) -> int:
        """Fails the responses that this worker holds and that are not among the `known`, for a lease by now; how many.
        Those whose end waits to be written are known.
        """
        return self._leases.reap_own({*known, *self._unwritten.names()})

    def retry_ends(self) -> None:
        """Tries to write the ends that the database could not take; due every second. Returns at once."""
        self._unwritten.retry()

    def drain_ends(self, seconds: float) -> None:
        """The last try: returns when all of them are written, or after that time."""
        self._unwritten.drain(seconds)

    # --- the database -------------------------------------------------------------------------------------------

    def upgrade(self) -> list[int]:
        """Brings the schema up to date; the steps that were applied. Safe to run twice and at once."""
        patient = Database(self._url, wait=UPGRADE_WAIT)
        patient.create()
        try:
            return migrations.upgrade(patient)
        finally:
            patient.close()

    def schema_version(self) -> int:
        return migrations.version(self._database)

    def check_schema(self) -> None:
        """Raises ConfigurationError, naming the command that helps, when the schema is not this code's."""
        migrations.check(self._database)

    def check_schema_in_use(self) -> None:
        """The same for a process that serves already, which goes on behind steps that only add."""
        migrations.check_in_use(self._database)

    def clock(self) -> int:
        """The database's, in unix seconds."""
        return self._leases.clock()

    def ping(self) -> None:
        """Raises StoreUnavailable when the database does not answer."""
        self._database.ping()

    def stats(self) -> dict[str, Any]:
        return {
            **stats.gather(self._database),
            "writer": {
                "waiting": self._writer.waiting,
                "dropped": self._writer.dropped,
                "unwritten": len(self._unwritten.names()),
            },
        }

    def prunable(self, before: int) -> Pruned:
        """What `prune` would remove now."""
        return pruning.count(self._database, before)

    def prune(self, before: int) -> Iterator[Pruned]:
        """Removes what was last used before then (unix seconds), unless something younger goes on from it; tells again
        and again how far it is. Everybody else goes on meanwhile. Raises ConfigurationError for less than a day ago.
        """
        claims.forget(self._database)
        return pruning.prune(self._database, before)

    def backup(self, file: Path) -> None:
        """Writes a copy of this moment into a new file. Raises ConfigurationError where that is the server's task."""
        backup.copy(self._database, file)

    def close(self) -> None:
        """Writes what is waiting and closes the connections."""
        self._writer.close()
        self._database.close()
