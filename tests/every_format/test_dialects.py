"""Chat completions as the servers speak them that people run: a thought, two calls, and on."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import pytest

from tests.every_format.conversations import WEATHER, answered, calls_of, essence, message_item, text_of
from tests.gateway import Gateway
from tests.upstream import DIALECTS, ScriptedUpstream
from tests.upstream_formats import FormatCase

#: What a row has to say for a dialect.
ROWS: dict[str, dict[str, Any]] = {"deepseek": {"reasoning_text": True}, "openai": {"system_messages": "keep"}}
TOOLS = {"tools": [WEATHER]}


@pytest.fixture(scope="module")
def _dialects(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, FormatCase]]:
    with ExitStack() as stack:
        upstreams = {name: stack.enter_context(ScriptedUpstream(dialect=DIALECTS[name])) for name in DIALECTS}
        rows = [
            upstream.channel(name, models=[name], format="chat_completions", **ROWS.get(name, {}))
            for name, upstream in upstreams.items()
        ]
        gateway = stack.enter_context(Gateway(tmp_path_factory.mktemp("dialects"), rows))
        yield {name: FormatCase(name, gateway, upstream, (), name) for name, upstream in upstreams.items()}


@pytest.fixture(params=DIALECTS)
def dialect(request: pytest.FixtureRequest, _dialects: dict[str, FormatCase]) -> FormatCase:
    format_case = _dialects[request.param]
    format_case.reset()
    return format_case


def test_a_stream_says_what_the_json_says(dialect: FormatCase) -> None:
    request: dict[str, Any] = {"input": "think and explain both weathers", **TOOLS}
    whole = dialect.create(**request)
    assert [item["type"] for item in whole["output"]] == ["reasoning", "message", "function_call", "function_call"]
    assert essence(dialect.events(**request)[-1]["response"]) == essence(whole)


@pytest.mark.parametrize("streamed", [False, True], ids=["json", "sse"])
def test_a_thinking_tool_loop_goes_on_by_its_id(dialect: FormatCase, streamed: bool) -> None:
    first = dialect.ask(streamed, input="think of both weathers", **TOOLS)
    results = [answered(call, "fine") for call in calls_of(first)]
    second = dialect.ask(streamed, input=results, previous_response_id=first["id"], **TOOLS)
    assert "The tools said: fine, fine." in text_of(second)
    third = dialect.ask(streamed, input="weather", previous_response_id=second["id"], **TOOLS)
    assert calls_of(third)


def test_a_thinking_tool_loop_goes_on_without_a_store(dialect: FormatCase) -> None:
    keys: dict[str, Any] = {"store": False, "include": ["reasoning.encrypted_content"], **TOOLS}
    items = [message_item("think of both weathers")]
    items += dialect.create(input=items, **keys)["output"]
    items += [answered(call, "fine") for call in items if call["type"] == "function_call"]
    assert "The tools said: fine, fine." in text_of(dialect.create(input=items, **keys))


def test_developer_messages_arrive_wherever_they_stand(dialect: FormatCase) -> None:
    items = [
        message_item("Be kind.", "developer"),
        message_item("hi"),
        message_item("Hello.", "assistant"),
        message_item("In French.", "developer"),
    ]
    dialect.create(input=[*items, message_item("go on")], instructions="Be wise.")
    sent_text = "\n".join(line[1] for line in dialect.sent_lines)
    assert [word for word in ("Be wise.", "Be kind.", "In French.") if word in sent_text] == [
        "Be wise.",
        "Be kind.",
        "In French.",
    ]
