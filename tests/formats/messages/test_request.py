from typing import Any

import orjson
import pytest

from app.errors import InvalidRequest
from app.formats import messages
from tests.formats.conversations import answered, called, row, said, turn
from tests.formats.messages.conversations import encoded, text

SCHEMA = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
WEATHER = {"type": "function", "name": "get_weather", "description": "W", "parameters": SCHEMA, "strict": True}
CLOCK = {"type": "function", "name": "clock"}
PATCH = {"type": "custom", "name": "apply_patch"}
CRM = {"type": "namespace", "name": "crm", "description": "Customers", "tools": [{**CLOCK, "name": "find"}]}
SEARCH = {"type": "web_search"}
MARK = {"type": "ephemeral"}


def body(keys: Any = None, **request: Any) -> dict[str, Any]:
    return encoded(turn(said("user", "U"), **request), **(keys or {}))


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
def test_what_is_the_default_or_beyond_the_range_is_left_to_the_model(warm: dict[str, Any]) -> None:
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
    asked = settings(reasoning={"effort": "low"}, temperature=0.2, top_k=5, top_p=0.97)
    assert asked.keys() == {"thinking", "output_config", "top_p"}
    assert "top_p" not in settings(reasoning={"effort": "low"}, top_p=0.5)


def test_a_model_that_has_to_call_does_not_think_first() -> None:
    asked = settings(reasoning={"effort": "low"}, tools=[CLOCK], tool_choice="required")
    assert "thinking" not in asked
    assert asked["output_config"] == {"effort": "low"}


def test_thinking_may_be_asked_for_in_the_words_of_this_api() -> None:
    budget = {"type": "enabled", "budget_tokens": 2000}
    assert settings(thinking=budget, temperature=0.1) == {"thinking": budget}


@pytest.mark.parametrize("odd", [{"reasoning": {"effort": []}}, {"text": {"format": "json"}}, {"text": {"format": []}}])
def test_a_configuration_that_means_nothing_changes_nothing(odd: dict[str, Any]) -> None:
    sent = encoded(turn({"type": "configuration_update", **odd}, said("user", "U")))
    assert sent.keys() == {"model", "max_tokens", "messages"}


def test_a_configuration_in_the_context_holds_until_the_request_says_otherwise() -> None:
    update = {"type": "configuration_update", "reasoning": {"effort": "low"}}
    assert encoded(turn(update, said("user", "U")))["output_config"] == {"effort": "low"}
    asked = encoded(turn(update, said("user", "U"), reasoning={"effort": "high"}))
    assert asked["output_config"] == {"effort": "high"}


# --- the form of the answer -------------------------------------------------------------------------------------


def test_a_strict_schema_is_enforced_and_any_other_is_asked_for() -> None:
    form = {"type": "json_schema", "name": "x", "schema": SCHEMA}
    strict = settings(text={"format": {**form, "strict": True}})
    assert strict == {"output_config": {"format": {"type": "json_schema", "schema": SCHEMA}}}
    for asked in (settings(text={"format": form}), settings(text={"format": {**form, "strict": False}})):
        assert asked.keys() == {"system"}
        assert '"city"' in asked["system"][0]["text"]


def test_json_is_asked_for_behind_the_instructions() -> None:
    asked = settings(instructions="I", text={"format": {"type": "json_object"}})
    assert asked["system"][0]["text"].startswith("I\n\nAnswer with one JSON object")


# --- tools ------------------------------------------------------------------------------------------------------


def tools(*given: Any, **request: Any) -> dict[str, Any]:
    asked = settings(tools=list(given), **request)
    return {name: asked[name] for name in ("tools", "tool_choice") if name in asked}


def test_functions_keep_their_schema_and_always_have_one() -> None:
    assert tools(WEATHER, CLOCK) == {
        "tools": [
            {"name": "get_weather", "description": "W", "input_schema": SCHEMA, "strict": True},
            {"name": "clock", "input_schema": {"type": "object", "properties": {}}},
        ]
    }


def test_custom_tools_and_namespaces_are_functions() -> None:
    told = {tool["name"]: tool for tool in tools(PATCH, CRM)["tools"]}
    assert told["apply_patch"]["input_schema"]["required"] == ["input"]
    assert told["crm__find"]["description"] == "Customers"


@pytest.mark.parametrize(
    ("asked", "choice"),
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
def test_choices_are_made_as_here(asked: dict[str, Any], choice: dict[str, Any]) -> None:
    assert tools(CLOCK, CRM, **asked)["tool_choice"] == choice


def test_without_tools_nothing_is_said_of_them() -> None:
    assert tools(SEARCH, tool_choice="auto", parallel_tool_calls=False) == {}


def test_tools_an_upstream_cannot_run_are_left_out_and_named() -> None:
    asked = turn(said("user", "U"), tools=[SEARCH, CLOCK])
    assert messages.dropped(asked, row()) == ["web_search"]
    assert [tool["name"] for tool in encoded(asked)["tools"]] == ["clock"]
    with pytest.raises(InvalidRequest, match="web_search"):
        encoded(asked, hosted_tools="refuse")


def test_tools_that_were_called_are_known_when_they_are_no_longer_offered() -> None:
    items = [said("user", "U"), called("a"), answered("a"), called("b"), answered("b")]
    sent = encoded(turn(*items))
    assert sent["tools"] == [{"name": "get_weather", "input_schema": {"type": "object"}}]
    assert sent["tool_choice"] == {"type": "none"}
    assert [tool["name"] for tool in encoded(turn(*items, tools=[CLOCK]))["tools"]] == ["clock"]


# --- the prompt cache -------------------------------------------------------------------------------------------


def test_a_single_question_is_not_kept() -> None:
    assert b"cache_control" not in messages.encode(turn(said("user", "U"), instructions="I"), row(), "m")


def test_a_conversation_is_kept_up_to_its_last_two_turns() -> None:
    asked = encoded(
        turn(said("user", "U"), called("a"), answered("a"), called("b"), answered("b"), instructions="I", tools=[CLOCK])
    )
    assert asked["system"][-1]["cache_control"] == MARK
    marked = [message["content"][-1].get("cache_control") for message in asked["messages"]]
    assert marked == [None, None, MARK, None, MARK]


def test_a_count_is_asked_with_what_takes_tokens_and_nothing_else() -> None:
    asked = turn(said("user", "U"), tools=[WEATHER], temperature=0.5, user="u", stream=True, max_output_tokens=64)
    counted = orjson.loads(messages.encode_count(asked, row(), "claude-x"))
    answered = encoded(asked)
    assert counted.keys() == {"model", "messages", "tools"} | ({"system"} & answered.keys())
    assert counted == {name: answered[name] for name in counted}
