"""Where the gateway connects to for a tool server, and what it sends besides the message."""

from __future__ import annotations

import socket
import ssl
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import anyio
import httpcore2
import pytest

from app.errors import ToolListFailed
from app.tools import wire
from app.tools.addresses import is_public
from app.tools.servers import ToolServers
from tests import ports
from tests.conftest import MakeToolServer
from tests.tool_servers import Answer, Seen
from tests.tools.conftest import row, turn, unwatched
from tests.upstream import self_signed

PUBLIC = ["8.8.8.8", "2001:4860:4860::8888", "::ffff:8.8.8.8", "64:ff9b::808:808", "2002:808:808::1"]
NOT_PUBLIC = [
    *("127.0.0.1", "127.255.0.3", "10.1.2.3", "172.16.0.1", "192.168.1.1", "169.254.169.254", "100.64.0.1", "0.0.0.0"),
    *("224.0.0.1", "240.0.0.1", "255.255.255.255", "192.0.2.1", "198.18.0.1"),
    *("::1", "::", "fe80::1", "fe80::1%eth0", "fc00::1", "fec0::1", "ff02::1", "2001:db8::1", "::7f00:1"),
    # An IPv4 address inside.
    *("::ffff:127.0.0.1", "::ffff:10.0.0.1", "64:ff9b::7f00:1", "64:ff9b:1::a00:1", "2002:7f00:1::", "2001:0:7f00:1::"),
    *("", "localhost", "1", "0x7f000001"),
]


@pytest.mark.parametrize("address", PUBLIC)
def test_public_addresses(address: str) -> None:
    assert is_public(address)


@pytest.mark.parametrize("address", NOT_PUBLIC)
def test_addresses_that_are_not_public(address: str) -> None:
    assert not is_public(address)


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "127.1", "2130706433", "0x7f.1", "[::ffff:127.0.0.1]"])
def test_no_connection_to_an_address_that_is_not_public(
    tool_servers: ToolServers, make_tool_server: MakeToolServer, host: str
) -> None:
    server = make_tool_server()
    url = server.url.replace("127.0.0.1", host)
    strange = row(url, private=False, from_client=True)
    with turn(tool_servers, strange) as one:
        outcome = one.call("echo")
    assert outcome.error == {
        "type": "http_error",
        "code": 502,
        "message": "The tool server's address is not public.",
    }
    with pytest.raises(ToolListFailed, match="address is not public"):
        tool_servers.listed(strange, unwatched())
    assert server.requests == []


def test_a_listed_private_origin_may_be_called(tool_servers: ToolServers, make_tool_server: MakeToolServer) -> None:
    server = make_tool_server()
    with turn(tool_servers, row(server, private=True, from_client=True)) as one:
        assert one.call("echo", '{"text": "hi"}').output == "hi"


class Network(httpcore2.AsyncNetworkBackend):
    """Notes where a connection would have gone."""

    def __init__(self) -> None:
        self.connected: list[str] = []

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore2.AsyncNetworkStream:
        self.connected.append(host)
        raise httpcore2.ConnectError


def test_a_name_that_changes_its_address_gains_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """The connection goes to the very address that was checked; the name is looked up once."""
    answers = [["93.184.216.34", "10.0.0.1"], ["127.0.0.1"]]
    lookups = []

    def lookup(host: Any, port: Any, *more: Any, **options: Any) -> list[Any]:
        lookups.append(host)
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (one, port)) for one in answers[len(lookups) - 1]]

    monkeypatch.setattr(socket, "getaddrinfo", lookup)
    network = Network()

    async def connect() -> None:
        with pytest.raises(httpcore2.ConnectError):
            await wire.PublicNetwork(network).connect_tcp("rebinding.example", 443, 5)

    anyio.run(connect)
    assert network.connected == ["93.184.216.34"]
    anyio.run(connect)
    assert network.connected == ["93.184.216.34"]
    assert len(lookups) == 2


def test_proxies_of_the_environment_are_ignored(
    tool_servers: ToolServers, make_tool_server: MakeToolServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.setenv(name, f"http://127.0.0.1:{ports.closed_port()}")
    with turn(tool_servers, row(make_tool_server())) as one:
        assert one.call("echo", '{"text": "straight"}').output == "straight"


def test_cookies_are_not_stored(tool_servers: ToolServers, make_tool_server: MakeToolServer) -> None:
    """They would go along with the calls of other owners."""
    server = make_tool_server()

    def edge(request: Seen) -> Answer | None:
        return Answer(200, b"<html>", "text/html", {"set-cookie": "session=1; Path=/"}) if cookies else None

    cookies = True
    server.edge = edge
    docs = row(server)
    with turn(tool_servers, docs) as one:
        one.call("echo")
        cookies = False
        assert one.call("echo", '{"text": "hi"}').output == "hi"
    assert not [request for request in server.requests if "cookie" in request.headers]


def test_the_gateway_names_itself_and_the_row_its_headers(
    tool_servers: ToolServers, make_tool_server: MakeToolServer
) -> None:
    server = make_tool_server()
    with turn(tool_servers, row(server, headers={"X-Team": "blue", "User-Agent": "team blue"})) as one:
        one.call("echo")
    assert {(seen.headers["x-team"], seen.headers["user-agent"]) for seen in server.requests} == {("blue", "team blue")}
    bare = make_tool_server()
    with turn(tool_servers, row(bare)) as one:
        one.call("echo")
    assert {seen.headers["user-agent"] for seen in bare.requests} == {"antiphon"}


def test_calls_share_connections(tool_servers: ToolServers, make_tool_server: MakeToolServer) -> None:
    server = make_tool_server()
    docs = row(server)
    for _ in range(10):
        with turn(tool_servers, docs) as one:
            assert one.call("echo", '{"text": "hi"}').output == "hi"
    assert len({seen.peer for seen in server.requests}) < 10


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[ssl.SSLContext, Path]:
    return self_signed(tmp_path_factory.mktemp("certificate"))


def test_a_certificate_is_checked_against_the_rows_own(
    tool_servers: ToolServers, make_tool_server: MakeToolServer, certificate: tuple[ssl.SSLContext, Path]
) -> None:
    context, authority = certificate
    server = make_tool_server(tls=context)
    with turn(tool_servers, row(server, ca_file=str(authority))) as one:
        assert one.call("echo", '{"text": "sealed"}').output == "sealed"
    with turn(tool_servers, row(server)) as one:
        outcome = one.call("echo")
    assert outcome.text_for_model == ("The tool server cannot be reached: TLS has failed (CERTIFICATE_VERIFY_FAILED).")
