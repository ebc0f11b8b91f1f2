"""The Agents SDK and the AI SDK of JavaScript against the gateway, with the tools of an MCP server."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests import javascript
from tests.relay.tools.conftest import ASK, ToolCase
from tests.upstream_formats import lines

JSON = dict[str, Any]
either = pytest.mark.parametrize("streamed", [False, True], ids=["json", "sse"])
pytestmark = pytest.mark.timeout(2 * javascript.INSTALL_WITHIN + 2 * javascript.PATIENCE)


@pytest.fixture(scope="session")
def packages(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    cache: Path = request.config.cache.mkdir("javascript")  # type: ignore[union-attr]
    try:
        return javascript.installed(cache, tmp_path_factory.getbasetemp().parent)
    except javascript.NotInstalled as missing:
        pytest.skip(f"the clients of JavaScript are missing: {missing}")


@pytest.fixture(scope="session")
def agents(packages: Path) -> Iterator[javascript.Client]:
    with javascript.Client("agents", packages) as client:
        yield client


@pytest.fixture(scope="session")
def ai(packages: Path) -> Iterator[javascript.Client]:
    with javascript.Client("ai", packages) as client:
        yield client


def run(client: javascript.Client, case: ToolCase, label: str, **job: Any) -> JSON:
    """Two turns of a client whose model may call `echo`."""
    return client.run(
        base_url=case.gateway.base_url,
        token=case.gateway.token,
        model=case.model,
        label=label,
        url=f"https://tools.antiphon.invalid/{label}",
        allowed=["echo"],
        texts=[ASK, "And what did I ask?"],
        **job,
    )


def calls_and_outputs(body: JSON) -> list[tuple[str, str]]:
    """The calls and outputs of a history that a model has been sent."""
    return [line[:2] for line in lines(body) if line[0] in ("call", "output")]


@either
@pytest.mark.parametrize(
    ("own_history", "store", "told"),
    [(False, True, "Oslo"), (True, True, "Oslo"), (True, False, "(result not available)")],
    ids=["chained", "own history", "unstored"],
)
def test_an_agent_has_its_tools_run(
    tool_case: ToolCase, agents: javascript.Client, streamed: bool, own_history: bool, store: bool, told: str
) -> None:
    job: JSON = {"streamed": streamed, "own_history": own_history, "store": store}
    outcome = run(agents, tool_case, "docs", **job)
    first, second = outcome["answers"]
    assert "The tools said: Oslo" in first
    assert "And what did I ask?" in second
    assert outcome["approvals"] == []
    # The SDK leaves out the output of a call that it sends back. The model reads it where the gateway stores it.
    assert calls_and_outputs(tool_case.bodies[-1]) == [("call", "echo"), ("output", told)]


@either
@pytest.mark.parametrize("own_history", [False, True], ids=["chained", "own history"])
@pytest.mark.parametrize("approve", [True, False], ids=["approved", "denied"])
def test_an_agent_asks_before_a_call(
    tool_case: ToolCase, agents: javascript.Client, streamed: bool, own_history: bool, approve: bool
) -> None:
    before = len(tool_case.server.calls)
    job: JSON = {"streamed": streamed, "own_history": own_history, "store": True}
    outcome = run(agents, tool_case, "careful", **job, approve=approve, reason="not today")
    assert outcome["approvals"] == ["echo"]
    told = "Oslo" if approve else "Call denied by the user: not today"
    assert calls_and_outputs(tool_case.bodies[-1]) == [("call", "echo"), ("output", told)]
    assert len(tool_case.server.calls) == before + approve


@either
@pytest.mark.parametrize("store", [True, False], ids=["references", "items"])
def test_a_chat_has_its_tools_run(tool_case: ToolCase, ai: javascript.Client, streamed: bool, store: bool) -> None:
    first, second = run(ai, tool_case, "docs", streamed=streamed, store=store)["turns"]
    assert "The tools said: Oslo" in first["answer"]
    assert "And what did I ask?" in second["answer"]
    (result,) = (part for part in first["content"] if part["type"] == "tool-result")
    assert (result["toolName"], result["output"]["name"], result["output"]["output"]) == ("mcp.echo", "echo", "Oslo")


@either
@pytest.mark.parametrize("approve", [True, False], ids=["approved", "denied"])
def test_a_chat_asks_before_a_call(tool_case: ToolCase, ai: javascript.Client, streamed: bool, approve: bool) -> None:
    # Without `store` the SDK sends the answer alone, so that nothing can know the request.
    before = len(tool_case.server.calls)
    job: JSON = {"streamed": streamed, "store": True, "approve": approve, "reason": "not today"}
    asked, answered, last = run(ai, tool_case, "careful", **job)["turns"]
    assert asked["answer"] == ""
    assert "And what did I ask?" in last["answer"]
    assert len(tool_case.server.calls) == before + approve
    results = [part["output"]["output"] for part in answered["content"] if part["type"] == "tool-result"]
    assert results == (["Oslo"] if approve else [])
