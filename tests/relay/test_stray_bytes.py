"""What an upstream sends beside its answers never becomes the answer to another request."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import pytest
import requests

from tests.gateway import Gateway
from tests.relay.conftest import PROMPTLY, on_both_transports, text_of
from tests.response_contract import check_response, check_stream
from tests.upstream import FIN, Answer, Exchange, Pause, Piece, ScriptedUpstream, followed, framed, self_signed

pytestmark = on_both_transports

POISON = b'{"id":"resp_p","object":"response","status":"completed","output":[{"type":"message","id":"msg_p",\
"role":"assistant","status":"completed","content":[{"type":"output_text","text":"POISON","annotations":[]}]}]}'
WHOLE = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%b" % (len(POISON), POISON)
TIMED_OUT = b"HTTP/1.1 408 Request Timeout\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"
STRAYS: dict[str, tuple[Piece, ...]] = {
    "a whole answer": (WHOLE,),
    "half an answer": (WHOLE[:40],),
    "an interim answer": (b"HTTP/1.1 103 Early Hints\r\n\r\n",),
    "an interim answer and one": (b"HTTP/1.1 100 Continue\r\n\r\n" + WHOLE,),
    "an empty line": (b"\r\n",),
    "a timeout": (TIMED_OUT, FIN),
    "the end": (FIN,),
}
DELAYS = [0.0, 0.02, 0.2]
#: Answers on a new connection that Linux confirms at once.
_QUICK = 16


@dataclass(frozen=True, slots=True)
class Side:
    """A gateway, and one of its channels whose upstream speaks either plainly or over TLS."""

    gateway: Gateway
    upstream: ScriptedUpstream
    model: str
    stranger: str
    """A token of another owner."""

    def ask(self, streamed: bool, word: str, token: str | None = None) -> requests.Response:
        body = {"model": self.model, "input": word, "stream": streamed}
        return self.gateway.request("POST", "/responses", token, json=body)


@pytest.fixture(scope="module")
def sides(tmp_path_factory: pytest.TempPathFactory, transport: str) -> Iterator[dict[str, Side]]:
    directory = tmp_path_factory.mktemp("sides")
    context, authority = self_signed(directory)
    with (
        ScriptedUpstream(models=["plain"]) as plain,
        ScriptedUpstream(models=["tls"], tls=context) as secure,
        ScriptedUpstream(models=["holding"], nodelay=0) as holding,
    ):
        rows = [plain.channel("plain"), secure.channel("tls", ca_file=str(authority)), holding.channel("holding")]
        with Gateway(directory, rows, mover=transport) as gateway:
            stranger = gateway.new_token("bob", "--owner", "bob")
            yield {
                "plain": Side(gateway, plain, "plain", stranger),
                "tls": Side(gateway, secure, "tls", stranger),
                "holding": Side(gateway, holding, "holding", stranger),
            }


@pytest.fixture(params=["plain", "tls"])
def side(request: pytest.FixtureRequest, sides: dict[str, Side]) -> Iterator[Side]:
    side = sides[request.param]
    side.upstream.reset()
    yield side
    side.upstream.reset()


def answer_text(answer: requests.Response, streamed: bool) -> str:
    assert answer.status_code == 200, answer.text
    response = check_stream(answer.content)[-1]["response"] if streamed else answer.json()
    return text_of(check_response(response, status="completed"))


def poisoned(side: Side, streamed: bool, framing: Any, *stray: Piece) -> None:
    """An answer with something behind it; returns when that has been sent."""
    written = threading.Event()
    side.upstream.enqueue(framed(framing), followed(written, *stray))
    assert "alice" in answer_text(side.ask(streamed, "alice"), streamed)
    assert written.wait(PROMPTLY)


@pytest.mark.parametrize("framing", ["chunked", "length"])
@pytest.mark.parametrize("streamed", [True, False])
@pytest.mark.parametrize("delay", DELAYS)
def test_bytes_that_come_late_are_no_answer_to_another_owner(
    side: Side, framing: str, streamed: bool, delay: float
) -> None:
    poisoned(side, streamed, framing, Pause(delay), WHOLE)
    assert "bob" in answer_text(side.ask(streamed, "bob", side.stranger), streamed)


@pytest.mark.parametrize("streamed", [True, False])
@pytest.mark.parametrize("side", ["holding"], indirect=True)
def test_bytes_that_wait_for_a_confirmation_are_no_answer_to_another_owner(side: Side, streamed: bool) -> None:
    """A kernel holds a small write back until the one before it is confirmed, for which Linux takes its time: what was
    written behind an answer would come with the next request.
    """
    for _ in range(2):
        for _ in range(_QUICK):
            answer_text(side.ask(streamed, "warm"), streamed)
        written = threading.Event()
        side.upstream.enqueue(twice, followed(written))
        assert "alice" in answer_text(side.ask(streamed, "alice"), streamed)
        assert written.wait(PROMPTLY)
        assert "bob" in answer_text(side.ask(streamed, "bob", side.stranger), streamed)


def twice(_: Exchange, answer: Answer) -> Answer:
    """The whole answer with one write, and once more behind it."""
    head = f"HTTP/1.1 200 OK\r\nContent-Type: {answer.headers['Content-Type']}\r\nContent-Length: {len(answer.body)}"
    return replace(answer, lead=(head.encode() + b"\r\n\r\n" + answer.body,))


@pytest.mark.parametrize("framing", ["chunked", "length"])
@pytest.mark.parametrize("stray", STRAYS)
def test_bytes_after_an_answer_end_its_connection(side: Side, framing: str, stray: str) -> None:
    answer_text(side.ask(False, "warm"), False)
    poisoned(side, False, framing, *STRAYS[stray])
    assert "bob" in answer_text(side.ask(False, "bob", side.stranger), False)
    warm, alice, bob = side.upstream.requests
    assert warm.connection == alice.connection != bob.connection


def test_a_connection_on_which_nothing_came_serves_again(side: Side) -> None:
    for _ in range(3):
        for streamed in (True, False):
            answer_text(side.ask(streamed, "again"), streamed)
    assert len({request.connection for request in side.upstream.requests}) == 1
