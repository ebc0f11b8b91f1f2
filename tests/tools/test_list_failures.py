"""For how long a server that did not list its tools is not asked again."""

from __future__ import annotations

from dataclasses import replace

import pytest

from app.contract.tools import ToolServer
from app.tools import failure
from app.tools.failure import Failure
from app.tools.list_failures import ListFailures

DOCS = ToolServer("docs", "https://docs.example/mcp")
OWN = replace(DOCS, from_client=True)
DOWN = failure.unreachable("it refuses connections")


def pauses(failures: ListFailures, server: ToolServer, count: int) -> list[float]:
    """Fails each time that the server is asked; how many seconds each failure counts."""
    found, now = [], 1000.0
    for _ in range(count):
        failures.note(server, DOWN, now)
        found.append(next(seconds for seconds in range(1000) if failures.current(server, now + seconds) is None))
        now += found[-1]
    return found


def test_the_pause_grows_until_the_server_lists_its_tools() -> None:
    failures = ListFailures()
    assert pauses(failures, DOCS, 5) == [10, 20, 40, 60, 60]
    failures.clear()
    assert pauses(failures, DOCS, 2) == [10, 20]


def test_the_pause_of_a_clients_own_server_does_not_grow() -> None:
    """Each request has a value of its own for it."""
    failures = ListFailures()
    assert pauses(failures, OWN, 3) == [10, 10, 10]
    assert failures.current(replace(OWN), 1020.0) is DOWN


def test_a_row_of_a_new_table_is_asked() -> None:
    failures = ListFailures()
    failures.note(DOCS, DOWN, 0.0)
    assert failures.current(DOCS, 1.0) is DOWN
    assert failures.current(replace(DOCS), 1.0) is None


@pytest.mark.parametrize(
    ("why", "counts"),
    [
        *((failure.refused(status), False) for status in (400, 401, 403, 404)),
        *((failure.refused(status), True) for status in (408, 429, 500, 503)),
        (failure.not_listed_in_time(5), True),
        (failure.not_opened_in_time(5), True),
        (failure.lost(), True),
        (failure.redirected(307), False),
        (failure.protocol_error(-32603, "no"), True),
    ],
    ids=lambda value: value.words if isinstance(value, Failure) else None,
)
def test_a_refusal_does_not_count(why: Failure, counts: bool) -> None:
    failures = ListFailures()
    failures.note(DOCS, why, 0.0)
    assert (failures.current(DOCS, 1.0) is why) is counts
