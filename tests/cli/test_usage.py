"""antiphon usage, from the sums of a database."""

from __future__ import annotations

import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import orjson
import pytest

from app.contract.usage import Usage
from app.store.store import Store
from tests.gateway import Gateway
from tests.store.turns import draft, outcome

USAGE, DAY = 2, 86_400
DEMO = {"name": "demo", "format": "demo", "models": ["demo"]}


@pytest.fixture
def directory(tmp_path: Path, database_url: str) -> Gateway:
    """A gateway that is not started, after two requests of today with a token and one of three days ago without."""
    gateway = Gateway(tmp_path, [DEMO], database_url=database_url)
    gateway.command("db", "upgrade")
    store = Store(database_url, peppers=[b"p"])
    token, _ = store.tokens.create("laptop", "ada")
    now = int(time.time())
    for status, channel, owner, when in (
        ("completed", "a", token.key, now),
        ("failed", "b", token.key, now),
        ("completed", "a", None, now - 3 * DAY),
    ):
        ended = outcome(status, channel=channel, completed_at=when, usage=Usage(1000, 400, 100, 20, 5))
        store.responses.finish(draft(token=owner), ended)
    store.close()
    return gateway


def _used(directory: Gateway, *options: str) -> list[dict[str, Any]]:
    used: list[dict[str, Any]] = orjson.loads(directory.command("usage", "--json", *options))["usage"]
    return used


def test_usage_is_summed_by_the_requested_key(directory: Gateway) -> None:
    assert [(row["channel"], row["requests"], row["failed"]) for row in _used(directory, "--by", "channel")] == [
        ("a", 2, 0),
        ("b", 1, 1),
    ]
    assert [(row["token"], row["requests"]) for row in _used(directory, "--by", "token")] == [("laptop", 2), ("", 1)]
    assert [row["input_tokens"] for row in _used(directory, "--by", "day")] == [1000, 2000]
    (row,) = _used(directory, "--by", "model")
    assert (row["input_tokens"], row["cached_tokens"], row["output_tokens"], row["reasoning_tokens"]) == (
        3000,
        1200,
        60,
        15,
    )


def test_since_is_a_duration_or_a_day(directory: Gateway) -> None:
    today = datetime.now(UTC).date().isoformat()
    assert sum(row["requests"] for row in _used(directory, "--since", "1d")) == 2
    assert sum(row["requests"] for row in _used(directory, "--since", "4d")) == 3
    assert [row["day"] for row in _used(directory, "--since", today)] in ([today], [])
    directory.command("usage", "--since", "yesterday", exit_code=USAGE)


def test_people_are_shown_a_total(directory: Gateway) -> None:
    lines = directory.command("usage", "--by", "channel").splitlines()
    assert lines[0].split()[:3] == ["channel", "requests", "failed"]
    assert lines[-1].split()[:4] == ["total", "3", "1", "3,000"]
