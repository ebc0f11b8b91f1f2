"""Rows that one transaction of the writer gathers and writes at its end: bodies and item ids in one statement for all
its responses, and each counter once, in sorted order, so that two processes cannot lock each other out.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from operator import itemgetter
from typing import Any

from app.contract.records import ConversationTurn
from app.store import conversations, recent_errors, sums, token_counters, tree_sums
from app.store.database import Conflict, Session
from app.store.dialects import Dialect
from app.store.leases import Leases
from app.store.recent_errors import NewError
from app.store.token_counters import Change, CounterStatements

MAX_ITEM_ID = 191


@dataclass(frozen=True, slots=True)
class Statements:
    """The group's SQL in one dialect."""

    content: str
    body: Callable[[bytes], bytes | str]
    """A body as the driver takes it."""
    output: str
    item: str
    sums: sums.Statements
    setting: str
    find_setting: str
    prefix: str
    counters: CounterStatements
    error: str
    trees: tree_sums.Statements

    @classmethod
    def of(cls, dialect: Dialect, leases: Leases) -> Statements:
        return cls(
            content=f"INSERT INTO content (response, input, output) VALUES (?, {dialect.body}, {dialect.body})",
            body=dialect.parameter,
            output=f"UPDATE content SET output = {dialect.body} WHERE response = ?",
            item=dialect.unless_there("item", ["owner", "id", "response"]),
            sums=sums.Statements.of(dialect),
            setting=dialect.insert("setting", ["owner", "sha256", "json"]),
            prefix=dialect.unless_there("prefix", ["token", "hash", "response"]),
            # A delete of the last response that refers to the setting waits for this transaction.
            find_setting=f"SELECT pk FROM setting WHERE owner = ? AND sha256 = ?{dialect.share}",
            counters=CounterStatements(dialect, leases),
            error=dialect.insert("recent_error", recent_errors.COLUMNS),
            trees=tree_sums.Statements.of(dialect),
        )


class Group:
    def __init__(self, session: Session, statements: Statements) -> None:
        self.session = session
        self._statements = statements
        self._contents: list[tuple[int, bytes, bytes | None]] = []
        self._outputs: list[tuple[int, bytes]] = []
        """Outputs that do not fit into the statement of their input."""
        self._items: set[tuple[str, str, int]] = set()
        self.sums = sums.Sums(statements.sums)
        self.trees = tree_sums.TreeSums(session, statements.trees)
        self._settings: dict[tuple[str, bytes], int] = {}
        self._uses: dict[int, tuple[int, str | None]] = {}
        self._turns: list[tuple[str, str, ConversationTurn]] = []
        self._token_changes: list[Change] = []
        self._errors: list[NewError] = []

    def add_content(self, response: int, input: bytes, output: bytes | None) -> None:
        self._contents.append((response, input, output))

    def add_items(self, owner: str, item_ids: tuple[str, ...], response: int) -> None:
        self._items.update((owner, item_id, response) for item_id in item_ids if len(item_id) <= MAX_ITEM_ID)

    def append(self, owner: str, conversation: str, turn: ConversationTurn) -> None:
        """Appends a turn to a conversation, if that still exists."""
        self._turns.append((conversation, owner, turn))

    def count_token(self, change: Change) -> None:
        """Changes the counters of a limited token."""
        self._token_changes.append(change)

    def add_error(self, error: NewError) -> None:
        """Adds a failure to the newest of its channel or tool server."""
        self._errors.append(error)

    def add_prefix(self, token: int, hash: str, response: int) -> None:
        self.session.run(self._statements.prefix, (token, hash, response))

    def touch_token(self, key: int, now: int, client: str) -> None:
        self._uses[key] = now, client or None

    def setting(self, owner: str, json: bytes) -> int | None:
        """The key of these settings of this owner; None for empty settings."""
        if json == b"{}":
            return None
        known = self._settings.get((owner, json))
        if known is None:
            known = self._settings[owner, json] = self._keep_setting(owner, json)
        return known

    def _keep_setting(self, owner: str, json: bytes) -> int:
        name = (owner, hashlib.sha256(json).hexdigest())
        found = self.session.row(self._statements.find_setting, name)
        if found is None:
            try:
                return self.session.insert(self._statements.setting, self.session.large((*name, json.decode())))
            except Conflict:
                found = self.session.row(self._statements.find_setting, name)
                if found is None:
                    raise
        return int(found[0])

    def _bodies(self) -> Iterator[Sequence[Any]]:
        """Bodies one by one, so that only one large body is copied at a time."""
        body = self._statements.body
        for response, input, output in self._contents:
            if output is not None and not self.session.fits(input, output):
                self._outputs.append((response, output))
                output = None
            yield self.session.large((response, body(input), None if output is None else body(output)))

    def flush(self) -> None:
        if self._contents:
            self.session.run_many(self._statements.content, self._bodies())
            for response, output in self._outputs:
                parameters = self.session.large((self._statements.body(output), response))
                self.session.run(self._statements.output, parameters)
        if self._items:
            self.session.run_many(self._statements.item, sorted(self._items))
        # Sorted by conversation, because each row stays locked until the commit. The sort keeps the order of the turns.
        for conversation, owner, turn in sorted(self._turns, key=itemgetter(0)):
            conversations.append(self.session, owner, conversation, turn)
        for key, (now, client) in sorted(self._uses.items()):
            self.session.run(
                "UPDATE token SET last_used_at = ?, last_client = COALESCE(?, last_client)"
                " WHERE pk = ? AND (last_used_at IS NULL OR last_used_at <= ?)",
                (now, client, key, now),
            )
        if self._token_changes:
            token_counters.apply(self.session, self._statements.counters, self._token_changes)
        if self._errors:
            self.session.run_many(self._statements.error, recent_errors.newest(self._errors))
        self.trees.flush()
        self.sums.flush(self.session)
