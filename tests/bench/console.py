"""How long the pages of the console take over a million responses, with a conversation of 2,000 turns."""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from app.store.sums import COLUMNS, HOUR_COLUMNS, HOUR_SECONDS, SLOT_COUNTERS, SLOT_SECONDS
from tests.console.in_process import Console, Visitor
from tests.console.routes import ROUTES
from tests.store import rows

RESPONSES = 1_000_000
TREE, TURNS_OF_A_TREE = 10, 10
TOKENS, OWNERS, MODELS, CHANNELS, CLIENTS = 200, 40, 6, 2, 4
DAYS, HOURS, SLOTS = 30, 48, 576
AUDITED, ERRORS = 10_000, 500
#: The large conversation: a trunk with a branch at every twentieth turn.
TRUNK, BRANCHES, BRANCH_TURNS = 1000, 50, 20
RUNS = 20

_HOUR_KEYS = HOURS * TOKENS * MODELS
_DAY_KEYS = DAYS * TOKENS * MODELS * CHANNELS

_MODELS = ", ".join(f"model-{number}" for number in range(MODELS))
TABLE = "version: 1\nchannels:\n" + "".join(
    f"  - {{name: channel-{number}, format: demo, models: [{_MODELS}]}}\n" for number in range(CHANNELS)
)


def measure(folder: Path) -> dict[str, Any]:
    """Milliseconds and statements of each page, the median of 20, and the worst of all."""
    url = f"sqlite:///{folder / 'console.db'}"
    console = Console(folder, url, TABLE)
    try:
        root = _fill(console, url)
        pages = dict(_pages(console, url, root))
    finally:
        console.close()
    # A file reads what it holds.
    shown = [page for name, page in pages.items() if "/export" not in name]
    return {
        "pages": pages,
        "slowest": max(page["ms"] for page in shown),
        "statements": max(page["statements"] for page in shown),
    }


def lines(found: Mapping[str, Any]) -> Iterator[str]:
    """A line a page, the slowest first."""
    yield ""
    yield f"pages of the console over {RESPONSES:,} responses, p50 of {RUNS}"
    for name, page in sorted(found["pages"].items(), key=lambda item: -item[1]["ms"]):
        yield f"  {name:<70}{page['ms']:>8.1f} ms{page['statements']:>4} statements"


def _pages(console: Console, url: str, root: str) -> Iterator[tuple[str, dict[str, float]]]:
    values = {"turn": root, "fresh": root, "channel": "channel-0", "token": _token(url, "owner-3")}
    people = {"operator": console.person("ops", "ops", "operator"), "owner": console.person("own", "owner-3", "owner")}
    for who, person in people.items():
        for path in _paths(who):
            yield f"{path} as {who}", _measured(person, path.format(**values))


def _paths(who: str) -> Iterator[str]:
    for route in ROUTES:
        if route.method == "GET" and not route.endless and route.without_session == 303 and getattr(route, who) == 200:
            yield route.path
            yield from FURTHER.get(route.path, ())


#: What the pages are asked for besides.
FURTHER: Mapping[str, Sequence[str]] = {
    "/console/overview": ("/console/overview?period=30d", "/console/overview?period=today"),
    "/console/conversations": tuple(
        f"/console/conversations?{question}"
        for question in ("owner=owner-3", "model=model-1", "client=client-1", "q=model-1", "owner=nobody", "model=none")
    ),
    "/console/requests": tuple(
        f"/console/requests?{question}"
        for question in ("status=failed", "owner=owner-3", "model=model-1", "channel=channel-1", "client=none")
    ),
    "/console/c/{turn}": ("/console/c/{turn}?at={turn}", "/console/c/{turn}?q=model-1", "/console/c/{turn}?fold=none"),
}


def _measured(person: Visitor, path: str) -> dict[str, float]:
    took = [person.time(path) for _ in range(RUNS)]
    return {"ms": round(statistics.median(took), 1), "statements": len(person.measure(path).statements)}


def _token(url: str, owner: str) -> str:
    ((key,),) = rows.execute(url, "SELECT MIN(pk) FROM token WHERE owner = ?", (owner,))
    return str(key)


# --- filling it


def _numbers(count: int) -> str:
    return f"WITH RECURSIVE n (i) AS (SELECT 0 UNION ALL SELECT i + 1 FROM n WHERE i < {count - 1})"


def _id(number: str) -> str:
    return f"'resp_' || printf('%048x', {number})"


#: A conversation of ten turns each, all in one branch; one turn in a hundred has failed, and one was cancelled.
_RESPONSES = (
    "INSERT INTO response (pk, id, owner, parent, root, branch, depth, since, status, kept, token, model, channel,"
    " client, created_at, completed_at, first_byte_ms, total_ms, input_tokens, cached_tokens, cache_write_tokens,"
    " output_tokens, reasoning_tokens, cost, error, request_id)"
    f" {_numbers(RESPONSES)}"
    f" SELECT i + 1, {_id('i + 1')}, 'owner-' || (i / {TREE} % {OWNERS}), CASE WHEN i % {TREE} THEN i END,"
    f" CASE WHEN i % {TREE} THEN i / {TREE} * {TREE} + 1 END, i / {TREE} + 1, i % {TREE} + 1, 0,"
    " CASE i % 100 WHEN 13 THEN 'failed' WHEN 57 THEN 'cancelled' ELSE 'completed' END, 1,"
    f" i / {TREE} % {TOKENS} + 1, 'model-' || (i % {MODELS}), 'channel-' || (i % {CHANNELS}),"
    f" 'client-' || (i / {TREE} % {CLIENTS}), ? + i, ? + i, i % 1000, i % 9000, 1000 + i % 5000, 500, 0, 100, 0, 2000,"
    """ CASE WHEN i % 100 = 13 THEN '{"code":"server_error","message":"The model broke."}' END, 'req_' || i FROM n"""
)
_TREES = (
    "INSERT INTO tree (root, owner, first_at, newest, model, client, context, newest_at, turns, branches, compactions,"
    " failovers, failed, cancelled, incomplete, unstored, deleted, input_tokens, cached_tokens, output_tokens, cost,"
    " unpriced) SELECT COALESCE(root, pk), MIN(owner), MIN(created_at), MAX(pk), MAX(model), MIN(client),"
    " MAX(input_tokens), MAX(completed_at), COUNT(*), COUNT(DISTINCT branch) - 1, 0, 0, SUM(status = 'failed'),"
    " SUM(status = 'cancelled'), 0, 0, 0, SUM(input_tokens), SUM(cached_tokens), SUM(output_tokens), SUM(cost), 0"
    " FROM response GROUP BY COALESCE(root, pk)"
)
_DAY_SUMS = (
    f"INSERT INTO usage_day (day, token, model, channel, {', '.join(COLUMNS)}) {_numbers(_DAY_KEYS)}"
    f" SELECT date(?, '-' || (i % {DAYS}) || ' days'), i / {DAYS} % {TOKENS} + 1,"
    f" 'model-' || (i / {DAYS * TOKENS} % {MODELS}), 'channel-' || (i / {DAYS * TOKENS * MODELS}),"
    f" {', '.join(['13'] * len(COLUMNS))} FROM n"
)
_CLIENT_SUMS = (
    f"INSERT INTO usage_client (day, client, {', '.join(COLUMNS)}) {_numbers(DAYS * CLIENTS)}"
    f" SELECT date(?, '-' || (i % {DAYS}) || ' days'), 'client-' || (i / {DAYS}),"
    f" {', '.join(['8000'] * len(COLUMNS))} FROM n"
)
_HOUR_SUMS = (
    f"INSERT INTO usage_hour (hour, token, model, channel, client, {', '.join(HOUR_COLUMNS)}) {_numbers(_HOUR_KEYS)}"
    f" SELECT ? - i % {HOURS}, i / {HOURS} % {TOKENS} + 1, 'model-' || (i / {HOURS * TOKENS}),"
    f" 'channel-' || (i % {CHANNELS}), 'client-' || (i % {CLIENTS}), {', '.join(['3'] * len(HOUR_COLUMNS))} FROM n"
)
_SLOT_SUMS = (
    f"INSERT INTO usage_slot (slot, channel, {', '.join(SLOT_COUNTERS)}) {_numbers(SLOTS * CHANNELS)}"
    f" SELECT ? - i % {SLOTS}, 'channel-' || (i / {SLOTS}), {', '.join(['2'] * len(SLOT_COUNTERS))} FROM n"
)
_AUDIT = (
    f"INSERT INTO audit (at, actor, token, action, subject, owner, reason) {_numbers(AUDITED)}"
    f" SELECT ? + i, 'ops', 'ops', 'show text', {_id('i')}, 'owner-' || (i % {OWNERS}), 'a question' FROM n"
)
_ERRORS = (
    f"INSERT INTO recent_error (kind, name, at, status, code, message, owner) {_numbers(ERRORS)}"
    f" SELECT 'channel', 'channel-' || (i % {CHANNELS}), ? + i, 502, 'server_error', 'It broke.', 'owner-1' FROM n"
)
_BRANCHES = f"INSERT INTO branch (pk, parent, fork) {_numbers(RESPONSES // TREE)} SELECT i + 1, NULL, NULL FROM n"


def _fill(console: Console, url: str) -> str:
    """Returns the id of the large conversation's first turn."""
    for number in range(TOKENS):
        console.store.tokens.create(f"token-{number}", f"owner-{number % OWNERS}")
    now = int(time.time())
    day = time.strftime("%Y-%m-%d", time.gmtime(now))
    begin = now - RESPONSES - TRUNK - BRANCHES * BRANCH_TURNS
    rows.execute(url, _BRANCHES)
    rows.execute(url, _RESPONSES, (begin, begin))
    root = _large_conversation(url, now)
    for sql, values in (
        (_TREES, ()),
        (_DAY_SUMS, (day,)),
        (_CLIENT_SUMS, (day,)),
        (_HOUR_SUMS, (now // HOUR_SECONDS,)),
        (_SLOT_SUMS, (now // SLOT_SECONDS,)),
        (_AUDIT, (now - AUDITED,)),
        (_ERRORS, (now - ERRORS,)),
    ):
        rows.execute(url, sql, values)
    return root


_TURN = (
    "INSERT INTO response (pk, id, owner, parent, root, branch, depth, since, status, kept, token, model, channel,"
    " client, created_at, completed_at, first_byte_ms, total_ms, input_tokens, cached_tokens, cache_write_tokens,"
    f" output_tokens, reasoning_tokens, cost) VALUES (?, {_id('?')}, 'owner-3', ?, ?, ?, ?, 0, 'completed', 1, 4,"
    " 'model-1', 'channel-1', 'client-1', ?, ?, 400, 3000, ?, 500, 0, 100, 0, 2000)"
)


def _large_conversation(url: str, now: int) -> str:
    root, branch = RESPONSES + 1, RESPONSES // TREE + 1
    turns: list[tuple[Any, ...]] = []
    branches: list[tuple[Any, ...]] = [(branch, None, None)]

    def say(parent: int | None, branch: int, depth: int) -> int:
        key = root + len(turns)
        at = now - TRUNK - BRANCHES * BRANCH_TURNS + len(turns)
        turns.append((key, key, parent, None if key == root else root, branch, depth, at, at, 100 * depth))
        return key

    newest: int | None = None
    for depth in range(1, TRUNK + 1):
        newest = say(newest, branch, depth)
        if depth % (TRUNK // BRANCHES) == 0 and depth < TRUNK:
            branches.append((branch + len(branches), branch, depth))
            tip = newest
            for further in range(1, BRANCH_TURNS + 1):
                tip = say(tip, branches[-1][0], depth + further)
    rows.execute_many(url, "INSERT INTO branch (pk, parent, fork) VALUES (?, ?, ?)", branches)
    rows.execute_many(url, _TURN, turns)
    return f"resp_{root:048x}"
