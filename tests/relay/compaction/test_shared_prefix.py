"""The summary pass of the conversation's own model: its last request again, and one instruction at the end."""

from __future__ import annotations

from typing import Any

import orjson
import pytest

from tests.caches.prompts import prompt_of
from tests.relay.compaction.conftest import (
    FORMATS,
    CompactionGateway,
    answering_with,
    facts,
    items_of,
    requests_summary,
    summarising,
)
from tests.upstream import Recorded, retold

JSON = dict[str, Any]
LOOK = {
    "type": "function",
    "name": "look",
    "description": "Looks.",
    "parameters": {"type": "object", "properties": {"at": {"type": "string"}}},
    "strict": False,
}
CALL = {"type": "function_call", "id": "fc_1", "call_id": "call_1", "name": "look", "arguments": "{}"}
SETTINGS: JSON = {"instructions": "You are terse.", "tools": [LOOK]}
MODELS = [model for name, model in FORMATS.items() if name != "demo"]


def talk(gateway: CompactionGateway, model: str) -> str:
    """Three turns with instructions and a tool; the id of the last one."""
    last: str | None = None
    for number in range(1, 4):
        last = gateway.create(model, f"Note fact-{number}. {'word ' * 50}", last, **SETTINGS)["id"]
    assert last is not None
    return last


def test_the_pass_begins_with_the_last_request_to_the_byte(compaction_gateway: CompactionGateway) -> None:
    for model in MODELS:
        last = talk(compaction_gateway, model)
        request = compaction_gateway.first.bodies[-1]
        compaction_gateway.first.always(summarising)
        compaction_gateway.compact(model, previous_response_id=last, input="And now?", **SETTINGS)
        summary = next(body for body in reversed(compaction_gateway.first.bodies) if requests_summary(body))
        assert orjson.dumps(items_of(summary)[: len(items_of(request))]) == orjson.dumps(items_of(request))
        for member in ("instructions", "system", "tools"):
            assert summary.get(member) == request.get(member)
        assert summary["tool_choice"] in ("none", {"type": "none"})
        compaction_gateway.first.reset()


def passes(gateway: CompactionGateway) -> list[JSON]:
    return [body for body in gateway.first.bodies if requests_summary(body)]


def test_a_model_that_calls_a_tool_all_the_same_gets_the_history_as_text(compaction_gateway: CompactionGateway) -> None:
    call = {"type": "tool_use", "id": "toolu_1", "name": "look", "input": {}}
    last = talk(compaction_gateway, "claude-9")
    compaction_gateway.first.enqueue(retold(lambda body: {**body, "content": [call], "stop_reason": "tool_use"}))
    response = compaction_gateway.compact("claude-9", previous_response_id=last, input="And now?", **SETTINGS)
    shared, rendered = passes(compaction_gateway)
    assert shared["tools"]
    assert "tools" not in rendered
    assert "tool_choice" not in rendered
    assert response["output"][0]["type"] == "compaction"


@pytest.mark.parametrize("model", [*MODELS, "claude-9"])
def test_a_demanded_call_is_none_of_the_summary(compaction_gateway: CompactionGateway, model: str) -> None:
    last = talk(compaction_gateway, model)
    choice = {"type": "function", "name": "look"}
    compaction_gateway.compact(model, previous_response_id=last, input="And now?", tool_choice=choice, **SETTINGS)
    (summary,) = passes(compaction_gateway)
    assert summary["tool_choice"] in ("none", {"type": "none"})


def test_a_client_that_keeps_the_conversation_shares_it_too(compaction_gateway: CompactionGateway) -> None:
    items: list[JSON] = [{"role": "user", "content": f"Note fact-1. {'word ' * 50}"}]
    items += compaction_gateway.create("gpt-plain", items, store=False, **SETTINGS)["output"]
    request = compaction_gateway.first.bodies[-1]
    items += [{"role": "user", "content": "Note fact-2."}, {"type": "compaction_trigger"}]
    compaction_gateway.create("gpt-plain", items, store=False, **SETTINGS)
    assert compaction_gateway.given[: len(request["input"])] == request["input"]


def test_a_model_that_goes_on_with_its_work_gets_the_history_as_text(compaction_gateway: CompactionGateway) -> None:
    last = talk(compaction_gateway, "gpt-plain")
    compaction_gateway.first.enqueue(retold(lambda body: {**body, "output": [CALL]}))
    compaction_gateway.first.always(summarising)
    response = compaction_gateway.compact("gpt-plain", previous_response_id=last, input="And now?", **SETTINGS)
    shared, rendered = [body for body in compaction_gateway.first.bodies if requests_summary(body)]
    assert shared["tools"]
    assert "tools" not in rendered
    assert response["output"][0]["type"] == "compaction"
    assert set(facts({"input": compaction_gateway.given})) >= {"fact-1", "fact-2", "fact-3"}


def test_a_wanted_format_of_the_answer_is_none_of_the_summary(compaction_gateway: CompactionGateway) -> None:
    last = talk(compaction_gateway, "gpt-plain")
    schema = {"type": "json_schema", "name": "answer", "schema": {"type": "object"}, "strict": False}
    text = {"format": schema, "verbosity": "low"}
    compaction_gateway.compact("gpt-plain", previous_response_id=last, input="And now?", text=text, **SETTINGS)
    summary = next(body for body in compaction_gateway.first.bodies if requests_summary(body))
    assert summary["text"] == {"verbosity": "low"}


@pytest.mark.parametrize("cut", [False, True])
def test_calls_that_wait_are_not_sent_again(compaction_gateway: CompactionGateway, cut: bool) -> None:
    last = talk(compaction_gateway, "gpt-plain")
    status = {"status": "incomplete", "incomplete_details": {"reason": "max_output_tokens"}} if cut else {}
    compaction_gateway.first.enqueue(retold(lambda body: {**body, "output": [CALL], **status}))
    waiting = compaction_gateway.create("gpt-plain", "Look.", last, **SETTINGS)
    request = compaction_gateway.first.bodies[-1]
    compaction_gateway.first.always(summarising)
    compaction_gateway.compact("gpt-plain", previous_response_id=waiting["id"], **SETTINGS)
    summary = next(body for body in compaction_gateway.first.bodies if requests_summary(body))
    assert "function_call" not in [item["type"] for item in summary["input"]]
    assert (summary["input"][: len(request["input"])], summary["tools"]) == (request["input"], request["tools"])


def test_the_pass_before_a_tool_output_shares_the_prefix(compaction_gateway: CompactionGateway) -> None:
    for model, called in {"gpt-plain": "function_call", "gpt-chat": "tool_calls", "claude-9": "tool_use"}.items():
        last = talk(compaction_gateway, model)
        waiting = compaction_gateway.create(model, "Look at the weather.", last, **SETTINGS)
        (call,) = [item for item in waiting["output"] if item["type"] == "function_call"]
        request = compaction_gateway.first.requests[-1]
        compaction_gateway.first.enqueue(answering_with("Known."))
        output = {"type": "function_call_output", "call_id": call["call_id"], "output": "Rain."}
        limit = {"type": "compaction", "compact_threshold": 1}
        response = compaction_gateway.create(model, [output], waiting["id"], context_management=[limit], **SETTINGS)
        assert response["output"][0]["type"] == "compaction"
        summary, answer = compaction_gateway.first.requests[-2:]
        assert requests_summary(summary.body)
        texts = prompt_texts(request)
        assert prompt_texts(summary)[: len(texts)] == texts
        assert called not in orjson.dumps(items_of(summary.body)).decode()
        assert "Rain." in orjson.dumps(items_of(answer.body)[-1]).decode()


@pytest.mark.parametrize(("choice", "sent"), [("auto", "auto"), ("required", "none"), (None, None)])
def test_the_choice_of_tools_stays_where_the_cache_depends_on_it(
    compaction_gateway: CompactionGateway, choice: str | None, sent: str | None
) -> None:
    settings = {**SETTINGS, **({"tool_choice": choice} if choice else {})}
    last = talk(compaction_gateway, "claude-9")
    compaction_gateway.first.enqueue(answering_with("Known."))
    compaction_gateway.compact("claude-9", previous_response_id=last, **settings)
    summary = compaction_gateway.first.bodies[-1]
    assert requests_summary(summary)
    assert summary.get("tool_choice", {}).get("type") == sent


def prompt_texts(request: Recorded) -> list[bytes]:
    """The parts of the prompt, as a cache compares them."""
    return [part.text for part in prompt_of(request.path, request.body).parts]
