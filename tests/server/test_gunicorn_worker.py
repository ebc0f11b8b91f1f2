"""The threads that serve: each stays with its connection for a moment without keeping it from the others."""

from __future__ import annotations

import http.client
import re
import resource
import socket
from contextlib import ExitStack, closing
from pathlib import Path

import orjson
import pytest

from tests.conftest import MakeGateway
from tests.gateway import Gateway

BODY = orjson.dumps({"model": "demo", "input": "Hello"})
CHANNELS = [{"name": "demo", "format": "demo", "models": ["demo"]}]


@pytest.fixture
def running(gateway: MakeGateway) -> Gateway:
    return gateway(CHANNELS, threads=4)


def _connection(running: Gateway) -> http.client.HTTPConnection:
    return http.client.HTTPConnection("127.0.0.1", running.port, timeout=20)


def _ask(connection: http.client.HTTPConnection, running: Gateway) -> int:
    connection.request("POST", "/v1/responses", BODY, {"Authorization": f"Bearer {running.token}"})
    answer = connection.getresponse()
    answer.read()
    return answer.status


def test_one_connection_is_served_again_and_again(running: Gateway) -> None:
    with closing(_connection(running)) as connection:
        assert [_ask(connection, running) for _ in range(50)] == [200] * 50
        # It was not closed in between: http.client would have opened another one.
        sock = connection.sock
        assert _ask(connection, running) == 200
        assert connection.sock is sock


def test_requests_sent_in_one_piece_are_answered_in_order(running: Gateway) -> None:
    head = f"Host: a\r\nAuthorization: Bearer {running.token}\r\n"
    one = f"POST /v1/responses HTTP/1.1\r\n{head}Content-Length: {len(BODY)}\r\n\r\n".encode() + BODY
    other = f"GET /v1/models HTTP/1.1\r\n{head}\r\n".encode()
    last = f"GET /v1/nothing HTTP/1.1\r\n{head}Connection: close\r\n\r\n".encode()
    with closing(_connection(running)) as connection:
        connection.connect()
        connection.sock.sendall(one + other + last)
        received = b"".join(iter(lambda: connection.sock.recv(65536), b""))
    assert re.findall(rb"HTTP/1\.1 (\d+) ", received) == [b"200", b"200", b"404"]


def test_a_client_that_sends_all_of_a_refused_body_reads_the_refusal(running: Gateway) -> None:
    """The server answers at once and closes. A connection that it reset would lose the answer."""
    head = f"Host: a\r\nAuthorization: Bearer {running.token}\r\nConnection: close\r\nContent-Length: {1 << 30}"
    with socket.create_connection(("127.0.0.1", running.port), timeout=60) as client:
        client.sendall(f"POST /v1/responses HTTP/1.1\r\n{head}\r\n\r\n".encode() + bytes(8 << 20))
        client.shutdown(socket.SHUT_WR)
        answer = b"".join(iter(lambda: client.recv(65536), b""))
    assert answer.startswith(b"HTTP/1.1 413 ")


def test_more_connections_than_threads_are_all_served_while_each_stays_busy(running: Gateway) -> None:
    with ExitStack() as stack:
        connections = [stack.enter_context(closing(_connection(running))) for _ in range(12)]
        for _ in range(5):
            for connection in connections:
                connection.request("GET", "/healthz")
            answers = [connection.getresponse() for connection in connections]
            assert {(answer.status, bool(answer.read())) for answer in answers} == {(200, True)}


def test_clients_that_do_not_close_delay_no_end(gateway: MakeGateway) -> None:
    running = gateway(CHANNELS, threads=16)
    with ExitStack() as stack:
        for _ in range(8):
            connection = stack.enter_context(closing(_connection(running)))
            connection.connect()
            connection.sock.sendall(b"GET /healthz HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
        other = stack.enter_context(closing(http.client.HTTPConnection("127.0.0.1", running.port, timeout=10)))
        assert _ask(other, running) == 200


def test_a_busy_connection_does_not_keep_a_worker_from_ending(running: Gateway) -> None:
    with closing(_connection(running)) as connection:
        assert _ask(connection, running) == 200
        assert running.stop() == 0


def test_a_worker_without_free_descriptors_goes_on_serving(running: Gateway) -> None:
    (worker,) = running.workers
    with closing(_connection(running)) as connection, ExitStack() as stack:
        assert _ask(connection, running) == 200
        limit = len(list(Path(f"/proc/{worker}/fd").iterdir())) + 3
        resource.prlimit(worker, resource.RLIMIT_NOFILE, (limit, limit))
        for _ in range(10):
            stack.enter_context(socket.create_connection(("127.0.0.1", running.port)))
        running.wait_for_log("cannot accept a connection: Too many open files")
        # A connection that was accepted before is served meanwhile.
        connection.request("GET", "/healthz")
        assert connection.getresponse().read()
    with closing(_connection(running)) as later:
        assert _ask(later, running) == 200
    assert running.workers == [worker]
