"""The Agents SDK of Python against the gateway: an agent with a hosted MCP tool, which asks its user or does not."""

from __future__ import annotations

import asyncio
from typing import Any

import agents
import openai
import pytest
from agents.memory import SQLiteSession
from openai.types.responses.tool_param import Mcp

from tests.relay.tools.conftest import ASK, ToolCase, mcp
from tests.upstream_formats import lines

JSON = dict[str, Any]
either = pytest.mark.parametrize("streamed", [False, True], ids=["json", "sse"])
#: The gateway stores the conversation, or the SDK brings all of it each time.
keepers = pytest.mark.parametrize("own_history", [False, True], ids=["chained", "own history"])


@pytest.fixture(autouse=True)
def _untraced() -> None:
    agents.set_tracing_disabled(True)


class Talk:
    """An agent whose model may call `echo`, and what its user was asked."""

    def __init__(self, case: ToolCase, streamed: bool, own_history: bool, approve: bool | None) -> None:
        self._case, self._streamed, self._own_history = case, streamed, own_history
        self._approve = approve
        self.asked: list[str] = []
        self.kinds: list[str] = []
        """The names of the events that the SDK gives to its caller."""

    def __call__(self, *texts: str) -> list[str]:
        """The answers to the texts."""
        return asyncio.run(self._converse(texts))

    async def _converse(self, texts: tuple[str, ...]) -> list[str]:
        gateway = self._case.gateway
        transport = openai.DefaultAsyncHttpxClient(trust_env=False)
        session = SQLiteSession("tests") if self._own_history else None
        try:
            async with openai.AsyncOpenAI(
                base_url=gateway.base_url, api_key=gateway.token, max_retries=0, http_client=transport
            ) as client:
                agent = agents.Agent(
                    name="Ada", model=agents.OpenAIResponsesModel(self._case.model, client), tools=[self._tool()]
                )
                answers, keys = [], {}
                for text in texts:
                    result = await self._run(agent, text, {"session": session} if session else keys)
                    answers.append(str(result.final_output))
                    keys = {"previous_response_id": result.last_response_id}
                return answers
        finally:
            if session is not None:
                session.close()

    def _tool(self) -> agents.HostedMCPTool:
        if self._approve is None:
            return agents.HostedMCPTool(tool_config=Mcp(**mcp("echo")))
        config = Mcp(**mcp("echo", label="careful", require_approval="always"))
        return agents.HostedMCPTool(tool_config=config, on_approval_request=self._answer)

    def _answer(self, request: agents.MCPToolApprovalRequest) -> agents.MCPToolApprovalFunctionResult:
        self.asked.append(request.data.name)
        return {"approve": True} if self._approve else {"approve": False, "reason": "not today"}

    async def _run(self, agent: agents.Agent[Any], text: str, keys: JSON) -> Any:
        if not self._streamed:
            return await agents.Runner.run(agent, text, **keys)
        result = agents.Runner.run_streamed(agent, text, **keys)
        async for event in result.stream_events():
            if event.type == "run_item_stream_event":
                self.kinds.append(event.name)
        return result


@either
@keepers
def test_an_agent_has_its_tools_run(tool_case: ToolCase, streamed: bool, own_history: bool) -> None:
    talk = Talk(tool_case, streamed, own_history, None)
    first, second = talk(ASK, "And what did I ask?")
    assert "The tools said: Oslo" in first
    assert "And what did I ask?" in second
    assert talk.asked == []
    assert calls_and_outputs(tool_case) == [("call", "echo"), ("output", "Oslo")]


@either
@keepers
@pytest.mark.parametrize("approve", [True, False], ids=["approved", "denied"])
def test_an_agent_asks_before_a_call(tool_case: ToolCase, streamed: bool, own_history: bool, approve: bool) -> None:
    before = len(tool_case.server.calls)
    talk = Talk(tool_case, streamed, own_history, approve)
    _, last = talk(ASK, "And what did I ask?")
    assert talk.asked == ["echo"]
    assert "And what did I ask?" in last
    assert ("mcp_approval_requested" in talk.kinds) == streamed
    told = "Oslo" if approve else "Call denied by the user: not today"
    assert calls_and_outputs(tool_case) == [("call", "echo"), ("output", told)]
    assert len(tool_case.server.calls) == before + approve


def calls_and_outputs(case: ToolCase) -> list[tuple[str, ...]]:
    """Those in the history that the model was sent last."""
    return [line[:2] for line in lines(case.bodies[-1]) if line[0] in ("call", "output")]
