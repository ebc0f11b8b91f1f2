"""A client that sends reasoning back without its encrypted content: model and cache get every thought again."""

from __future__ import annotations

import pytest

from tests.caches.share_table import House
from tests.caches.simulator import Account


@pytest.mark.parametrize("server", ["marks", "marks, budget"])
def test_every_thought_goes_back_in_every_turn(running: House, server: str) -> None:
    account: Account = running.run("Agents SDK, stateless", server).account
    assert [thoughts(read.request.raw) for read in account.reads] == list(range(len(account.reads)))
    # Another form of thinking in the steps of a tool would cost what is cached of the messages.
    assert len({str(read.request.body["thinking"]) for read in account.reads}) == 1
    assert account.reads[-1].reading.cached == account.reads[-2].prompt.tokens


def thoughts(body: bytes) -> int:
    return body.count(b'"type":"thinking","thinking"')
