"""What storing conversations costs: bytes a turn as a chain grows, and how long a chain of a thousand turns takes to
load. `python -m tests.bench.storage` prints a table and, after it, the same as JSON.
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from statistics import median
from typing import Any
from unittest.mock import patch

import click
import orjson

from app import ids
from app.contract.items import new_item_id
from app.contract.records import Draft, Outcome
from app.contract.usage import Usage
from app.store.database import Database, Session
from app.store.store import Store
from tests.databases import Server, running_server
from tests.store import rows

OWNER = "ada"
CONVERSATIONS = 16
"""That grow side by side: bytes come in pages, and the more rows there are the less a page counts."""
EARLY, LATE, HALF = 100, 1000, 50
PAYLOAD = 2048
INNODB_PAGE = 16384
LOADS = 40
DEPTHS = (10, 100, 1000)
COLUMNS = (
    ("turns written a second", "turns_per_second"),
    (f"bytes a turn at turn {EARLY}", "bytes_early"),
    (f"bytes a turn at turn {LATE:,}", "bytes_late"),
    ("late / early (at most 1.05)", "growth"),
    ("late / payload (SQLite at most 1.6)", "overhead"),
    *((f"load of {depth:,} turns, ms, best / median", f"load_{depth}") for depth in DEPTHS),
    (f"the same of {LATE:,} that grew among others", "load_scattered"),
    ("turns pruned a second", "pruned_per_second"),
    ("longest transaction of it, ms (at most 100)", "pruning_held_ms"),
)

Measured = dict[str, Any]
Progress = Callable[[int], None]
"""Takes the number of turns written."""


def write_turn(store: Store, parent: str | None) -> str:
    """A turn of PAYLOAD bytes, half of them in the question and half in the answer."""
    response_id, message_id = ids.new("resp"), new_item_id("message")
    question = [{"type": "message", "role": "user", "content": ""}]
    answered = [
        {
            "id": message_id,
            "type": "message",
            "status": "completed",
            "role": "assistant",
            "content": [{"type": "output_text", "text": "", "annotations": [], "logprobs": []}],
        }
    ]
    question[0]["content"] = "q" * (PAYLOAD // 2 - len(orjson.dumps(question)))
    answered[0]["content"][0]["text"] = "a" * (PAYLOAD // 2 - len(orjson.dumps(answered)))  # type: ignore[index]
    now = int(time.time())
    draft = Draft(
        response_id,
        OWNER,
        1,
        "gpt-6-sol",
        now,
        parent,
        streamed=True,
        request_id=ids.new("req"),
        settings=b'{"instructions":"Be kind."}',
        input=orjson.dumps(question),
    )
    outcome = Outcome(
        "completed",
        now,
        output=orjson.dumps(answered),
        item_ids=(message_id,),
        usage=Usage(1234, 1000, 0, 250, 0),
        channel="openai",
        family="openai",
        upstream_model="gpt-6-sol",
        upstream_id=ids.new("resp"),
        first_byte_ms=321,
        total_ms=4321,
    )
    assert store.responses.finish(draft, outcome)
    return response_id


def grow(store: Store, lines: list[list[str]], until: int, progress: Progress) -> None:
    """Goes on with all conversations, turn by turn, until they are so long."""
    while len(lines[0]) < until:
        for line in lines:
            line.append(write_turn(store, line[-1] if line else None))
        progress(len(lines))


def measure_bytes(store: Store, url: str, lines: list[list[str]], progress: Progress) -> Measured:
    """Bytes that one more turn takes, early and late in its conversation."""
    sizes: dict[int, int] = {}
    for turn in (EARLY - HALF, EARLY + HALF, LATE - HALF, LATE + HALF):
        grow(store, lines, turn, progress)
        sizes[turn] = used_bytes(url)

    def bytes_at(turn: int) -> float:
        return (sizes[turn + HALF] - sizes[turn - HALF]) / (2 * HALF * len(lines))

    early, late = bytes_at(EARLY), bytes_at(LATE)
    return {
        "bytes_early": round(early),
        "bytes_late": round(late),
        "growth": round(late / early, 3),
        "overhead": round(late / PAYLOAD, 3),
    }


def used_bytes(url: str) -> int:
    if url.startswith("sqlite"):
        (pages,) = rows.execute(url, "SELECT page_count FROM pragma_page_count")
        (free,) = rows.execute(url, "SELECT freelist_count FROM pragma_freelist_count")
        (size,) = rows.execute(url, "SELECT page_size FROM pragma_page_size")
        return int((pages[0] - free[0]) * size[0])
    for table in ("response", "content", "item", "branch", "setting"):
        rows.execute(url, f"ANALYZE TABLE {table}")
    # Pages in use: what a table has reserved grows by the megabyte.
    ((pages,),) = rows.execute(
        url,
        "SELECT CAST(SUM(stat_value) AS UNSIGNED) FROM mysql.innodb_index_stats"
        " WHERE database_name = DATABASE() AND stat_name = 'n_leaf_pages'",
    )
    return int(pages) * INNODB_PAGE


def measure(url: str, progress: Progress) -> Measured:
    store = Store(url, peppers=[b"p"])
    store.schema.upgrade()
    lines: list[list[str]] = [[] for _ in range(CONVERSATIONS)]
    alone: list[list[str]] = [[]]
    started = time.perf_counter()
    measured = measure_bytes(store, url, lines, progress)
    measured["turns_per_second"] = round(CONVERSATIONS * (LATE + HALF) / (time.perf_counter() - started))
    grow(store, alone, LATE, progress)
    for depth in DEPTHS:
        measured[f"load_{depth}"] = _loads(store, alone[0][depth - 1])
    measured["load_scattered"] = _loads(store, lines[0][LATE - 1])
    rows.execute(url, "UPDATE response SET created_at = 1")
    started = time.perf_counter()
    with _timed_transactions(store.database) as held:
        (*_, pruned) = store.maintenance.prune(int(time.time()) - 2 * 86_400)
    measured["pruned_per_second"] = round(pruned.responses / (time.perf_counter() - started))
    measured["pruning_held_ms"] = round(max(held) * 1000, 1)
    store.close()
    return measured


@contextmanager
def _timed_transactions(database: Database) -> Iterator[list[float]]:
    """Seconds from the lock of each transaction to its end."""
    held: list[float] = []
    transaction = database.transaction

    def timed(work: Callable[[Session], Any], deadline: float | None = None) -> Any:
        began = 0.0

        def locked(session: Session) -> Any:
            nonlocal began
            began = time.perf_counter()
            return work(session)

        done = transaction(locked, deadline)
        held.append(time.perf_counter() - began)
        return done

    with patch.object(database, "transaction", timed):
        yield held


def _loads(store: Store, tip: str) -> list[float]:
    """Milliseconds: the best and the median."""
    took = []
    for _ in range(LOADS):
        started = time.perf_counter()
        store.responses.chain(OWNER, tip)
        took.append((time.perf_counter() - started) * 1000)
    return [round(min(took), 2), round(median(took), 2)]


@contextmanager
def databases() -> Iterator[dict[str, str]]:
    """SQLite in a file, and a MariaDB server that is started for it."""
    with tempfile.TemporaryDirectory() as folder:
        urls = {"sqlite": f"sqlite:///{folder}/antiphon.db"}
        (data := Path(folder) / "mariadb").mkdir()
        with running_server(data) as server:
            yield {**urls, "mariadb": _new_database(server)}


def _new_database(server: Server) -> str:
    server.run("CREATE DATABASE antiphon")
    return server.url("antiphon")


def main() -> None:
    with databases() as urls:
        length = len(urls) * (CONVERSATIONS * (LATE + HALF) + LATE)
        with click.progressbar(length=length, label="turns", file=sys.stderr) as bar:
            progress = bar.update if sys.stderr.isatty() else lambda steps: None
            found = {name: measure(url, progress) for name, url in urls.items()}
    print(f"\n{f'turns of {PAYLOAD:,} bytes':<40}" + "".join(f"{name:>18}" for name in found))
    for title, key in COLUMNS:
        cells = (measured[key] for measured in found.values())
        print(f"{title:<40}" + "".join(f"{_cell(value):>18}" for value in cells))
    print(orjson.dumps(found, option=orjson.OPT_INDENT_2).decode())


def _cell(value: Any) -> str:
    return " / ".join(map(str, value)) if isinstance(value, list) else f"{value:,}"


if __name__ == "__main__":
    with suppress(KeyboardInterrupt):
        main()
