"""Six sessions behind four kinds of caches: the gateway costs them next to nothing of what could be cached."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from functools import partial

import pytest

from app.reports.cache import CacheReport, Reason, explain
from app.store.store import Store
from tests.caches.sessions import SESSIONS
from tests.caches.share_table import LEAST, SERVERS, House, Run, read
from tests.gateway import ROOT
from tests.relay.conftest import eventually

#: Percentage points by which the table of the README may differ.
TOLERANCE = 0.005
README = read((ROOT / "README.md").read_text().split("\n### Prompt caches\n")[1].split("\n## ")[0])
CASES = [(session, server) for server in SERVERS for session in SESSIONS]


@pytest.mark.parametrize(("session", "server"), CASES)
def test_a_session_gets_what_a_cache_can_give(running: House, store: Store, session: str, server: str) -> None:
    ended = running.run(session, server)
    share = ended.share
    assert share.ratio >= LEAST, str(share)
    # `make caches` prints the table.
    assert README[session, server] == pytest.approx(share.ratio, abs=TOLERANCE)
    reasons = Counter(report.reason for report in reports(store, ended, is_named=session.startswith("Codex")))
    moves = reasons.pop(Reason.CHANNEL, 0)
    assert (moves, set(reasons)) == (ended.moves, {Reason.FIRST, Reason.HIT}), reasons
    assert reasons[Reason.FIRST] <= 2


def reports(store: Store, ended: Run, *, is_named: bool) -> Iterator[CacheReport]:
    """`is_named`: the client keeps its conversation and names it. Its turns are compared behind the answers."""
    for number, response in enumerate(ended.responses):
        report: CacheReport = eventually(
            partial(found, store, response["id"], is_named=is_named and number > 0), "the report"
        )
        yield report


def found(store: Store, response_id: str, *, is_named: bool) -> CacheReport | None:
    places = store.trees.find(response_id)
    report = explain(store, *places[0]) if places else None
    return report if report and (report.before or not is_named) else None


def test_the_readme_has_no_other_rows() -> None:
    assert set(README) == set(CASES)
