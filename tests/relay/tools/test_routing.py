"""Where a turn goes whose tools name MCP servers that the gateway does not call itself."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.conftest import MakeGateway
from tests.gateway import Gateway
from tests.relay.conftest import eventually
from tests.response_contract import check_error, check_stream
from tests.tool_servers import ToolServer
from tests.upstream import ScriptedUpstream, refusal
from tests.websocket_client import Socket

JSON = dict[str, Any]

#: A server of the client's own at no listed origin.
OWN: JSON = {
    "type": "mcp",
    "server_label": "mine",
    "server_url": "https://mcp.example.com/mcp",
    "authorization": "key-of-mine",
    "headers": {"X-Key": "key-of-mine"},
}
CONNECTOR: JSON = {"type": "mcp", "server_label": "mail", "connector_id": "connector_gmail", "authorization": "a-key"}
FUNCTION: JSON = {"type": "function", "name": "look", "parameters": {"type": "object", "properties": {}}}
PLACEHOLDER = "https://tools.antiphon.invalid/"

#: Models of channels whose upstreams call no MCP servers, in every format.
WITHOUT_MCP = ["plain", "bridged", "translated", "demo"]
WAYS: dict[str, JSON] = {"JSON": {}, "SSE": {"stream": True}, "background": {"background": True}}


@pytest.fixture(scope="module")
def _upstreams() -> Iterator[tuple[ScriptedUpstream, ScriptedUpstream]]:
    with ScriptedUpstream() as plain, ScriptedUpstream() as native:
        yield plain, native


@pytest.fixture(scope="module")
def docs() -> Iterator[ToolServer]:
    """The server of the one row of the table."""
    with ToolServer() as server:
        yield server


@pytest.fixture(scope="module")
def router(
    tmp_path_factory: pytest.TempPathFactory,
    docs: ToolServer,
    _upstreams: tuple[ScriptedUpstream, ScriptedUpstream],
) -> Iterator[Gateway]:
    plain, native = _upstreams
    rows = [
        plain.channel("plain", models=["plain", "both"], priority=1),
        plain.channel("bridged", models=["bridged", "both"], format="chat_completions", priority=2),
        plain.channel("translated", models=["translated"], format="messages"),
        plain.channel("counting", models=["counting"], count_tokens=True),
        native.channel("native", models=["native", "both"], mcp="native"),
        {"name": "demo", "format": "demo", "models": ["demo"]},
    ]
    tools = {
        "servers": [{"label": "docs", "url": docs.url, "headers": {"X-Key": "the-row's"}, "require_approval": "never"}],
        "client_urls": ["https://listed.example.com", {"origin": docs.origin, "private": True}],
    }
    with Gateway(tmp_path_factory.mktemp("routing"), rows, {"tools": tools}) as gateway:
        yield gateway


@pytest.fixture
def plain(_upstreams: tuple[ScriptedUpstream, ScriptedUpstream]) -> Iterator[ScriptedUpstream]:
    _upstreams[0].reset()
    yield _upstreams[0]
    _upstreams[0].reset()


@pytest.fixture
def native(_upstreams: tuple[ScriptedUpstream, ScriptedUpstream]) -> Iterator[ScriptedUpstream]:
    _upstreams[1].reset()
    yield _upstreams[1]
    _upstreams[1].reset()


@pytest.fixture(scope="module")
def granted(router: Gateway) -> str:
    return router.new_token("granted", "--tools", "docs")


@pytest.fixture
def refused(router: Gateway) -> Callable[..., JSON]:
    """`refused(token, model=…, tools=[…])`: the error of a 400, the same in every way."""

    def post(token: str, **keys: Any) -> JSON:
        errors = []
        for way in WAYS.values():
            answer = router.post("/responses", {"input": "hello", **keys, **way}, token=token)
            assert answer.status_code == 400, answer.text
            errors.append(check_error(answer))
        with Socket(router, token) as socket:
            error = socket.refused(input="hello", **keys)
        assert {name: error[name] for name in ("message", "param")} == {
            name: errors[0][name] for name in ("message", "param")
        }
        assert all(error == errors[0] for error in errors)
        return errors[0]

    return post


@pytest.mark.parametrize("model", WITHOUT_MCP)
@pytest.mark.parametrize("tool", [OWN, CONNECTOR], ids=["server_url", "connector_id"])
@pytest.mark.parametrize("with_tools", [True, False])
def test_a_server_that_nothing_may_call_is_refused_naming_the_setting(
    router: Gateway,
    refused: Callable[..., JSON],
    plain: ScriptedUpstream,
    granted: str,
    model: str,
    tool: JSON,
    with_tools: bool,
) -> None:
    error = refused(granted if with_tools else router.token, model=model, tools=[FUNCTION, tool])
    assert error["param"] == "tools"
    assert "client_urls" in error["message"]
    assert f"'{tool['server_label']}'" in error["message"]
    assert "key" not in error["message"]
    assert plain.bodies == []


@pytest.mark.parametrize("way", ["JSON", "SSE"])
@pytest.mark.parametrize("tool", [OWN, CONNECTOR], ids=["server_url", "connector_id"])
def test_it_goes_to_a_channel_whose_upstream_runs_mcp_whatever_the_priority(
    router: Gateway, plain: ScriptedUpstream, native: ScriptedUpstream, granted: str, way: str, tool: JSON
) -> None:
    body = {"model": "both", "input": "hello", "tools": [tool], **WAYS[way]}
    for token in (granted, router.token):
        answer = router.post("/responses", body, token=token)
        assert answer.status_code == 200, answer.text
        if way == "SSE":
            check_stream(answer.content)
    assert [body["tools"] for body in native.bodies] == [[tool]] * 2
    assert plain.bodies == []


def test_without_such_a_server_the_priority_decides(router: Gateway, plain: ScriptedUpstream) -> None:
    assert router.post("/responses", {"model": "both", "input": "hello", "tools": [FUNCTION]}).ok
    assert len(plain.bodies) == 1


def test_its_failure_is_never_made_good_by_a_channel_without_mcp(
    router: Gateway, plain: ScriptedUpstream, native: ScriptedUpstream
) -> None:
    native.enqueue(refusal(500, "Down."))
    answer = router.post("/responses", {"model": "both", "input": "hello", "tools": [OWN]})
    assert answer.status_code == 502, answer.text
    assert plain.bodies == []


def test_a_listed_origin_needs_a_token_with_tools(refused: Callable[..., JSON], router: Gateway) -> None:
    tool = {"type": "mcp", "server_label": "x", "server_url": "https://listed.example.com/mcp"}
    error = refused(router.token, model="plain", tools=[tool])
    assert "tokens that may use tools" in error["message"]


@pytest.mark.parametrize(
    "more",
    [
        {"server_url": "https://mcp.example.com/mcp"},
        {"server_url": f"{PLACEHOLDER}docs", "authorization": "key-of-mine"},
        {"server_url": f"{PLACEHOLDER}docs", "headers": {"X-Key": "key-of-mine"}},
    ],
)
@pytest.mark.parametrize("model", ["plain", "native"])
def test_a_label_of_the_table_goes_nowhere_else(
    refused: Callable[..., JSON], native: ScriptedUpstream, granted: str, more: JSON, model: str
) -> None:
    error = refused(granted, model=model, tools=[{"type": "mcp", "server_label": "docs", **more}])
    assert (error["param"], error["code"]) == ("tools", "invalid_value")
    assert "key-of-mine" not in error["message"]
    assert native.bodies == []


def test_a_label_that_the_token_may_not_use_is_answered_as_an_unknown_one(
    refused: Callable[..., JSON], router: Gateway, granted: str
) -> None:
    other = router.new_token("other", "--tools", "doc,DOCS,ocs")

    def answer(token: str, label: str) -> str:
        tool = {"type": "mcp", "server_label": label, "server_url": PLACEHOLDER + label}
        return str(refused(token, model="plain", tools=[tool])).replace(label, "LABEL")

    assert answer(router.token, "docs") == answer(other, "docs") == answer(granted, "none")


def test_a_hidden_label_with_a_url_is_the_clients_own(router: Gateway, native: ScriptedUpstream, granted: str) -> None:
    """A token that may not use the row does not learn that it is there."""
    tool = {**OWN, "server_label": "docs"}
    assert router.post("/responses", {"model": "native", "input": "hello", "tools": [tool]}).ok
    assert native.bodies[-1]["tools"] == [tool]
    assert (
        router.post("/responses", {"model": "native", "input": "a", "tools": [tool]}, token=granted).status_code == 400
    )


DOCS: JSON = {"type": "mcp", "server_label": "docs", "server_url": f"{PLACEHOLDER}docs", "allowed_tools": ["echo"]}


@pytest.mark.parametrize("model", ["plain", "bridged"])
def test_nothing_is_listed_for_a_turn_that_names_another_server_too(
    refused: Callable[..., JSON], docs: ToolServer, granted: str, model: str
) -> None:
    before = len(docs.requests)
    assert "'mine'" in refused(granted, model=model, tools=[DOCS, OWN])["message"]
    assert len(docs.requests) == before


@pytest.mark.parametrize("way", ["JSON", "SSE"])
def test_the_gateway_and_the_upstream_each_call_their_own(
    router: Gateway, native: ScriptedUpstream, granted: str, way: str
) -> None:
    body = {"model": "both", "input": "hello", "tools": [DOCS, OWN, FUNCTION], **WAYS[way]}
    answer = router.post("/responses", body, token=granted)
    assert answer.status_code == 200, answer.text
    (sent,) = native.bodies
    assert [tool.get("name", tool["type"]) for tool in sent["tools"]] == ["echo", "mcp", "look"]
    assert sent["tools"][1] == OWN


def test_a_listed_origin_is_called_by_the_gateway_on_any_channel(
    router: Gateway, docs: ToolServer, plain: ScriptedUpstream, native: ScriptedUpstream, granted: str
) -> None:
    own = {**DOCS, "server_label": "mine", "server_url": docs.url, "authorization": "key-of-mine"}
    for model in ("bridged", "both"):
        answer = router.post("/responses", {"model": model, "input": "hello", "tools": [own]}, token=granted)
        assert answer.status_code == 200, answer.text
        assert "key-of-mine" not in answer.text
    assert docs.requests[-1].headers["authorization"] == "Bearer key-of-mine"
    assert "key-of-mine" not in str(plain.bodies)
    assert (len(plain.bodies), native.bodies) == (2, [])


@pytest.fixture
def tools_gateway(gateway: MakeGateway, docs: ToolServer) -> Gateway:
    """With a worker for background responses."""
    rows = [{"name": "demo", "format": "demo", "models": ["demo"]}]
    tools = {
        "servers": [{"label": "docs", "url": docs.url, "require_approval": "never"}],
        "hosted": {"web_search": {"server": "docs", "tool": "search"}},
    }
    return gateway(rows, {"tools": tools}, worker_processes=1)


def test_a_run_in_the_background_has_the_tools_of_its_token(tools_gateway: Gateway) -> None:
    body: JSON = {"model": "demo", "background": True, "tools": [{"type": "web_search"}], "input": "web_search: a page"}

    def output(token: str) -> list[str]:
        queued = tools_gateway.post("/responses", body, token=token).json()

        def ended() -> JSON | None:
            response: JSON = tools_gateway.get(f"/responses/{queued['id']}", token=token).json()
            return response if response["status"] == "completed" else None

        return [item["type"] for item in eventually(ended, "the end of the run")["output"]]

    granted = tools_gateway.new_token("granted", "--tools", "d*")
    assert output(granted) == ["web_search_call", "message"]
    assert output(tools_gateway.token) == ["message"]


def test_a_changed_table_holds_for_the_next_turn(tools_gateway: Gateway) -> None:
    granted = tools_gateway.new_token("granted", "--tools", "*")
    body: JSON = {"model": "demo", "tools": [{"type": "mcp", "server_label": "docs"}], "input": "echo: a word"}
    answer = tools_gateway.post("/responses", body, token=granted)
    assert [item["type"] for item in answer.json()["output"]] == ["mcp_list_tools", "mcp_call", "message"]
    tools_gateway.write_channels([{"name": "demo", "format": "demo", "models": ["demo"]}])

    def refused() -> str | None:
        answer = tools_gateway.post("/responses", body, token=granted)
        return str(answer.json()["error"]["message"]) if answer.status_code == 400 else None

    assert "'docs' is unknown here" in eventually(refused, "the changed table")


def test_a_count_of_tokens_shows_the_servers_to_no_upstream_that_cannot_call_them(
    router: Gateway, plain: ScriptedUpstream, granted: str
) -> None:
    body = {"model": "counting", "input": "hello", "tools": [FUNCTION, OWN, DOCS]}
    for token in (granted, router.token):
        assert router.post("/responses/input_tokens", body, token=token).ok
    assert [body["tools"] for body in plain.bodies] == [[FUNCTION]] * 2


@pytest.mark.parametrize("path", ["/responses", "/responses/compact"])
def test_a_compaction_asks_no_model_for_a_turn_that_is_refused(
    router: Gateway, plain: ScriptedUpstream, granted: str, path: str
) -> None:
    first = router.post("/responses", {"model": "plain", "input": "hello"}, token=granted).json()
    before = len(plain.bodies)
    body: JSON = {"model": "plain", "input": "go on", "previous_response_id": first["id"], "tools": [OWN]}
    if path == "/responses":
        body["context_management"] = [{"type": "compaction", "compact_threshold": 1}]
    answer = router.post(path, body, token=granted)
    assert answer.status_code == 400, answer.text
    assert "client_urls" in check_error(answer)["message"]
    assert len(plain.bodies) == before


@pytest.mark.parametrize("way", ["JSON", "SSE"])
def test_a_compaction_before_the_answer_shows_them_to_no_other_upstream(
    router: Gateway, plain: ScriptedUpstream, native: ScriptedUpstream, granted: str, way: str
) -> None:
    first = router.post("/responses", {"model": "both", "input": "hello"}, token=granted).json()
    management = [{"type": "compaction", "compact_threshold": 1}]
    body = {"model": "both", "input": "go on", "previous_response_id": first["id"], "context_management": management}
    answer = router.post("/responses", {**body, "tools": [OWN], **WAYS[way]}, token=granted)
    assert answer.status_code == 200, answer.text
    assert "key-of-mine" not in str(plain.bodies)
    assert native.bodies[-1]["tools"] == [OWN]
