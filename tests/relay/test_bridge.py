"""What the relay does around a format that cannot carry everything: another channel, a second try, sealed reasoning."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest

from tests.gateway import Gateway
from tests.relay.conftest import events_of
from tests.upstream import ScriptedUpstream, refusal

JSON = dict[str, Any]
SEARCH = {"type": "web_search"}
WEATHER = {"type": "function", "name": "get_weather", "parameters": {"type": "object", "properties": {}}}
DROPPED = "X-Antiphon-Dropped-Tools"
ENCRYPTED = "reasoning.encrypted_content"
TOO_LONG = "This model's maximum context length is 100 tokens."


@dataclass(frozen=True, slots=True)
class Bridge:
    gateway: Gateway
    chat: ScriptedUpstream
    exact: ScriptedUpstream

    def ask(self, model: str, streamed: bool = False, **keys: Any) -> tuple[JSON, Any]:
        """The final response object and the answer's headers."""
        body = {"model": model, "input": "Say something", "stream": streamed, **keys}
        answer = self.gateway.post("/responses", body)
        assert answer.status_code == 200, answer.text
        if not streamed:
            return answer.json(), answer.headers
        return events_of(answer.content)[-1]["response"], answer.headers

    def refused(self, model: str, **keys: Any) -> JSON:
        answer = self.gateway.post("/responses", {"model": model, "input": "Say something", **keys})
        assert answer.status_code == 400, answer.text
        return dict(answer.json()["error"])


@pytest.fixture(scope="module")
def _bridge(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bridge]:
    chat_format = {"format": "chat_completions"}
    with ScriptedUpstream() as chat, ScriptedUpstream() as exact:
        rows = [
            chat.channel("chat", models=["alone"], **chat_format),
            chat.channel("thinker", models=["thinker"], reasoning_text=True, **chat_format),
            chat.channel("strict", models=["strict"], hosted_tools="refuse", **chat_format),
            chat.channel("first-chat", models=["pair"], priority=10, **chat_format),
            exact.channel("then-exact", models=["pair"]),
            chat.channel("first-strict", models=["strict-pair"], priority=10, hosted_tools="refuse", **chat_format),
            exact.channel("strict-exact", models=["strict-pair"]),
            exact.channel("exact", models=["exact"], encrypted_reasoning=True),
        ]
        with Gateway(tmp_path_factory.mktemp("bridge"), rows) as gateway:
            yield Bridge(gateway, chat, exact)


@pytest.fixture
def bridge(_bridge: Bridge) -> Bridge:
    for upstream in (_bridge.chat, _bridge.exact):
        upstream.reset()
    return _bridge


# --- tools that a channel cannot run ----------------------------------------------------------------------------


@pytest.mark.parametrize("streamed", [False, True])
def test_a_dropped_tool_stands_in_a_header_and_is_still_echoed(bridge: Bridge, streamed: bool) -> None:
    response, headers = bridge.ask("alone", streamed, tools=[SEARCH, WEATHER])
    assert headers[DROPPED] == "web_search"
    assert [tool["type"] for tool in response["tools"]] == ["web_search", "function"]
    assert [tool["function"]["name"] for tool in bridge.chat.bodies[-1]["tools"]] == ["get_weather"]


def test_without_a_dropped_tool_there_is_no_header(bridge: Bridge) -> None:
    _, headers = bridge.ask("alone", tools=[WEATHER])
    assert DROPPED not in headers


@pytest.mark.parametrize("streamed", [False, True])
@pytest.mark.parametrize("model", ["pair", "strict-pair"])
def test_a_channel_that_can_run_the_tool_goes_before_one_that_would_drop_it(
    bridge: Bridge, model: str, streamed: bool
) -> None:
    _, headers = bridge.ask(model, streamed, tools=[SEARCH])
    assert DROPPED not in headers
    assert not bridge.chat.bodies
    bridge.ask(model, streamed, tools=[WEATHER])
    assert bridge.chat.bodies


def test_a_strict_row_that_is_alone_refuses(bridge: Bridge) -> None:
    error = bridge.refused("strict", tools=[SEARCH])
    assert (error["param"], error["code"]) == ("tools", "unsupported_value")
    assert not bridge.chat.bodies


@pytest.mark.parametrize("streamed", [False, True])
def test_a_request_that_one_format_cannot_carry_goes_to_another_channel(bridge: Bridge, streamed: bool) -> None:
    bridge.ask("pair", streamed, prompt={"id": "pmpt_1"})
    assert bridge.exact.bodies[-1]["prompt"] == {"id": "pmpt_1"}
    assert bridge.refused("alone", prompt={"id": "pmpt_1"})["param"] == "prompt"


# --- a context that is too long ---------------------------------------------------------------------------------


@pytest.mark.parametrize("streamed", [False, True])
def test_a_context_that_is_too_long_is_sent_once_more_without_its_oldest_turns(bridge: Bridge, streamed: bool) -> None:
    bridge.chat.enqueue(refusal(400, TOO_LONG, "context_length_exceeded"))
    turns = [{"role": role, "content": f"{role} {n}"} for n in range(6) for role in ("user", "assistant")]
    last = {"role": "user", "content": "and now?"}
    bridge.ask("alone", streamed, input=[*turns, last], truncation="auto")
    first, second = (body["messages"] for body in bridge.chat.bodies)
    assert len(second) < len(first)
    assert second[-1] == first[-1]


def test_without_truncation_or_twice_too_long_is_the_clients_400(bridge: Bridge) -> None:
    bridge.chat.enqueue(refusal(400, TOO_LONG, "context_length_exceeded"), times=1)
    assert bridge.refused("alone")["code"] == "context_length_exceeded"
    turns = [{"role": role, "content": f"{role} {n}"} for n in range(6) for role in ("user", "assistant")]
    bridge.chat.reset()
    bridge.chat.always(refusal(400, TOO_LONG, "context_length_exceeded"))
    error = bridge.refused("alone", input=turns, truncation="auto")
    assert error["code"] == "context_length_exceeded"
    # The request, once more without its oldest turns, then two passes of a compaction.
    assert len(bridge.chat.bodies) == 4


# --- reasoning text ---------------------------------------------------------------------------------------------


def reasoning_of(response: JSON) -> JSON:
    return next(item for item in response["output"] if item["type"] == "reasoning")


def texts(item: JSON) -> list[str]:
    return [part["text"] for part in item.get("content") or ()]


@pytest.mark.parametrize("streamed", [False, True])
def test_sealed_reasoning_comes_back_as_text_to_a_channel_that_takes_it(bridge: Bridge, streamed: bool) -> None:
    response, _ = bridge.ask("thinker", streamed, input="think of weather", store=False, include=[ENCRYPTED])
    item = reasoning_of(response)
    assert item["encrypted_content"].startswith("antiphon.")
    thought = texts(item)
    carried = {"type": "reasoning", "summary": [], "encrypted_content": item["encrypted_content"]}
    messages = [entry for entry in response["output"] if entry["type"] == "message"]
    before = {"role": "user", "content": "think of weather"}
    bridge.ask("thinker", streamed, input=[before, carried, *messages, {"role": "user", "content": "go on"}])
    assistant = next(m for m in bridge.chat.bodies[-1]["messages"] if m["role"] == "assistant")
    assert assistant["reasoning_content"] == thought[0]
    bridge.ask("alone", streamed, input=[before, carried, *messages, {"role": "user", "content": "go on"}])
    assistant = next(m for m in bridge.chat.bodies[-1]["messages"] if m["role"] == "assistant")
    assert "reasoning_content" not in assistant


def test_reasoning_is_sealed_only_on_request(bridge: Bridge) -> None:
    response, _ = bridge.ask("thinker", input="think of weather")
    assert "encrypted_content" not in reasoning_of(response)


def test_altered_reasoning_is_refused(bridge: Bridge) -> None:
    response, _ = bridge.ask("thinker", input="think of weather", include=[ENCRYPTED])
    sealed = reasoning_of(response)["encrypted_content"]
    altered = {"type": "reasoning", "summary": [], "encrypted_content": sealed[:-2]}
    error = bridge.refused("alone", input=[altered, {"role": "user", "content": "go on"}])
    assert error["code"] == "invalid_encrypted_content"


@pytest.mark.parametrize("streamed", [False, True])
def test_a_sealed_thought_never_reaches_an_upstream(bridge: Bridge, streamed: bool) -> None:
    response, _ = bridge.ask("thinker", streamed, input="think of weather", include=[ENCRYPTED])
    bridge.ask("exact", streamed, previous_response_id=response["id"], input="go on")
    bridge.ask("thinker", streamed, previous_response_id=response["id"], input="go on")
    for upstream in (bridge.exact, bridge.chat):
        assert b"antiphon." not in upstream.requests[-1].raw
    assert any(m.get("reasoning_content") for m in bridge.chat.bodies[-1]["messages"])
