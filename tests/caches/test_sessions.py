"""Six sessions behind four kinds of caches: the gateway costs them next to nothing of what could be cached."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.caches.sessions import SESSIONS
from tests.caches.share_table import LEAST, SERVERS, House, house, read
from tests.gateway import ROOT

#: Percentage points by which the table of the README may differ.
TOLERANCE = 0.005
README = read((ROOT / "README.md").read_text().split("\n### Prompt caches\n")[1].split("\n## ")[0])
CASES = [(session, server) for server in SERVERS for session in SESSIONS]

#: One process runs them all, with one gateway.
pytestmark = pytest.mark.xdist_group("cached sessions")


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    with house(tmp_path_factory.mktemp("caches")) as running:
        yield running


@pytest.mark.parametrize(("session", "server"), CASES)
def test_a_session_gets_what_a_cache_can_give(running: House, session: str, server: str) -> None:
    share = running.run(session, server).share
    assert share.ratio >= LEAST, str(share)
    # `make caches` prints the table.
    assert README[session, server] == pytest.approx(share.ratio, abs=TOLERANCE)


def test_the_readme_has_no_other_rows() -> None:
    assert set(README) == set(CASES)
