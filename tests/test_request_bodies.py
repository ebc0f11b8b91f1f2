"""The bodies of requests: how much of them is held at once, what they may hold, how long they may be on their way."""

from __future__ import annotations

import http.client
import socket
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from io import BytesIO

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.memory import Budget, Share
from app.request_bodies import Bodies, needed_to_parse
from tests.footprint import MIB
from tests.gateway import STOP_WITHIN, Gateway
from tests.relay.conftest import eventually
from tests.upstream import ScriptedUpstream

MAX_BODY = 2 * MIB
HELD = 4
STALL = 2
JSON = dict[str, object]


@pytest.fixture(scope="module")
def api(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    """Its memory is four bodies of the largest size, and a client may be silent for STALL seconds."""
    with ScriptedUpstream() as upstream:
        settings = {"max_body": MAX_BODY, "memory": HELD * MAX_BODY, "stall": STALL}
        with Gateway(tmp_path_factory.mktemp("bodies"), [upstream.channel()], **settings) as gateway:
            yield gateway


@pytest.fixture(scope="module")
def patient(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    with ScriptedUpstream() as upstream:
        settings = {"max_body": MAX_BODY, "memory": HELD * MAX_BODY}
        with Gateway(tmp_path_factory.mktemp("patient"), [upstream.channel()], **settings) as gateway:
            yield gateway


def open_upload(api: Gateway, length: int, begin: bytes = b"") -> socket.socket:
    """A request of which only the head and the beginning of the body are sent."""
    sock = socket.create_connection(("127.0.0.1", api.port), timeout=STOP_WITHIN)
    head = f"POST /v1/responses HTTP/1.1\r\nHost: 127.0.0.1\r\nAuthorization: Bearer {api.token}\r\n"
    sock.sendall(f"{head}Content-Length: {length}\r\n\r\n".encode() + begin)
    return sock


def answer(sock: socket.socket) -> tuple[int, http.client.HTTPMessage, JSON]:
    response = http.client.HTTPResponse(sock)
    response.begin()
    return response.status, response.headers, orjson.loads(response.read())


WRONG_CHUNKS = [b"-5\r\nabc\r\n0\r\n\r\n", b"0x2\r\n{}\r\n0\r\n\r\n", b"2\r\n{}XX0\r\n\r\n", b"zz\r\n", b"F" * 20_000]


@pytest.mark.parametrize(("known", "status"), [(True, 400), (False, 401)])
@pytest.mark.parametrize("chunks", WRONG_CHUNKS)
def test_wrong_chunks_are_the_clients_fault_and_end_the_connection(
    patient: Gateway, chunks: bytes, known: bool, status: int
) -> None:
    token = patient.token if known else "ap_unknown"
    head = f"POST /v1/responses HTTP/1.1\r\nHost: 127.0.0.1\r\nAuthorization: Bearer {token}\r\n"
    with socket.create_connection(("127.0.0.1", patient.port), timeout=STOP_WITHIN) as sock:
        sock.sendall(f"{head}Transfer-Encoding: chunked\r\n\r\n".encode() + chunks)
        sock.sendall(b"GET /healthz HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
        assert answer(sock)[0] == status
        assert b"HTTP/1.1 200" not in rest_of(sock)


def rest_of(sock: socket.socket) -> bytes:
    """What comes until the other side has closed."""
    pieces = []
    with suppress(ConnectionResetError):
        while piece := sock.recv(4096):
            pieces.append(piece)
    return b"".join(pieces)


def request(size: int) -> bytes:
    """A body of exactly that size."""
    empty = body_with(b'""')
    return body_with(b'"%b"' % (b"a" * (size - len(empty))))


def body_with(text: bytes) -> bytes:
    """A body with this text, as JSON, followed by a short message: the upstream repeats the last one."""
    return b'{"model":"m","store":false,"input":[%b,%b]}' % (message(text), message(b'"Short."'))


def message(text: bytes) -> bytes:
    return b'{"role":"user","content":%b}' % text


def check_error(body: JSON, code: str) -> None:
    error = body["error"]
    assert isinstance(error, dict)
    assert error.keys() == {"message", "type", "param", "code"}
    assert error["code"] == code


# --- how much is held -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("chunked", [False, True])
def test_a_body_that_does_not_fit_is_read_and_refused_and_has_room_later(patient: Gateway, chunked: bool) -> None:
    large = request(MAX_BODY)
    with ExitStack() as stack:
        for _ in range(HELD):
            stack.enter_context(open_upload(patient, MAX_BODY, large[: MAX_BODY // 2]))
        check_small_requests_are_answered(patient)
        status, headers, body = post(patient, large, chunked)
        assert status == 503
        assert int(headers["Retry-After"]) >= 1
        check_error(body, "server_is_overloaded")
        check_small_requests_are_answered(patient)
    eventually(lambda: post(patient, large, chunked)[0] == 200, "the memory of those that have left")


def check_small_requests_are_answered(api: Gateway) -> None:
    assert api.post("/responses", {"model": "m", "input": "small"}).status_code == 200


def post(api: Gateway, data: bytes, chunked: bool) -> tuple[int, http.client.HTTPMessage, JSON]:
    """A client that reads nothing before it has sent all."""
    connection = http.client.HTTPConnection("127.0.0.1", api.port, timeout=STOP_WITHIN)
    pieces = (data[at : at + 65536] for at in range(0, len(data), 65536))
    headers = {"Authorization": f"Bearer {api.token}"}
    connection.request("POST", "/v1/responses", pieces if chunked else data, headers, encode_chunked=chunked)
    response = connection.getresponse()
    found = response.status, response.headers, orjson.loads(response.read())
    connection.close()
    return found


def test_a_body_of_the_largest_size_passes(patient: Gateway) -> None:
    assert post(patient, request(MAX_BODY), chunked=False)[0] == 200
    assert post(patient, request(MAX_BODY + 1), chunked=False)[0] == 413


@pytest.mark.parametrize("item", [b'{"a":1}', b"[]", b"{}", b'{"type":"input_text","text":""}'])
def test_more_values_than_there_is_memory_for_are_too_much(patient: Gateway, item: bytes) -> None:
    many = b",".join([item] * ((MAX_BODY - 100) // (len(item) + 1)))
    status, _, body = post(patient, b'{"model":"m","input":[%b]}' % many, chunked=False)
    assert status == 413
    check_error(body, "request_too_large")


def test_a_text_about_json_is_a_text(patient: Gateway) -> None:
    text = orjson.dumps('{"a":[1,2,{}]},' * (MAX_BODY // 20))
    status, _, _ = post(patient, body_with(text), chunked=False)
    assert status == 200


def test_bodies_that_fit_a_page_or_two_are_counted_with_their_values() -> None:
    """Every thread of a worker may have one."""
    data = b'{"model":"m","x":[%b]}' % b",".join([b'{"a":1}'] * 1000)
    share = Share(Budget(MIB))
    bodies = Bodies(MAX_BODY, silence=1)
    body = bodies.read({"CONTENT_LENGTH": str(len(data)), "wsgi.input": BytesIO(data)}, share)
    assert share.size == len(data)
    value = bodies.parse(body, share)
    assert len(value["x"]) == 1000
    assert share.size > 20 * len(data)


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(0, 9) | st.text('a"\\{[,', max_size=5),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text('a"\\{[,', max_size=3), inner, max_size=4),
    max_leaves=20,
)


@given(VALUES)
def test_brackets_in_strings_are_no_values(value: object) -> None:
    data = orjson.dumps(value)
    exact = 2 * len(data) + 230 * of(value, dict) + 72 * of(value, list) + 64 * commas(value)
    assert needed_to_parse(data, most=exact) == exact
    assert needed_to_parse(data, most=10**9) >= exact


def of(value: object, kind: type) -> int:
    return isinstance(value, kind) + sum(of(inner, kind) for inner in inside(value))


def commas(value: object) -> int:
    within = inside(value)
    return max(0, len(within) - 1) + sum(map(commas, within))


def inside(value: object) -> list[object]:
    if isinstance(value, dict):
        return list(value.values())
    return value if isinstance(value, list) else []


# --- how long it may take ---------------------------------------------------------------------------------------


def send_nothing(_: socket.socket) -> None:
    """The client is silent."""


def send_a_byte(sock: socket.socket) -> None:
    sock.send(b"a")


@pytest.mark.parametrize("size", [MAX_BODY, 1000])
@pytest.mark.parametrize("go_on", [send_nothing, send_a_byte])
def test_an_upload_that_stops_or_trickles_is_given_up(
    api: Gateway, go_on: Callable[[socket.socket], None], size: int
) -> None:
    with open_upload(api, size, b'{"model":"m"') as sock:
        sock.settimeout(0.2)

        def given_up() -> bytes:
            try:
                go_on(sock)
                return sock.recv(1, socket.MSG_PEEK)
            except TimeoutError:
                return b""

        eventually(given_up, "the upload to be given up", STOP_WITHIN)
        sock.settimeout(STOP_WITHIN)
        status, _, body = answer(sock)
    assert status == 408
    check_error(body, "request_timeout")


def test_an_upload_that_moves_is_waited_for(api: Gateway) -> None:
    """For longer than a client may be silent."""
    body = request(200 * 1024)
    step = len(body) // 15
    with open_upload(api, len(body)) as sock:
        for at in range(0, len(body), step):
            sock.settimeout(STALL / 10)
            with pytest.raises(TimeoutError):
                sock.recv(1, socket.MSG_PEEK)
            sock.sendall(body[at : at + step])
        sock.settimeout(STOP_WITHIN)
        assert answer(sock)[0] == 200


def test_half_a_body_is_refused(api: Gateway) -> None:
    with open_upload(api, 1000, b'{"model":"m"') as sock:
        sock.shutdown(socket.SHUT_WR)
        assert answer(sock)[0] == 400
