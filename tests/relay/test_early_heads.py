"""Streams whose upstream takes long to begin: the client gets its header, the first two events and signs of life all
the same, and from then on every end is an event."""

from __future__ import annotations

import os
import signal
import socket
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson
import pytest
import requests

from app.sse import HEARTBEAT
from tests.gateway import Gateway, portions, reset
from tests.relay.conftest import (
    LONG_TIMEOUTS,
    PROMPTLY,
    SOME_TEXT,
    ChannelPair,
    check_failed_stream,
    eventually,
    on_both_transports,
    pair,
    read_until,
    response_id_in,
    text_of,
)
from tests.response_contract import check_error, check_response, check_stream
from tests.upstream import (
    Script,
    ScriptedUpstream,
    black_hole,
    ended,
    failing_at_once,
    json_instead,
    mute,
    refusal,
    silent,
    slammed,
    stalled,
)
from tests.websocket_client import Socket, check_frames

JSON = dict[str, Any]
#: Seconds after which a head leaves here, and those between two heartbeats.
SOON = 0.2
#: Seconds to connect: longer than any test waits.
NEVER = {**LONG_TIMEOUTS, "connect": 60}
BEGUN = ["response.created", "response.in_progress"]
FILLER = " and there was much more about it" * 100
DUE = [{"type": "compaction", "compact_threshold": 100}]
LEAVINGS: dict[str, Callable[[socket.socket], None]] = {
    "FIN": lambda sock: sock.close(),
    "RST": reset,
}

pytestmark = on_both_transports


@dataclass(frozen=True, slots=True)
class Stage:
    gateway: Gateway
    first: ScriptedUpstream
    second: ScriptedUpstream

    def body(self, **keys: Any) -> JSON:
        return {"model": "m", "input": "Say something to me", "stream": True, **keys}

    def stream(self, path: str = "/responses", **keys: Any) -> Begun:
        return Begun(self.gateway.stream(self.body(**keys), path))

    def dial(self, **keys: Any) -> socket.socket:
        return self.gateway.dial(self.body(**keys))

    def talk(self) -> str:
        """A conversation that is long enough to be compacted; its newest response."""
        previous = None
        for _ in range(2):
            body = self.body(stream=False, input=f"Note this:{FILLER}", previous_response_id=previous)
            previous = self.gateway.post("/responses", body).json()["id"]
        self.first.reset()
        assert previous is not None
        return previous

    def stored(self, response_id: str) -> JSON:
        return dict(self.gateway.get(f"/responses/{response_id}").json())

    def is_cancelled(self, response_id: str) -> None:
        stored = eventually(
            lambda: (found := self.stored(response_id))["status"] != "in_progress" and found, "the row to be closed"
        )
        check_response(stored, status="cancelled")


class Begun:
    """A stream that is read in two parts: up to a mark, and the rest."""

    def __init__(self, answer: requests.Response) -> None:
        assert answer.status_code == 200, answer.text
        self.answer = answer
        self.raw = b""
        self._portions = portions(answer)

    def until(self, mark: bytes) -> bytes:
        while mark not in self.raw:
            self.raw += next(self._portions)
        return self.raw

    def begun(self) -> str:
        """Once the head has come; the id that it names."""
        self.until(b"event: response.in_progress")
        assert kinds(self.raw) == BEGUN
        return response_id_in(self.raw)

    def rest(self) -> bytes:
        self.raw += b"".join(self._portions)
        return self.raw


def kinds(raw: bytes) -> list[str]:
    return [line[7:].decode() for line in raw.split(b"\n") if line.startswith(b"event: ")]


@pytest.fixture(scope="session")
def _slow(
    tmp_path_factory: pytest.TempPathFactory, upstreams: tuple[ScriptedUpstream, ScriptedUpstream], transport: str
) -> Iterator[Gateway]:
    with (
        black_hole() as unconnected,
        mute() as unsecured,
        Gateway(
            tmp_path_factory.mktemp("slow"),
            rows(*upstreams, unconnected=unconnected, unsecured=unsecured),
            mover=transport,
            header_after=SOON,
            heartbeat=SOON,
            threads=64,
            worker_processes=1,
        ) as gateway,
    ):
        yield gateway


def rows(first: ScriptedUpstream, second: ScriptedUpstream, **unreachable: str) -> list[JSON]:
    """`unreachable`: base URLs by the names of models that nothing else serves."""
    return [
        *pair("m", first, second, timeout=LONG_TIMEOUTS, cooldown={"after": 1000}, chat=True),
        *(first.channel(name, models=[name], base_url=url, timeout=dict(NEVER)) for name, url in unreachable.items()),
        first.channel("native", models=["native"], compact="native", timeout=LONG_TIMEOUTS, api_key="${KEY_OF_FIRST}"),
    ]


@pytest.fixture
def slow(_slow: Gateway, upstreams: tuple[ScriptedUpstream, ScriptedUpstream]) -> Iterator[Stage]:
    for upstream in upstreams:
        upstream.reset()
    yield Stage(_slow, *upstreams)
    for upstream in upstreams:
        upstream.reset()


# --- an upstream that is silent ---------------------------------------------------------------------------------


def test_the_head_and_heartbeats_come_before_the_upstream_says_anything(slow: Stage) -> None:
    slow.first.enqueue(silent())
    stream = slow.stream()
    response_id = stream.begun()
    assert slow.stored(response_id)["status"] == "in_progress"
    stream.until(HEARTBEAT * 2)
    slow.first.release()
    final = check_stream(stream.rest(), status="completed")[-1]["response"]
    assert final["id"] == response_id
    assert slow.stored(response_id) == final
    assert stream.answer.headers["X-Accel-Buffering"] == "no"
    assert stream.answer.headers["X-Request-Id"]


def test_an_upstream_that_answers_in_one_piece_after_long_is_streamed(slow: Stage) -> None:
    slow.first.enqueue(json_instead(), silent())
    stream = slow.stream()
    stream.begun()
    slow.first.release()
    check_stream(stream.rest(), status="completed")


@pytest.mark.parametrize("failure", [refusal(400, "No.", "invalid_value"), slammed(), failing_at_once()])
def test_a_failure_after_the_head_becomes_events(slow: Stage, failure: Script) -> None:
    slow.first.enqueue(failure, silent())
    # A connection from an earlier test may break: then the request is sent again on a new one.
    slow.first.enqueue(failure)
    slow.second.enqueue(failure, times=2)
    stream = slow.stream()
    response_id = stream.begun()
    slow.first.release()
    failed = check_failed_stream(stream.rest())[-1]["response"]
    assert kinds(stream.raw) == [*BEGUN, "error", "response.failed"]
    stored = check_response(slow.stored(response_id), status="failed")
    assert stored["error"] == failed["error"]


def test_a_failure_that_comes_in_time_is_a_status_line(channel_pair: ChannelPair) -> None:
    """On a gateway that holds the head back for longer than any failure takes."""
    channel_pair.first.enqueue(refusal(400, "No.", "invalid_value"))
    check_error(channel_pair.stream(), 400, "invalid_value")


def test_another_channel_goes_on_under_the_same_head(slow: Stage) -> None:
    slow.first.enqueue(refusal(500), silent())
    slow.second.enqueue(silent())
    stream = slow.stream()
    response_id = stream.begun()
    slow.first.release()
    slow.second.wait_for_request()
    slow.second.release()
    final = check_stream(stream.rest(), status="completed")[-1]["response"]
    assert final["id"] == response_id
    assert kinds(stream.raw)[:2] == BEGUN
    assert stream.raw.count(b"event: response.created") == 1


def test_heartbeats_go_on_while_another_channel_is_tried_behind_the_head(slow: Stage) -> None:
    """The first has accepted and broken off before its first output event; the second takes its time."""
    slow.first.enqueue(ended(2))
    slow.second.enqueue(silent())
    stream = slow.stream()
    stream.until(HEARTBEAT)
    slow.second.release()
    check_stream(stream.rest(), status="completed")
    assert stream.raw.count(b"event: response.created") == 1


@pytest.mark.parametrize("leaving", LEAVINGS)
def test_leaving_after_the_head(slow: Stage, leaving: str) -> None:
    slow.first.enqueue(silent())
    with slow.dial() as sock:
        received = read_until(sock, b"response.in_progress")
        LEAVINGS[leaving](sock)
        slow.first.wait_hangup(timeout=PROMPTLY)
    slow.is_cancelled(response_id_in(received))
    assert slow.second.requests == []


def test_a_response_that_is_deleted_meanwhile_ends(slow: Stage) -> None:
    slow.first.enqueue(silent())
    stream = slow.stream()
    response_id = stream.begun()
    assert slow.gateway.delete(f"/responses/{response_id}").status_code == 200
    slow.first.wait_hangup(timeout=PROMPTLY)
    check_failed_stream(stream.rest(), "response_cancelled")


def test_without_the_store_it_is_the_same(slow: Stage) -> None:
    slow.first.enqueue(silent())
    stream = slow.stream(store=False)
    stream.begun()
    slow.first.release()
    check_stream(stream.rest(), status="completed", store=False)


def test_a_client_of_http_1_0_gets_them_too(slow: Stage) -> None:
    slow.first.enqueue(silent())
    body = orjson.dumps(slow.body())
    head = f"POST /v1/responses HTTP/1.0\r\nAuthorization: Bearer {slow.gateway.token}\r\n"
    head += f"Content-Length: {len(body)}\r\n\r\n"
    with socket.create_connection(("127.0.0.1", slow.gateway.port)) as sock:
        sock.settimeout(PROMPTLY)
        sock.sendall(head.encode() + body)
        received = read_until(sock, b"response.in_progress")
        slow.first.release()
        while data := sock.recv(65536):
            received += data
    check_stream(received.partition(b"\r\n\r\n")[2], status="completed")


# --- an upstream that cannot be reached ----------------------------------------------------------------------------


@pytest.mark.parametrize("model", ["unconnected", "unsecured"])
def test_the_head_comes_and_a_hangup_is_seen_while_a_connection_is_opened(slow: Stage, model: str) -> None:
    with slow.dial(model=model) as sock:
        received = read_until(sock, HEARTBEAT)
    slow.is_cancelled(response_id_in(received))


# --- a compaction before the answer -----------------------------------------------------------------------------


def test_a_compaction_that_takes_long_is_not_mute(slow: Stage) -> None:
    previous = slow.talk()
    slow.first.enqueue(silent())
    stream = slow.stream(previous_response_id=previous, context_management=DUE)
    response_id = stream.begun()
    slow.first.release()
    final = check_stream(stream.rest(), status="completed")[-1]["response"]
    assert [item["type"] for item in final["output"]] == ["compaction", "message"]
    assert final["id"] == response_id
    assert slow.stored(response_id) == final


@pytest.mark.parametrize("begun", [False, True], ids=["silent", "while it writes"])
def test_leaving_during_a_compaction_closes_the_upstream(slow: Stage, begun: bool) -> None:
    previous = slow.talk()
    slow.first.enqueue(stalled(SOME_TEXT) if begun else silent())
    with slow.dial(previous_response_id=previous, context_management=DUE) as sock:
        received = read_until(sock, b"response.in_progress")
        sock.close()
        slow.first.wait_hangup(timeout=PROMPTLY)
    slow.is_cancelled(response_id_in(received))
    assert len(slow.first.bodies) == 1


def test_a_native_compaction_is_not_mute_either(slow: Stage) -> None:
    previous = slow.talk()
    slow.first.enqueue(silent())
    stream = slow.stream(model="native", previous_response_id=previous, context_management=DUE)
    stream.begun()
    slow.first.release()
    check_stream(stream.rest(), status="completed")


def test_a_compaction_without_an_answer_sends_heartbeats(slow: Stage) -> None:
    previous = slow.talk()
    slow.first.enqueue(silent())
    stream = slow.stream(previous_response_id=previous, input=[{"type": "compaction_trigger"}])
    response_id = stream.begun()
    slow.first.release()
    final = check_stream(stream.rest(), status="completed")[-1]["response"]
    assert [item["type"] for item in final["output"]] == ["compaction"]
    assert slow.stored(response_id) == final


@pytest.mark.parametrize("path", ["/responses", "/responses/compact"])
def test_a_compaction_that_fails_after_the_head_becomes_events(slow: Stage, path: str) -> None:
    previous = slow.talk()
    slow.first.enqueue(refusal(500), silent())
    slow.second.enqueue(refusal(500))
    new_input: Any = [{"type": "compaction_trigger"}] if path == "/responses" else "And now?"
    stream = slow.stream(path, previous_response_id=previous, input=new_input)
    response_id = stream.begun()
    slow.first.release()
    check_failed_stream(stream.rest(), "compaction_failed")
    check_response(slow.stored(response_id), status="failed")


# --- chat completions -------------------------------------------------------------------------------------------

CHAT = "/chat/completions"


def chat(**keys: Any) -> JSON:
    return {"input": None, "messages": [{"role": "user", "content": "Say something"}], **keys}


def test_a_chat_stream_is_not_mute_either(slow: Stage) -> None:
    slow.first.enqueue(silent())
    stream = slow.stream(CHAT, **chat())
    assert stream.until(HEARTBEAT).replace(HEARTBEAT, b"") == b""
    slow.first.release()
    assert stream.rest().endswith(b"data: [DONE]\n\n")
    assert b'"finish_reason":"stop"' in stream.raw


def test_a_chat_stream_that_fails_after_its_header_says_so(slow: Stage) -> None:
    slow.first.enqueue(refusal(400, "No.", "invalid_value"), silent())
    stream = slow.stream(CHAT, **chat())
    stream.until(HEARTBEAT)
    slow.first.release()
    error = stream.rest().replace(HEARTBEAT, b"").removeprefix(b"data: ")
    check_error(orjson.loads(error), code="invalid_value")


# --- other transports -------------------------------------------------------------------------------------------


def test_a_web_socket_gets_the_first_frames_too(slow: Stage) -> None:
    slow.first.enqueue(silent())
    with Socket(slow.gateway, ping_interval=None) as sock:
        sock.ask()
        begun = [sock.receive() for _ in BEGUN]
        assert [frame["type"] for frame in begun] == BEGUN
        slow.first.release()
        frames = [*begun, *sock.rest()]
        check_frames(frames, status="completed")
        assert sock.answer()["status"] == "completed"


def test_a_failure_on_a_web_socket_is_one_frame(slow: Stage) -> None:
    slow.first.enqueue(refusal(400, "No.", "invalid_value"), silent())
    with Socket(slow.gateway) as sock:
        sock.ask(stream_id="one")
        begun = [sock.receive() for _ in BEGUN]
        slow.first.release()
        (failed,) = sock.rest()
        assert failed["type"] == "response.failed"
        assert failed["sequence_number"] == len(begun) + 1
        assert {frame["stream_id"] for frame in (*begun, failed)} == {"one"}
        assert sock.turn(stream_id="one")[-1]["type"] == "response.completed"


def test_a_web_socket_that_is_closed_meanwhile_closes_the_upstream(slow: Stage) -> None:
    slow.first.enqueue(silent())
    with Socket(slow.gateway) as sock:
        sock.ask()
        begun = [sock.receive() for _ in BEGUN]
    slow.first.wait_hangup(timeout=PROMPTLY)
    slow.is_cancelled(begun[0]["response"]["id"])


def test_a_background_response_sends_that_it_is_in_progress(slow: Stage) -> None:
    slow.first.enqueue(silent())
    stream = slow.stream(background=True)
    stream.until(b"event: response.in_progress")
    slow.first.release()
    final = check_stream(stream.rest(), status="completed")[-1]["response"]
    assert text_of(slow.stored(final["id"]))


def test_a_background_response_fails_once(slow: Stage) -> None:
    slow.first.enqueue(refusal(400, "No.", "invalid_value"), silent())
    stream = slow.stream(background=True)
    stream.until(b"event: response.in_progress")
    slow.first.release()
    check_failed_stream(stream.rest(), "invalid_value")


def test_a_worker_that_ends_sends_the_reason(
    tmp_path: Path, upstreams: tuple[ScriptedUpstream, ScriptedUpstream], transport: str
) -> None:
    first, _ = upstreams
    first.reset()
    first.always(silent())
    with Gateway(tmp_path, rows(*upstreams), mover=transport, header_after=SOON, heartbeat=SOON, drain=1) as gateway:
        stage = Stage(gateway, *upstreams)
        stream = stage.stream()
        response_id = stream.begun()
        os.kill(gateway.pid, signal.SIGTERM)
        check_failed_stream(stream.rest(), "server_shutting_down")
        first.wait_hangup()
        gateway.stop()
        first.reset()
        gateway.start()
        check_response(stage.stored(response_id), status="failed")
