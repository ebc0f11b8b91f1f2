"""The border of WebSockets: who is let in, what the wire carries, how a connection ends, and what HTTP feels of it."""

from __future__ import annotations

import socket
import struct
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from typing import Any

import orjson
import pytest
from websockets.exceptions import ConnectionClosed, InvalidStatus

from tests.conftest import MakeGateway
from tests.footprint import MIB, footprint
from tests.gateway import Gateway, reset
from tests.relay.conftest import PROMPTLY, SOME_TEXT, eventually
from tests.response_contract import check_response
from tests.shared_upstream import module_upstream, upstream
from tests.upstream import ScriptedUpstream, silent, stalled
from tests.websocket_client import CREATE, JSON, Socket, check_error_frame, check_frames, dial, frame_bytes, read_frame

__all__ = ["module_upstream", "upstream"]

ASK = {"model": "m", "input": "Say something to me"}
TEXT, BINARY, CLOSE, PING, PONG, UNKNOWN = 1, 2, 8, 9, 10, 3
NORMAL, GOING_AWAY, PROTOCOL_ERROR, NO_TEXT, POLICY, TOO_BIG = 1000, 1001, 1002, 1007, 1008, 1009
TRY_AGAIN_LATER = 1013
#: The fourth part of 32 threads, and one less.
HELD = 7
MAX_BODY = 100_000
#: Sockets, one after the other. The first ones fill the caches and buffers that a worker has once.
MANY, FIRST = 200, 50
STALL = 2


@pytest.fixture(scope="module")
def _gateway(tmp_path_factory: pytest.TempPathFactory, module_upstream: ScriptedUpstream) -> Iterator[Gateway]:
    settings = {"threads": 4 * HELD + 4, "heartbeat": 1, "max_body": MAX_BODY}
    with Gateway(tmp_path_factory.mktemp("border"), [module_upstream.channel()], **settings) as gateway:
        yield gateway
        gateway.stop()
        noise = [line for line in gateway.log.splitlines() if "Traceback" in line or "[ERROR]" in line]
        assert not noise, gateway.log


@pytest.fixture
def api(_gateway: Gateway, upstream: ScriptedUpstream) -> Gateway:
    """Its log must hold no trace of an error when all tests are through."""
    return _gateway


# --- who is let in ----------------------------------------------------------------------------------------------


def test_above_the_cap_is_a_426_before_the_handshake_and_http_goes_on(
    gateway: MakeGateway, upstream: ScriptedUpstream
) -> None:
    api = gateway([upstream.channel()], threads=4 * HELD + 4)
    with ExitStack() as stack:
        held = [stack.enter_context(Socket(api)) for _ in range(HELD)]
        refused = refusal_of(api)
        assert refused.status_code == 426
        assert "Retry-After" not in refused.headers
        assert orjson.loads(refused.body)["error"]["code"] == "upgrade_required"
        for sock in held:
            sock.answer()
        check_response(api.post("/responses", ASK).json(), status="completed")
        held[0].wire.close()
        eventually(lambda: admitted(api), "the place that has become free").close()


def test_idle_sockets_leave_threads_to_say_no_with(gateway: MakeGateway, upstream: ScriptedUpstream) -> None:
    api = gateway([upstream.channel()], threads=16, sockets=2)
    with Socket(api) as first, Socket(api) as second:
        assert refusal_of(api).status_code == 426
        first.answer()
        second.answer()
        assert api.get("/models").status_code == 200


def test_a_gateway_that_may_hold_none_sends_clients_to_http(gateway: MakeGateway, upstream: ScriptedUpstream) -> None:
    refused = refusal_of(gateway([upstream.channel()], sockets=0))
    assert refused.status_code == 426
    assert refused.headers["Upgrade"] == "websocket"


def test_a_token_that_is_revoked_ends_its_socket_at_the_next_turn(gateway: MakeGateway) -> None:
    api = gateway([{"name": "demo", "format": "demo", "models": ["m"]}])
    with Socket(api, api.new_token("short-lived")) as sock:
        sock.answer()
        api.command("tokens", "revoke", "short-lived")
        frame = eventually(lambda: (last := sock.turn()[-1])["type"] == "error" and last, "the refusal")
        assert (frame["status"], check_error_frame(frame)["code"]) == (401, "invalid_api_key")
        assert sock.ended() == ([], POLICY)


def test_a_socket_that_has_ended_leaves_nothing_behind(api: Gateway) -> None:
    """Clients that name a cache key, and as much as they may say, as agents do."""
    (worker,) = api.workers
    for number in range(FIRST):
        socket_turn(api, number)
    before = footprint(worker)
    for number in range(MANY):
        socket_turn(api, number)
    eventually(lambda: footprint(worker).threads <= before.threads + 1, "the threads of the sockets to end")
    after = footprint(worker)
    assert after.descriptors <= before.descriptors + 2
    assert after.memory < before.memory + 8 * MIB, f"{(after.memory - before.memory) / MIB:.1f} MiB more"


def socket_turn(api: Gateway, number: int) -> None:
    name = f"conversation-{number}"
    headers = {"session-id": name, "thread-id": name, "conversation-id": name}
    with Socket(api, headers=headers) as sock:
        sock.answer(prompt_cache_key=name, store=False, input="x" * (MAX_BODY - 1000))


# --- large and slow messages ---------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def short_stall(tmp_path_factory: pytest.TempPathFactory, module_upstream: ScriptedUpstream) -> Iterator[Gateway]:
    """A client may be silent for STALL seconds; four messages of the largest size fill the memory."""
    settings = {"threads": 64, "heartbeat": 1, "stall": STALL, "max_body": MAX_BODY, "memory": 4 * MAX_BODY}
    with Gateway(tmp_path_factory.mktemp("short-stall"), [module_upstream.channel()], **settings) as gateway:
        yield gateway


def test_the_largest_message_is_counted_in_bytes(api: Gateway) -> None:
    with Socket(api, max_size=None) as sock:
        sock.answer(input="x" * (MAX_BODY - 1000))
        sock.ask(input="€" * (MAX_BODY // 2))
        assert sock.ended() == ([], TOO_BIG)


def test_a_frame_that_announces_too_much_is_refused_before_it_has_come(api: Gateway) -> None:
    with dial(api) as sock:
        sock.sendall(b"\x81\xff" + (MAX_BODY + 1).to_bytes(8, "big") + b"mask" + b"one piece")
        opcode, payload = read_frame(sock)
    assert (opcode, int.from_bytes(payload[:2], "big")) == (CLOSE, TOO_BIG)


def test_an_unfinished_message_is_given_up_though_pings_are_answered(short_stall: Gateway) -> None:
    with Socket(short_stall) as sock:
        with pytest.raises(ConnectionClosed):
            sock.wire.send(unfinished(sock))
        assert sock.ended() == ([], POLICY)


def unfinished(sock: Socket) -> Iterator[str]:
    """The first fragment of a message that gets no further until its connection has ended."""
    yield '{"type":'
    eventually(lambda: sock.wire.protocol.close_rcvd, "the goodbye")
    yield '"response.create"}'


def test_a_slow_frame_that_moves_is_waited_for(short_stall: Gateway) -> None:
    """Longer than a client may be silent; within a frame it cannot answer pings."""
    body = orjson.dumps({**CREATE, "input": "x" * 60_000})
    frame = frame_bytes(body)
    with dial(short_stall) as sock:
        step = len(frame) // 12
        for at in range(0, len(frame), step):
            sock.settimeout(STALL / 8)
            with suppress(TimeoutError):
                while read_frame(sock)[0] == PING:
                    pass
            sock.sendall(frame[at : at + step])
        sock.settimeout(20)
        text = next(payload for opcode, payload in iter(lambda: read_frame(sock), None) if opcode == TEXT)
    assert orjson.loads(text)["type"] == "response.created"


def test_a_message_for_which_there_is_no_memory_ends_its_socket(
    short_stall: Gateway, upstream: ScriptedUpstream
) -> None:
    upstream.always(silent())
    with ExitStack() as stack:
        # Even those that wait for the upstream, and keep only their text, do not all fit.
        held = [stack.enter_context(Socket(short_stall)) for _ in range(6)]
        for sock in held:
            sock.ask(input="x" * (MAX_BODY - 1000))
        eventually(lambda: TRY_AGAIN_LATER in map(close_code, held), "the end of a socket")


def close_code(sock: Socket) -> int | None:
    """The code of the close frame, if one has come."""
    received = sock.wire.protocol.close_rcvd
    return received.code if received else None


# --- the wire ---------------------------------------------------------------------------------------------------


def test_a_frame_may_come_in_fragments(api: Gateway) -> None:
    with dial(api) as sock:
        head, tail = orjson.dumps(CREATE)[:9], orjson.dumps(CREATE)[9:]
        sock.sendall(frame_bytes(head, TEXT, final=False) + frame_bytes(b"?", PING))
        for byte in frame_bytes(tail, 0):
            sock.sendall(bytes([byte]))
        assert read_frame(sock) == (PONG, b"?")
        assert orjson.loads(read_frame(sock)[1])["type"] == "response.created"


@pytest.mark.parametrize(
    ("sent", "code"),
    [
        (frame_bytes(b"{}", UNKNOWN), PROTOCOL_ERROR),
        (frame_bytes(b"{}", reserved=4), PROTOCOL_ERROR),
        (frame_bytes(b"", 0), PROTOCOL_ERROR),
        (b"\x81\x02{}", PROTOCOL_ERROR),
        (b"GET / HTTP/1.1\r\n\r\n", PROTOCOL_ERROR),
        (frame_bytes(b"\xff\xfe"), NO_TEXT),
        (frame_bytes(b"x" * 60_000, final=False) + frame_bytes(b"x" * 60_000, 0), TOO_BIG),
        (frame_bytes(b"\x03\xe8", CLOSE), NORMAL),
    ],
    ids=["opcode", "reserved bit", "nothing to continue", "unmasked", "HTTP", "no UTF-8", "too big", "goodbye"],
)
def test_a_malformed_frame_ends_the_socket_with_its_reason(api: Gateway, sent: bytes, code: int) -> None:
    with dial(api) as sock:
        sock.sendall(sent)
        opcode, payload = next(frame for frame in iter(lambda: read_frame(sock), None) if frame[0] != PING)
        assert (opcode, struct.unpack("!H", payload[:2])[0]) == (CLOSE, code)
        assert sock.recv(1) == b""


def test_pings_keep_the_connection_alive(api: Gateway) -> None:
    with dial(api) as sock:
        assert read_frame(sock)[0] == PING
        assert read_frame(sock)[0] == PING


def test_a_ping_is_answered_while_a_turn_is_silent(api: Gateway, upstream: ScriptedUpstream) -> None:
    upstream.enqueue(silent())
    with Socket(api) as sock:
        sock.ask()
        upstream.wait_for_request()
        assert sock.wire.ping().wait(PROMPTLY)
        upstream.release()
        check_frames(sock.rest(), status="completed")


def test_more_frames_than_may_wait_end_the_socket(api: Gateway, upstream: ScriptedUpstream) -> None:
    upstream.always(silent())
    with Socket(api) as sock:
        sock.ask()
        upstream.wait_for_request()
        with suppress(ConnectionClosed):
            while True:
                sock.ask(input="x" * 2000)
        assert sock.ended() == ([], POLICY)
    upstream.wait_hangup(timeout=PROMPTLY)


def test_a_large_turn_passes_both_ways(api: Gateway) -> None:
    with Socket(api) as sock:
        words = "word " * 15_000
        assert words.strip() in str(sock.answer(input=words, store=False)["output"])


def test_the_log_has_a_line_for_every_turn(api: Gateway) -> None:
    with Socket(api) as sock:
        turns = [sock.answer(store=store)["id"] for store in (True, False)]
    for response_id in turns:
        api.wait_for_log(f"response={response_id}")
    assert "method=WS path=/v1/responses status=101" in api.log


# --- how it ends ------------------------------------------------------------------------------------------------

LEAVINGS: dict[str, Callable[[Socket], Any]] = {
    "goodbye": lambda sock: sock.wire.close(),
    "FIN": lambda sock: sock.wire.socket.shutdown(socket.SHUT_RDWR),
    "RST": lambda sock: reset(sock.wire.socket),
    "half closed": lambda sock: sock.wire.socket.shutdown(socket.SHUT_WR),
}


@pytest.mark.parametrize("leaving", LEAVINGS)
@pytest.mark.parametrize("begun", [True, False], ids=["after its first words", "before the response began"])
def test_a_client_that_leaves_ends_its_upstream(
    api: Gateway, upstream: ScriptedUpstream, leaving: str, begun: bool
) -> None:
    upstream.enqueue(stalled(SOME_TEXT) if begun else silent())
    sock = Socket(api)
    sock.ask()
    response_id = sock.hear("response.created")["response"]["id"] if begun else None
    if begun:
        sock.hear("response.output_text.delta")
    upstream.wait_for_request()
    LEAVINGS[leaving](sock)
    upstream.wait_hangup(timeout=PROMPTLY)
    sock.wire.close_socket()
    if response_id:
        stored = eventually(lambda: ended(api, response_id), "the row to be closed")
        check_response(stored, status="cancelled")


def test_a_client_that_leaves_frees_its_place(api: Gateway) -> None:
    for _ in range(3 * HELD):
        sock = eventually(lambda: admitted(api), "a place")
        reset(sock)


def test_an_ending_worker_ends_its_turns_and_its_sockets(gateway: MakeGateway, upstream: ScriptedUpstream) -> None:
    api = gateway([upstream.channel()], drain=1)
    upstream.always(stalled(SOME_TEXT))
    with Socket(api) as running, Socket(api) as idle:
        running.ask(stream_id="begun")
        running.ask(stream_id="waiting")
        running.hear("response.output_text.delta")
        assert api.stop() == 0
        frames, code = running.ended()
        assert idle.ended() == ([], GOING_AWAY)
    *_, failed, refused = frames
    assert code == GOING_AWAY
    assert (failed["type"], failed["stream_id"]) == ("response.failed", "begun")
    assert failed["response"]["error"]["code"] == "server_shutting_down"
    assert refused["stream_id"] == "waiting"
    assert (refused["status"], check_error_frame(refused)["code"]) == (503, "server_shutting_down")
    assert "Traceback" not in api.log
    api.start()
    assert api.get(f"/responses/{failed['response']['id']}").json()["status"] == "failed"


def test_a_socket_has_its_time_and_a_running_turn_is_finished(gateway: MakeGateway, upstream: ScriptedUpstream) -> None:
    api = gateway([upstream.channel()], socket_lifetime=3)
    upstream.enqueue(stalled(SOME_TEXT))
    with Socket(api) as running:
        running.ask()
        running.hear("response.output_text.delta")
        with Socket(api) as idle:
            frames, code = idle.ended()
            assert code == NORMAL
            assert [check_error_frame(frame)["code"] for frame in frames] == ["websocket_connection_limit_reached"]
        upstream.release()
        frames, _ = running.ended()
    *_, completed, limit = frames
    assert completed["type"] == "response.completed"
    assert (limit["status"], limit["error"]["code"]) == (400, "websocket_connection_limit_reached")


# --- helpers ----------------------------------------------------------------------------------------------------


class Refused:
    def __init__(self, error: InvalidStatus) -> None:
        self.status_code = error.response.status_code
        self.headers = error.response.headers
        self.body = error.response.body


def refusal_of(api: Gateway) -> Refused:
    with pytest.raises(InvalidStatus) as refused:
        Socket(api)
    return Refused(refused.value)


def admitted(api: Gateway) -> socket.socket | None:
    try:
        return dial(api)
    except AssertionError:
        return None


def ended(api: Gateway, response_id: str) -> JSON | None:
    stored: JSON = api.get(f"/responses/{response_id}").json()
    return None if stored["status"] == "in_progress" else stored
