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
from app.contract.usage import Usage
from app.store import conversations
from app.store.database import Conflict, Session
from app.store.dialects import Dialect

Counted = tuple[str, int, str, str]
"""day, token (0 for none), model, channel"""

COUNTERS = (
    "requests",
    "failed",
    "estimated",
    "input_tokens",
    "cached_tokens",
    "cache_write_tokens",
    "output_tokens",
    "reasoning_tokens",
)
MAX_ITEM_ID = 191


@dataclass(frozen=True, slots=True)
class Statements:
    """The group's SQL in one dialect."""

    content: str
    body: Callable[[bytes], bytes | str]
    """A body as the driver takes it."""
    output: str
    item: str
    usage: str
    setting: str
    find_setting: str
    prefix: str

    @classmethod
    def of(cls, dialect: Dialect) -> Statements:
        return cls(
            content=f"INSERT INTO content (response, input, output) VALUES (?, {dialect.body}, {dialect.body})",
            body=dialect.parameter,
            output=f"UPDATE content SET output = {dialect.body} WHERE response = ?",
            item=dialect.unless_there("item", ["owner", "id", "response"]),
            usage=dialect.add("usage_day", ["day", "token", "model", "channel"], COUNTERS),
            setting=dialect.insert("setting", ["owner", "sha256", "json"]),
            prefix=dialect.unless_there("prefix", ["token", "hash", "response"]),
            # A delete of the last response that refers to the setting waits for this transaction.
            find_setting=f"SELECT pk FROM setting WHERE owner = ? AND sha256 = ?{dialect.share}",
        )


class Group:
    def __init__(self, session: Session, statements: Statements) -> None:
        self.session = session
        self._statements = statements
        self._contents: list[tuple[int, bytes, bytes | None]] = []
        self._outputs: list[tuple[int, bytes]] = []
        """Outputs that do not fit into the statement of their input."""
        self._items: set[tuple[str, str, int]] = set()
        self._usage: dict[Counted, list[int]] = {}
        self._settings: dict[tuple[str, bytes], int] = {}
        self._uses: dict[int, int] = {}
        self._turns: list[tuple[str, str, ConversationTurn]] = []

    def add_content(self, response: int, input: bytes, output: bytes | None) -> None:
        self._contents.append((response, input, output))

    def add_items(self, owner: str, item_ids: tuple[str, ...], response: int) -> None:
        self._items.update((owner, item_id, response) for item_id in item_ids if len(item_id) <= MAX_ITEM_ID)

    def append(self, owner: str, conversation: str, turn: ConversationTurn) -> None:
        """Appends a turn to a conversation, if that still exists."""
        self._turns.append((conversation, owner, turn))

    def count(self, key: Counted, status: str, usage: Usage | None) -> None:
        sums = self._usage.setdefault(key, [0] * len(COUNTERS))
        used = usage or Usage()
        for place, amount in enumerate(
            (
                1,
                int(status == "failed"),
                int(used.estimated),
                used.input_tokens,
                used.cached_tokens,
                used.cache_write_tokens,
                used.output_tokens,
                used.reasoning_tokens,
            )
        ):
            sums[place] += amount

    def add_prefix(self, token: int, hash: str, response: int) -> None:
        self.session.run(self._statements.prefix, (token, hash, response))

    def touch_token(self, key: int, now: int) -> None:
        self._uses[key] = now

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
        for key, now in sorted(self._uses.items()):
            self.session.run(
                "UPDATE token SET last_used_at = ? WHERE pk = ? AND (last_used_at IS NULL OR last_used_at < ?)",
                (now, key, now),
            )
        if self._usage:
            self.session.run_many(self._statements.usage, [(*key, *sums) for key, sums in sorted(self._usage.items())])
