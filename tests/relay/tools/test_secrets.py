"""What opens a tool server, the operator's or a client's, reaches that server and nothing else: no answer, no model, no
row and no line of the log, also when the server itself repeats it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import pytest

from tests.gateway import Gateway
from tests.relay.conftest import eventually
from tests.relay.tools.conftest import ASK
from tests.stored_data import written
from tests.tool_servers import ToolServer, bearer, plain
from tests.upstream import ScriptedUpstream

JSON = dict[str, Any]

SECRET, IN_URL = "secret-of-the-server-1234", "secret-in-the-url-5678"
WAYS: Mapping[str, JSON] = {"JSON": {}, "SSE": {"stream": True}, "background": {"background": True}}


@pytest.fixture(scope="module")
def server() -> Iterator[ToolServer]:
    """Its only tool reveals what it knows."""
    words = f"my token is {SECRET}, and my address ends in {IN_URL}"
    with ToolServer(tools=[plain("reveal", words)], edge=bearer(SECRET)) as started:
        yield started


@pytest.fixture(scope="module")
def upstream() -> Iterator[ScriptedUpstream]:
    with ScriptedUpstream() as started:
        yield started


@pytest.fixture(scope="module")
def revealing(
    tmp_path_factory: pytest.TempPathFactory, server: ToolServer, upstream: ScriptedUpstream
) -> Iterator[Gateway]:
    url = f"{server.url}?key={IN_URL}"
    rows = [
        {"label": "docs", "url": url, "headers": {"Authorization": f"Bearer {SECRET}"}, "require_approval": "never"},
        {"label": "locked", "url": url, "headers": {"Authorization": f"Bearer not-{SECRET}"}},
    ]
    tools = {"servers": rows, "client_urls": [{"origin": server.origin, "private": True}]}
    channels = [upstream.channel("chat", format="chat_completions", models=["m"])]
    with Gateway(tmp_path_factory.mktemp("secrets"), channels, {"tools": tools}, worker_processes=1) as gateway:
        gateway.token = gateway.new_token("with-tools", "--tools", "*")
        yield gateway


def named(server: ToolServer, owner: str) -> JSON:
    if owner == "operator":
        return {"type": "mcp", "server_label": "docs"}
    return {
        "type": "mcp",
        "server_label": "mine",
        "server_url": f"{server.url}?key={IN_URL}",
        "authorization": SECRET,
        "require_approval": "never",
    }


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("owner", ["operator", "client"])
def test_a_secret_goes_to_its_server_alone(
    revealing: Gateway, server: ToolServer, upstream: ScriptedUpstream, owner: str, way: str
) -> None:
    before = len(server.calls)
    body = {"model": "m", "input": ASK, "tools": [named(server, owner)], **WAYS[way]}
    answer = revealing.post("/responses", body)
    assert answer.status_code == 200, answer.text
    shown = [answer.text]
    if way == "background":
        path = f"/responses/{answer.json()['id']}"
        done = eventually(lambda: (found := revealing.get(path)).json()["status"] == "completed" and found, "its end")
        shown.append(done.text)
    assert len(server.calls) == before + 1
    assert "my token is ***" in shown[-1]
    shown += [str(request) for request in upstream.bodies]
    _check(shown, revealing)


@pytest.mark.parametrize("way", ["JSON", "SSE"])
def test_a_refusal_that_quotes_the_secret_does_not_pass_it_on(revealing: Gateway, way: str) -> None:
    body = {"model": "m", "input": ASK, "tools": [{"type": "mcp", "server_label": "locked"}], **WAYS[way]}
    answer = revealing.post("/responses", body)
    assert answer.status_code == 424
    assert answer.json()["error"]["message"] == (
        "Error retrieving tool list from MCP server: 'locked'. Http status code: 401 (Unauthorized)"
    )
    _check([answer.text], revealing)


def _check(shown: list[str], gateway: Gateway) -> None:
    for secret in (SECRET, IN_URL):
        assert not [text for text in shown if secret in text]
        assert secret.encode() not in written(gateway)
