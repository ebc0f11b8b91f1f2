"""The schema, as numbered steps that are never edited once released. They are applied by one command under a lease in
a row, so that two at once take turns; each can be run again after it broke off half-way, because MySQL commits every
change of a table by itself.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Iterator
from functools import partial

import peewee

from app.errors import ConfigurationError, StoreUnavailable
from app.store.database import Database, Session
from app.store.dialects import SQLITE, Dialect
from app.store.tree_fill import fill

LEASE = 60
LEASE_WAIT = 120.0
POLL = 0.1
UPGRADE_WAIT = 3600
"""Seconds that one change of a large table may take."""

Step = Callable[["Schema"], None]
STEPS: list[Step] = []
ADDITIVE: set[Step] = set()
"""Additive steps: code that does not know them works as before."""
FILLS: dict[Step, Callable[[Database], Iterator[None]]] = {}
"""What a step adds to rows that are there, in transactions of its own: a gateway may run meanwhile."""


class Schema:
    """The changes that a step can make. A change that was made already is skipped."""

    def __init__(self, session: Session, dialect: Dialect) -> None:
        self._session = session
        self._dialect = dialect

    def table(self, name: str, columns: str, *, layout: str = "table") -> None:
        """`columns` in the dialect's words; `layout` is `table`, or `clustered` for rows that lie in their key."""
        types = self._dialect.types
        self._session.run(f"CREATE TABLE IF NOT EXISTS {name} ({columns.format_map(types)}) {types[layout]}")

    def index(self, name: str, table: str, columns: str, *, where: str = "") -> None:
        """`where` leaves rows out of the index, where the database can."""
        if self._dialect is SQLITE:
            condition = f" WHERE {where}" if where else ""
            self._session.run(f"CREATE INDEX IF NOT EXISTS {name} ON {table} ({columns}){condition}")
        elif not self._has_index(name, table):
            self._session.run(f"CREATE INDEX {name} ON {table} ({columns})")

    def without_index(self, name: str, table: str) -> None:
        if self._dialect is SQLITE:
            self._session.run(f"DROP INDEX IF EXISTS {name}")
        elif self._has_index(name, table):
            self._session.run(f"DROP INDEX {name} ON {table}")

    def column(self, table: str, name: str, type: str) -> None:
        """`type` in the dialect's words."""
        if not self._has_column(name, table):
            self._session.run(f"ALTER TABLE {table} ADD COLUMN {name} {type.format_map(self._dialect.types)}")

    def _has_column(self, name: str, table: str) -> bool:
        if self._dialect is SQLITE:
            return self._session.row("SELECT 1 FROM pragma_table_info(?) WHERE name = ?", (table, name)) is not None
        found = self._session.row(
            "SELECT 1 FROM information_schema.columns"
            " WHERE table_schema = DATABASE() AND table_name = ? AND column_name = ?",
            (table, name),
        )
        return found is not None

    def _has_index(self, name: str, table: str) -> bool:
        found = self._session.row(
            "SELECT 1 FROM information_schema.statistics"
            " WHERE table_schema = DATABASE() AND table_name = ? AND index_name = ? LIMIT 1",
            (table, name),
        )
        return found is not None


def step(function: Step) -> Step:
    STEPS.append(function)
    return function


def additive(function: Step) -> Step:
    """Marks a step that only adds: tables, indexes, columns that older code may leave out of its rows."""
    ADDITIVE.add(function)
    return function


@step
def m001_everything(schema: Schema) -> None:
    # A response is the request's metadata as well, and without its content the tombstone of a deleted one.
    # branch and depth are its place in a tree of responses, NULL until it has ended well.
    schema.table(
        "response",
        """
        pk {key}, id {id} NOT NULL UNIQUE, owner {name} NOT NULL, parent {int}, branch {int}, depth {int},
        since {int} NOT NULL DEFAULT 0, status {word} NOT NULL, kept {flag}, streamed {flag}, opaque {flag},
        estimated {flag}, token {int}, model {name} NOT NULL, channel {name}, family {name}, upstream_model {name},
        upstream_id {name}, worker {int}, request_id {name}, created_at {int} NOT NULL, completed_at {int},
        deleted_at {int}, first_byte_ms {int}, total_ms {int}, input_tokens {int}, cached_tokens {int},
        cache_write_tokens {int}, output_tokens {int}, reasoning_tokens {int}, settings {int}, echo {body},
        error {body}, incomplete_details {body}, attempts {body}, compaction {body},
        CONSTRAINT response_place UNIQUE (branch, depth)
        """,
    )
    schema.index("response_owner", "response", "owner")
    schema.index("response_worker", "response", "worker", where="worker IS NOT NULL")
    schema.index("response_settings", "response", "settings", where="settings IS NOT NULL")
    schema.table("content", "response {own}, input {body} NOT NULL, output {body}")
    # fork is the depth in the parent branch after which this one goes its own way.
    schema.table("branch", "pk {key}, parent {int}, fork {int}")
    schema.index("branch_parent", "branch", "parent, fork", where="parent IS NOT NULL")
    schema.table(
        "setting",
        "pk {key}, owner {name} NOT NULL, sha256 {id} NOT NULL, json {body} NOT NULL, UNIQUE (owner, sha256)",
    )
    # Clients send items back with their ids, so that one id stands in many responses.
    schema.table(
        "item",
        "owner {name} NOT NULL, id {name} NOT NULL, response {int} NOT NULL, PRIMARY KEY (owner, id, response)",
        layout="clustered",
    )
    schema.table(
        "token",
        """
        pk {key}, name {name} NOT NULL UNIQUE, owner {name} NOT NULL, hash {id} NOT NULL UNIQUE,
        prefix {id} NOT NULL, models {body} NOT NULL, created_at {int} NOT NULL, expires_at {int},
        revoked_at {int}, last_used_at {int}, keeps {flag}
        """,
    )
    schema.table("worker", "pk {key}, name {name} NOT NULL UNIQUE, started {int} NOT NULL, lease_until {int} NOT NULL")
    schema.index("worker_lease", "worker", "lease_until")
    schema.table(
        "usage_day",
        """
        day {id} NOT NULL, token {int} NOT NULL, model {name} NOT NULL, channel {name} NOT NULL,
        requests {int} NOT NULL, failed {int} NOT NULL, estimated {int} NOT NULL, input_tokens {int} NOT NULL,
        cached_tokens {int} NOT NULL, cache_write_tokens {int} NOT NULL, output_tokens {int} NOT NULL,
        reasoning_tokens {int} NOT NULL, PRIMARY KEY (day, token, model, channel)
        """,
        layout="clustered",
    )


@step
@additive
def m002_pruning(schema: Schema) -> None:
    # When a turn last continued from a response that was no longer young: pruning counts its age from then.
    schema.column("response", "continued_at", "{int}")
    schema.index("response_parent", "response", "parent", where="parent IS NOT NULL")


@step
@additive
def m003_worker_status(schema: Schema) -> None:
    # A worker's report of its channels, and its time on the database's clock.
    schema.column("worker", "status", "{body}")
    schema.column("worker", "status_at", "{int}")


@step
@additive
def m004_claims(schema: Schema) -> None:
    # Which response an Idempotency-Key of a token belongs to.
    schema.table(
        "claim",
        """
        token {int} NOT NULL, hash {id} NOT NULL, fingerprint {id} NOT NULL, response {id} NOT NULL, worker {int},
        created_at {int} NOT NULL, PRIMARY KEY (token, hash)
        """,
        layout="clustered",
    )
    schema.index("claim_created", "claim", "created_at")


@step
@additive
def m005_background(schema: Schema) -> None:
    # What a run needs beside its response, until it ends. rung_at is 0 for one that was given back.
    schema.table(
        "job",
        """
        response {own}, request {body} NOT NULL, runs {int} NOT NULL DEFAULT 0, created_at {int} NOT NULL,
        rung_at {int} NOT NULL
        """,
    )
    # Events of background responses in batches, numbered from first to last.
    schema.table(
        "event",
        """
        response {int} NOT NULL, first {int} NOT NULL, last {int} NOT NULL, body {body} NOT NULL,
        kept_at {int} NOT NULL, PRIMARY KEY (response, first)
        """,
        layout="clustered",
    )
    schema.index("event_kept", "event", "kept_at")
    # The queue's own: huey writes and reads it.
    schema.table("huey_task", "id {key}, queue {name} NOT NULL, data {blob} NOT NULL, priority {real} NOT NULL")
    schema.index("huey_task_order", "huey_task", "priority DESC, id")


@step
@additive
def m006_conversations(schema: Schema) -> None:
    # newest is the position of the newest turn; it rises under the row's lock, so that committed positions have
    # no gap that an open transaction may still fill.
    schema.table(
        "conversation",
        """
        pk {key}, id {id} NOT NULL UNIQUE, owner {name} NOT NULL, created_at {int} NOT NULL, metadata {body} NOT NULL,
        newest {int} NOT NULL
        """,
    )
    # seen is the position up to which the conversation was the turn's context: a compaction stands for that much.
    schema.table(
        "conversation_turn",
        """
        pk {key}, conversation {int} NOT NULL, position {int} NOT NULL, seen {int} NOT NULL, compacted {flag},
        opaque {flag}, response {id}, status {word} NOT NULL, channel {name}, family {name}, input_tokens {int},
        output_tokens {int}, created_at {int} NOT NULL, input {body} NOT NULL, output {body} NOT NULL,
        CONSTRAINT conversation_position UNIQUE (conversation, position)
        """,
    )
    schema.index(
        "conversation_compaction", "conversation_turn", "conversation, compacted, position", where="compacted = 1"
    )
    schema.table(
        "conversation_item",
        """
        owner {name} NOT NULL, id {name} NOT NULL, conversation {int} NOT NULL, position {int} NOT NULL,
        PRIMARY KEY (owner, id, conversation)
        """,
        layout="clustered",
    )
    # By its id, not by its key: a conversation that is gone must not be taken for one that came after it.
    schema.column("response", "conversation", "{id}")
    schema.column("response", "seen", "{int}")


@step
@additive
def m007_lineage(schema: Schema) -> None:
    # The parent of a response whose client did not name it, and the hashes it is found by.
    schema.column("response", "inferred", "{int}")
    schema.index("response_inferred", "response", "inferred", where="inferred IS NOT NULL")
    schema.table(
        "prefix",
        "token {int} NOT NULL, hash {id} NOT NULL, response {int} NOT NULL, PRIMARY KEY (token, hash)",
        layout="clustered",
    )
    schema.index("prefix_response", "prefix", "response")


@step
@additive
def m008_owner(schema: Schema) -> None:
    # No query searches by owner, and the index cost a page in every commit.
    schema.without_index("response_owner", "response")


@step
@additive
def m009_background_workers(schema: Schema) -> None:
    # Whether a worker makes background responses.
    schema.column("worker", "background", "{flag}")


@step
@additive
def m010_remedies(schema: Schema) -> None:
    # What was learnt of a channel's upstream from its refusals; digest is that of the channel's row.
    schema.table(
        "remedy",
        """
        hash {id} NOT NULL PRIMARY KEY, channel {name} NOT NULL, model {body} NOT NULL, digest {id} NOT NULL,
        remedy {body} NOT NULL, learnt_at {int} NOT NULL
        """,
        layout="clustered",
    )


@step
@additive
def m011_threads(schema: Schema) -> None:
    # The thread of a response, if its client names one. thread and question are keyed hashes; ended_at is in
    # milliseconds.
    schema.table(
        "thread_turn",
        """
        response {own}, thread {id} NOT NULL, question {id}, retry_of {int}, started_by {int}, subagent {name},
        ended_at {int} NOT NULL
        """,
    )
    schema.index("thread_turn_newest", "thread_turn", "thread, ended_at")
    schema.index("thread_turn_question", "thread_turn", "question", where="question IS NOT NULL")
    schema.index("thread_turn_retries", "thread_turn", "retry_of", where="retry_of IS NOT NULL")
    schema.index("thread_turn_started", "thread_turn", "started_by", where="started_by IS NOT NULL")


@step
@additive
def m012_tool_calls(schema: Schema) -> None:
    # A call of a tool, written before it leaves; started_at is in milliseconds. result is what a hosted tool found,
    # which its item does not hold. An approval request is answered once, also by a denial.
    schema.table(
        "tool_call",
        """
        owner {name} NOT NULL, item_id {name} NOT NULL, response {id} NOT NULL, server {name} NOT NULL,
        tool {name} NOT NULL, started_at {int} NOT NULL, approval_request {name}, ms {int}, bytes {int}, error {name},
        result {body}, PRIMARY KEY (owner, item_id), CONSTRAINT tool_call_approval UNIQUE (owner, approval_request)
        """,
        layout="clustered",
    )
    schema.index("tool_call_response", "tool_call", "response")


@step
@additive
def m013_tools_of_tokens(schema: Schema) -> None:
    # The tool servers that a token may use: a JSON array of labels and globs; NULL for none.
    schema.column("token", "tools", "{body}")


@step
@additive
def m014_prompt_digests(schema: Schema) -> None:
    # Keyed digests of what the model was given (see `prompt_digests`), without text.
    schema.column("response", "prompt", "{blob}")


@step
@additive
def m015_limits_of_tokens(schema: Schema) -> None:
    # The limits that a token states, as JSON; NULL for none.
    schema.column("token", "limits", "{body}")


@step
@additive
def m016_former_secrets(schema: Schema) -> None:
    # The secrets from before a rotation, while they still work.
    schema.table(
        "former_secret",
        "hash {id} NOT NULL PRIMARY KEY, token {int} NOT NULL, expires_at {int} NOT NULL",
        layout="clustered",
    )
    schema.index("former_secret_token", "former_secret", "token")


@step
@additive
def m017_retention_of_tokens(schema: Schema) -> None:
    # Seconds after which responses of the token are pruned; NULL for the time of all others.
    schema.column("token", "retention", "{int}")


@step
@additive
def m018_money(schema: Schema) -> None:
    # What a response cost, in micro-units; NULL where a price is unknown. client names the program that asked.
    schema.column("response", "cost", "{int}")
    schema.column("response", "client", "{name}")
    # `priced` counts the responses with a known cost, `unused` those that used nothing. Older rows have neither. The
    # others are buckets: responses by the milliseconds to their first token and to their end.
    buckets = [f"{name}_{number}" for name in ("first", "total") for number in range(16)]
    for counter in ("cost", "priced", "unused", *buckets):
        schema.column("usage_day", counter, "{int} NOT NULL DEFAULT 0")
    counters = (
        *("requests", "failed", "estimated", "input_tokens", "cached_tokens", "cache_write_tokens", "output_tokens"),
        *("reasoning_tokens", "cost", "priced", "unused", *buckets),
    )
    columns = ", ".join(f"{counter} {{int}} NOT NULL" for counter in counters)
    schema.table(
        "usage_client",
        f"day {{id}} NOT NULL, client {{name}} NOT NULL, {columns}, PRIMARY KEY (day, client)",
        layout="clustered",
    )
    schema.table(
        "usage_tool",
        """
        day {id} NOT NULL, server {name} NOT NULL, tool {name} NOT NULL, calls {int} NOT NULL, failed {int} NOT NULL,
        ms {int} NOT NULL, bytes {int} NOT NULL, PRIMARY KEY (day, server, tool)
        """,
        layout="clustered",
    )
    # Sums of five minutes; slot is the unix time divided by 300. The reaper deletes those of two days ago.
    schema.table(
        "usage_slot",
        """
        slot {int} NOT NULL, channel {name} NOT NULL, requests {int} NOT NULL, failed {int} NOT NULL,
        input_tokens {int} NOT NULL, output_tokens {int} NOT NULL, cost {int} NOT NULL, PRIMARY KEY (slot, channel)
        """,
        layout="clustered",
    )


@step
@additive
def m019_counters_of_tokens(schema: Schema) -> None:
    # What a limited token has used in its present minute, day and month, with what its turns at work have reserved.
    schema.table(
        "token_use",
        """
        token {int} NOT NULL PRIMARY KEY, minute {int} NOT NULL, day {int} NOT NULL, month {int} NOT NULL,
        requests {int} NOT NULL, tokens {int} NOT NULL, day_tokens {int} NOT NULL, day_micro {int} NOT NULL,
        month_tokens {int} NOT NULL, month_micro {int} NOT NULL, running {int} NOT NULL
        """,
        layout="clustered",
    )
    # The turns at work that are counted in `running`.
    schema.table(
        "admission",
        "id {id} NOT NULL PRIMARY KEY, token {int} NOT NULL, worker {int} NOT NULL",
        layout="clustered",
    )
    schema.index("admission_worker", "admission", "worker, token")
    # The notices about budgets that were sent. since is the day or month of the last one.
    schema.table(
        "budget_notice",
        """
        token {int} NOT NULL, counter {word} NOT NULL, level {int} NOT NULL, since {int} NOT NULL,
        PRIMARY KEY (token, counter, level)
        """,
        layout="clustered",
    )


@step
@additive
def m020_tokens_for_metrics(schema: Schema) -> None:
    # 1 for a token that may read /metrics; NULL and 0 for the others.
    schema.column("token", "metrics", "{int}")


@step
@additive
def m021_removed_items(schema: Schema) -> None:
    # Where items stood that were deleted from conversations, without their content: a report names them as the reason
    # why a cache missed.
    schema.table(
        "removed_item",
        """
        conversation {int} NOT NULL, position {int} NOT NULL, place {int} NOT NULL, PRIMARY KEY (conversation, position)
        """,
        layout="clustered",
    )


@step
@additive
def m022_alerts(schema: Schema) -> None:
    # What alerts are about, and whether it was good or bad when the last alert was sent.
    schema.table("alert", "name {name} NOT NULL PRIMARY KEY, state {word} NOT NULL", layout="clustered")


@step
@additive
def m023_console(schema: Schema) -> None:
    # The role with which a token may sign in to the console; NULL for one that may not.
    schema.column("token", "console", "{word}")
    # The sessions of the console. Only a keyed hash of the cookie is stored.
    schema.table(
        "console_session",
        """
        hash {id} NOT NULL PRIMARY KEY, token {int} NOT NULL, created_at {int} NOT NULL, used_at {int} NOT NULL,
        ends_at {int} NOT NULL
        """,
        layout="clustered",
    )
    schema.index("console_session_end", "console_session", "ends_at")
    # The codes of sign-in links that were not used yet.
    schema.table(
        "sign_in_code",
        "hash {id} NOT NULL PRIMARY KEY, token {int} NOT NULL, expires_at {int} NOT NULL",
        layout="clustered",
    )
    # What people did in the console: actor is the owner of their token. owner is the owner whom it concerns, if any.
    schema.table(
        "audit",
        """
        pk {key}, at {int} NOT NULL, actor {name} NOT NULL, token {name} NOT NULL, action {name} NOT NULL,
        subject {name} NOT NULL, owner {name}, reason {body}
        """,
    )
    schema.index("audit_owner", "audit", "owner, pk", where="owner IS NOT NULL")
    schema.index("audit_actor", "audit", "actor, pk")
    schema.index("audit_at", "audit", "at")


@step
@additive
def m024_clients_of_tokens(schema: Schema) -> None:
    # The program that has used the token last, one of a few names.
    schema.column("token", "last_client", "{word}")


@step
@additive
def m025_hours(schema: Schema) -> None:
    # Sums of an hour for each token; hour is the unix time divided by 3600. The reaper deletes those of two days ago.
    counters = ("requests", "failed", "input_tokens", "cached_tokens", "output_tokens", "cost", "priced", "unused")
    columns = ", ".join(f"{name} {{int}} NOT NULL" for name in (*counters, *(f"first_{place}" for place in range(16))))
    schema.table(
        "usage_hour",
        f"hour {{int}} NOT NULL, token {{int}} NOT NULL, model {{name}} NOT NULL, channel {{name}} NOT NULL,"
        f" client {{name}} NOT NULL, {columns}, PRIMARY KEY (hour, token, model, channel, client)",
        layout="clustered",
    )
    # When the state changed, in unix seconds; NULL in older rows.
    schema.column("alert", "changed_at", "{int}")


@step
@additive
def m026_channel_pauses(schema: Schema) -> None:
    # Channels that operators have taken out of service. ends_at is NULL for one that is drained.
    schema.table(
        "channel_pause",
        "channel {name} NOT NULL PRIMARY KEY, began_at {int} NOT NULL, ends_at {int}, actor {name} NOT NULL,"
        " reason {body} NOT NULL",
        layout="clustered",
    )
    # The newest failures of channels and of tool servers. The reaper deletes older ones.
    schema.table(
        "recent_error",
        """
        pk {key}, kind {word} NOT NULL, name {name} NOT NULL, at {int} NOT NULL, status {int}, code {name} NOT NULL,
        message {body} NOT NULL, owner {name} NOT NULL, response {int}
        """,
    )
    schema.index("recent_error_name", "recent_error", "kind, name, pk")
    schema.index("recent_error_response", "recent_error", "response", where="response IS NOT NULL")
    # How long the first output took, failed attempts on the channel, and how often a worker reported its cooldown.
    for column in (*(f"first_{number}" for number in range(16)), "errors", "cooldowns"):
        schema.column("usage_slot", column, "{int} NOT NULL DEFAULT 0")


@step
@additive
def m027_outlines(schema: Schema) -> None:
    # What a turn asked and did, as numbers and names of tools; see `contract.outline`.
    schema.column("response", "outline", "{body}")


@step
@additive
def m028_traces_of_jobs(schema: Schema) -> None:
    # The client's trace, which the run of the response continues.
    schema.column("job", "traceparent", "{id}")
    schema.column("job", "tracestate", "{body}")


@step
@additive
def m029_trees(schema: Schema) -> None:
    # The root of a response's tree; NULL for a root.
    schema.column("response", "root", "{int}")
    schema.index("response_root", "response", "root", where="root IS NOT NULL")
    # Sums of each tree (see `tree_sums`). root is the key of its first response, newest that of its newest turn, which
    # ended at newest_at.
    counters = (
        *("turns", "branches", "compactions", "failovers", "failed", "cancelled", "incomplete", "unstored", "deleted"),
        *("input_tokens", "cached_tokens", "output_tokens", "cost", "unpriced"),
    )
    schema.table(
        "tree",
        f"""
        root {{own}}, owner {{name}} NOT NULL, first_at {{int}} NOT NULL, newest {{int}} NOT NULL,
        model {{name}} NOT NULL, client {{name}}, context {{int}}, newest_at {{int}} NOT NULL,
        {", ".join(f"{counter} {{int}} NOT NULL" for counter in counters)}
        """,
    )
    schema.index("tree_newest", "tree", "newest_at")
    schema.index("tree_owner", "tree", "owner, newest_at")


FILLS[m029_trees] = fill


@step
@additive
def m030_times_of_tools(schema: Schema) -> None:
    # How long calls of a tool took; see `sums.TOOL_BUCKETS`.
    for number in range(16):
        schema.column("usage_tool", f"took_{number}", "{int} NOT NULL DEFAULT 0")


class Migrations:
    def __init__(self, database: Database, url: str) -> None:
        self._database = database
        self._url = url

    def upgrade(self) -> list[int]:
        """Applies the missing steps and returns their numbers. Safe to run again and at the same time elsewhere: it
        waits for another upgrade. Creates the file of a new SQLite database.
        """
        database = Database(self._url, wait=UPGRADE_WAIT)
        database.create()
        try:
            return _upgrade(database)
        finally:
            database.close()

    def version(self) -> int:
        """The newest step that was applied; 0 on an empty database."""
        return version(self._database)

    def check(self) -> None:
        """For a first start. Raises ConfigurationError, naming the command that helps, unless the schema is exactly
        this code's.
        """
        _check(self.version(), set())

    def check_in_use(self) -> None:
        """For the successor of a running server: it accepts steps above its own that are marked additive."""
        found = self.version()
        _check(found, self._database.read(_additive) if found > len(STEPS) else set())


def needed() -> int:
    """The schema that this code needs."""
    return len(STEPS)


def version(database: Database) -> int:
    return max(database.read(_applied), default=0) if database.exists else 0


def _upgrade(database: Database) -> list[int]:
    holder = secrets.token_hex(8)
    database.transaction(lambda session: _prepare(session, database.dialect))
    _await_lease(database, holder)
    try:
        database.transaction(lambda session: _mark(session, database.dialect))
        return _apply_missing(database, holder)
    finally:
        database.transaction(
            lambda session: session.run("UPDATE migration_lease SET lease_until = 0 WHERE holder = ?", (holder,))
        )


def _check(found: int, additive: set[int]) -> None:
    if found < len(STEPS):
        raise ConfigurationError(
            f"The database has schema version {found}, and this Antiphon needs {len(STEPS)}.",
            fix="Run: antiphon db upgrade",
        )
    if not additive.issuperset(range(len(STEPS) + 1, found + 1)):
        raise ConfigurationError(
            f"The database has schema version {found}, newer than this Antiphon, which knows {len(STEPS)}.",
            fix="Install the newer Antiphon that upgraded it, or restore a backup from before.",
        )


def _prepare(session: Session, dialect: Dialect) -> None:
    schema = Schema(session, dialect)
    schema.table("schema_version", "version {int} NOT NULL PRIMARY KEY, applied_at {int} NOT NULL")
    schema.table("migration_lease", "one {int} NOT NULL PRIMARY KEY, holder {id} NOT NULL, lease_until {int} NOT NULL")
    session.run(dialect.unless_there("migration_lease", ["one", "holder", "lease_until"]), (1, "", 0))


def _mark(session: Session, dialect: Dialect) -> None:
    """Adds the column by which older code recognises additive steps."""
    Schema(session, dialect).column("schema_version", "additive", "{flag}")


def _await_lease(database: Database, holder: str) -> None:
    deadline = time.monotonic() + LEASE_WAIT
    while not _take_lease(database, holder):
        if time.monotonic() > deadline:
            raise StoreUnavailable("Another upgrade of the database has been running for minutes.")
        time.sleep(POLL)


def _take_lease(database: Database, holder: str) -> bool:
    now = database.dialect.now
    taken = database.transaction(
        lambda session: session.run(
            f"UPDATE migration_lease SET holder = ?, lease_until = {now} + {LEASE}"
            f" WHERE holder = ? OR lease_until < {now}",
            (holder, holder),
        )
    )
    return taken == 1


def _apply_missing(database: Database, holder: str) -> list[int]:
    applied = database.read(_applied)
    missing = [number for number in range(1, len(STEPS) + 1) if number not in applied]
    for number in missing:
        if not _take_lease(database, holder):
            raise StoreUnavailable("Another upgrade of the database has taken over.")
        _fill(database, holder, STEPS[number - 1])
        database.transaction(partial(_apply, dialect=database.dialect, number=number))
    return missing


def _fill(database: Database, holder: str, function: Step) -> None:
    """Makes the step's changes and fills what they added; the step counts as applied afterwards."""
    if function in FILLS:
        database.transaction(lambda session: function(Schema(session, database.dialect)))
        for _ in FILLS[function](database):
            if not _take_lease(database, holder):
                raise StoreUnavailable("Another upgrade of the database has taken over.")


def _apply(session: Session, dialect: Dialect, number: int) -> None:
    function = STEPS[number - 1]
    function(Schema(session, dialect))
    session.run(
        dialect.unless_there("schema_version", ["version", "applied_at", "additive"]),
        (number, int(time.time()), int(function in ADDITIVE)),
    )


def _applied(session: Session) -> set[int]:
    try:
        return {version for (version,) in session.rows("SELECT version FROM schema_version")}
    except (peewee.OperationalError, peewee.ProgrammingError) as error:
        if _lacks_table(error):
            return set()
        raise


def _additive(session: Session) -> set[int]:
    return {version for (version,) in session.rows("SELECT version FROM schema_version WHERE additive = 1")}


def _lacks_table(error: peewee.PeeweeException) -> bool:
    return 1146 in error.args or "no such table" in str(error)
