from typing import Any

import orjson
import pytest

from app.errors import InvalidRequest
from app.formats import messages
from tests.formats.conversations import answered, called, message_item, row, turn
from tests.formats.messages.conversations import encoded, text, without_marks

SCHEMA = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
WEATHER = {"type": "function", "name": "get_weather", "description": "W", "parameters": SCHEMA, "strict": True}
CLOCK = {"type": "function", "name": "clock"}
PATCH = {"type": "custom", "name": "apply_patch"}
CRM = {"type": "namespace", "name": "crm", "description": "Customers", "tools": [{**CLOCK, "name": "find"}]}
SEARCH = {"type": "web_search"}
MARK = {"type": "ephemeral"}


def body(keys: Any = None, **request: Any) -> dict[str, Any]:
    return encoded(turn(message_item("user", "U"), **request), **(keys or {}))


def settings(**request: Any) -> dict[str, Any]:
    """The members of a request besides model, messages and `max_tokens`."""
    return {name: value for name, value in body(**request).items() if name not in ("model", "messages", "max_tokens")}


def test_a_plain_request_is_a_model_a_limit_and_messages() -> None:
    assert body(store=True, metadata={"a": "b"}, truncation="auto", unheard_of=1) == {
        "model": "claude-x",
        "max_tokens": 8192,
        "messages": [{"role": "user", "content": [text("U")]}],
    }


def test_the_key_and_the_version_are_headers() -> None:
    assert messages.headers("k") == {"x-api-key": "k", "anthropic-version": "2023-06-01"}
    assert messages.headers(None) == {"anthropic-version": "2023-06-01"}


def test_the_limit_is_the_clients_then_the_rows() -> None:
    assert body({"max_output_tokens": 500}, max_output_tokens=64)["max_tokens"] == 64
    assert body({"max_output_tokens": 500})["max_tokens"] == 500


def test_a_stored_prompt_is_refused_by_its_name() -> None:
    with pytest.raises(InvalidRequest) as refusal:
        body(prompt={"id": "pmpt_1"})
    assert refusal.value.param == "prompt"


def test_settings_go_under_their_names_here() -> None:
    assert settings(temperature=0.5, top_k=20, stop=["END", " "], user="u", stream=True) == {
        "temperature": 0.5,
        "top_k": 20,
        "stop_sequences": ["END"],
        "metadata": {"user_id": "u"},
        "stream": True,
    }
    assert settings(stop="END", safety_identifier="s", user="u", top_p=0.9) == {
        "stop_sequences": ["END"],
        "metadata": {"user_id": "s"},
        "top_p": 0.9,
    }


@pytest.mark.parametrize("warm", [{"temperature": 1.0}, {"temperature": 2.0}, {"top_p": 1}])
def test_defaults_and_values_beyond_the_range_are_left_to_the_model(warm: dict[str, Any]) -> None:
    assert settings(**warm) == {}


def test_one_of_temperature_and_top_p_is_enough() -> None:
    assert settings(temperature=0.2, top_p=0.5) == {"temperature": 0.2}


# --- thinking ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("reasoning", "sent"),
    [
        ({"effort": "none"}, {"thinking": {"type": "disabled"}}),
        ({"effort": "minimal"}, {"thinking": {"type": "adaptive"}, "output_config": {"effort": "low"}}),
        ({"effort": "max"}, {"thinking": {"type": "adaptive"}, "output_config": {"effort": "max"}}),
        ({"summary": "auto"}, {"thinking": {"type": "adaptive", "display": "summarized"}}),
        ({}, {}),
    ],
)
def test_an_effort_is_one_here_and_a_summary_shows_the_thinking(reasoning: Any, sent: dict[str, Any]) -> None:
    assert settings(reasoning=reasoning) == sent


def test_thinking_excludes_what_models_refuse_beside_it() -> None:
    sent = settings(reasoning={"effort": "low"}, temperature=0.2, top_k=5, top_p=0.97)
    assert sent.keys() == {"thinking", "output_config", "top_p"}
    assert "top_p" not in settings(reasoning={"effort": "low"}, top_p=0.5)


def test_a_model_that_has_to_call_does_not_think_first() -> None:
    sent = settings(reasoning={"effort": "low"}, tools=[CLOCK], tool_choice="required")
    assert "thinking" not in sent
    assert sent["output_config"] == {"effort": "low"}


def test_thinking_may_be_requested_in_the_words_of_this_api() -> None:
    budget = {"type": "enabled", "budget_tokens": 2000}
    assert settings(thinking=budget, temperature=0.1) == {"thinking": budget}


@pytest.mark.parametrize("odd", [{"reasoning": {"effort": []}}, {"text": {"format": "json"}}, {"text": {"format": []}}])
def test_a_configuration_that_means_nothing_changes_nothing(odd: dict[str, Any]) -> None:
    sent = encoded(turn({"type": "configuration_update", **odd}, message_item("user", "U")))
    assert sent.keys() == {"model", "max_tokens", "messages"}


def test_a_configuration_in_the_context_holds_until_the_request_says_otherwise() -> None:
    update = {"type": "configuration_update", "reasoning": {"effort": "low"}}
    assert encoded(turn(update, message_item("user", "U")))["output_config"] == {"effort": "low"}
    sent = encoded(turn(update, message_item("user", "U"), reasoning={"effort": "high"}))
    assert sent["output_config"] == {"effort": "high"}


# --- the form of the answer -------------------------------------------------------------------------------------


def test_a_strict_schema_is_enforced_and_any_other_is_described() -> None:
    form = {"type": "json_schema", "name": "x", "schema": SCHEMA}
    strict = settings(text={"format": {**form, "strict": True}})
    assert strict == {"output_config": {"format": {"type": "json_schema", "schema": SCHEMA}}}
    for sent in (settings(text={"format": form}), settings(text={"format": {**form, "strict": False}})):
        assert sent.keys() == {"system"}
        assert '"city"' in sent["system"][0]["text"]


def test_json_is_requested_behind_the_instructions() -> None:
    sent = settings(instructions="I", text={"format": {"type": "json_object"}})
    assert sent["system"][0]["text"].startswith("I\n\nAnswer with one JSON object")


# --- tools ------------------------------------------------------------------------------------------------------


def tools(*given: Any, **request: Any) -> dict[str, Any]:
    sent = settings(tools=list(given), **request)
    return {name: sent[name] for name in ("tools", "tool_choice") if name in sent}


def test_functions_keep_their_schema_and_always_have_one() -> None:
    sent = tools(WEATHER, CLOCK)
    assert sent.keys() == {"tools"}
    assert without_marks(sent["tools"]) == [
        {"name": "get_weather", "description": "W", "input_schema": SCHEMA, "strict": True},
        {"name": "clock", "input_schema": {"type": "object", "properties": {}}},
    ]


def test_custom_tools_and_namespaces_are_functions() -> None:
    sent = {tool["name"]: tool for tool in tools(PATCH, CRM)["tools"]}
    assert sent["apply_patch"]["input_schema"]["required"] == ["input"]
    assert sent["crm__find"]["description"] == "Customers"


@pytest.mark.parametrize(
    ("sent", "choice"),
    [
        ({"tool_choice": "auto"}, {"type": "auto"}),
        ({"tool_choice": "required"}, {"type": "any"}),
        ({"tool_choice": "none", "parallel_tool_calls": False}, {"type": "none"}),
        ({"tool_choice": {"type": "function", "name": "clock"}}, {"type": "tool", "name": "clock"}),
        ({"tool_choice": {"type": "function", "name": "find"}}, {"type": "tool", "name": "crm__find"}),
        ({"parallel_tool_calls": False}, {"type": "auto", "disable_parallel_tool_use": True}),
        (
            {"tool_choice": "required", "parallel_tool_calls": False},
            {"type": "any", "disable_parallel_tool_use": True},
        ),
    ],
)
def test_choices_are_made_as_here(sent: dict[str, Any], choice: dict[str, Any]) -> None:
    assert tools(CLOCK, CRM, **sent)["tool_choice"] == choice


def test_without_tools_no_setting_of_tools_is_sent() -> None:
    assert tools(SEARCH, tool_choice="auto", parallel_tool_calls=False) == {}


def test_tools_an_upstream_cannot_run_are_left_out_and_named() -> None:
    request_turn = turn(message_item("user", "U"), tools=[SEARCH, CLOCK])
    assert messages.dropped(request_turn, row()) == ["web_search"]
    assert [tool["name"] for tool in encoded(request_turn)["tools"]] == ["clock"]
    with pytest.raises(InvalidRequest, match="web_search"):
        encoded(request_turn, hosted_tools="refuse")


def test_tools_that_were_called_are_known_when_they_are_no_longer_offered() -> None:
    items = [message_item("user", "U"), called("a"), answered("a"), called("b"), answered("b")]
    sent = encoded(turn(*items))
    assert without_marks(sent["tools"]) == [{"name": "get_weather", "input_schema": {"type": "object"}}]
    assert sent["tool_choice"] == {"type": "none"}
    assert [tool["name"] for tool in encoded(turn(*items, tools=[CLOCK]))["tools"]] == ["clock"]


# --- the prompt cache -------------------------------------------------------------------------------------------


def test_a_single_question_is_not_cached() -> None:
    assert b"cache_control" not in messages.encode(turn(message_item("user", "U"), instructions="I"), row(), "m")


def test_a_conversation_is_cached_up_to_its_last_two_turns() -> None:
    sent = encoded(
        turn(
            message_item("user", "U"),
            called("a"),
            answered("a"),
            called("b"),
            answered("b"),
            instructions="I",
            tools=[CLOCK],
        )
    )
    assert sent["tools"][-1]["cache_control"] == sent["system"][-1]["cache_control"] == MARK
    marked = [message["content"][-1].get("cache_control") for message in sent["messages"]]
    assert marked == [None, None, MARK, None, MARK]


def test_a_count_sends_only_what_takes_tokens() -> None:
    request_turn = turn(
        message_item("user", "U"), tools=[WEATHER], temperature=0.5, user="u", stream=True, max_output_tokens=64
    )
    counted = orjson.loads(messages.encode_count(request_turn, row(), "claude-x"))
    answered = encoded(request_turn)
    assert counted.keys() == {"model", "messages", "tools"} | ({"system"} & answered.keys())
    assert counted == {name: answered[name] for name in counted}
