from typing import Any

import pytest

from app.errors import InvalidRequest
from tests.formats.chat_completions.conversations import encoded
from tests.formats.conversations import message_item, turn


def body(**request: Any) -> dict[str, Any]:
    return encoded(turn(message_item("user", "U"), **request))


def test_a_plain_request_is_a_model_and_messages() -> None:
    assert body(store=True, metadata={"a": "b"}, truncation="auto", top_logprobs=3, unheard_of=1) == {
        "model": "up",
        "messages": [{"role": "user", "content": "U"}],
    }


def test_a_stream_is_requested_with_its_usage() -> None:
    sent = body(stream=True)
    assert sent["stream"] is True
    assert sent["stream_options"] == {"include_usage": True}


def test_settings_go_under_their_names_in_a_chat() -> None:
    schema = {"type": "object", "properties": {}}
    sent = body(
        max_output_tokens=64,
        temperature=0.5,
        top_k=20,
        stop=["END"],
        seed=7,
        reasoning={"effort": "low", "summary": "auto"},
        text={"format": {"type": "json_schema", "name": "x", "schema": schema, "strict": True}, "verbosity": "low"},
        include=["message.output_text.logprobs"],
        top_logprobs=3,
    )
    assert {name: value for name, value in sent.items() if name not in ("model", "messages")} == {
        "max_tokens": 64,
        "temperature": 0.5,
        "top_k": 20,
        "stop": ["END"],
        "seed": 7,
        "reasoning_effort": "low",
        "response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": schema, "strict": True}},
        "verbosity": "low",
        "logprobs": True,
        "top_logprobs": 3,
    }


def test_what_makes_caches_hit_is_sent_as_the_client_sent_it() -> None:
    cache = {"prompt_cache_key": "thread-1", "prompt_cache_retention": "24h", "service_tier": "flex"}
    sent = body(**cache)
    assert {name: value for name, value in sent.items() if name in cache} == cache


def test_json_without_a_schema_and_plain_text() -> None:
    assert body(text={"format": {"type": "json_object"}})["response_format"] == {"type": "json_object"}
    assert "response_format" not in body(text={"format": {"type": "text"}})


def test_a_stored_prompt_is_refused_by_its_name() -> None:
    with pytest.raises(InvalidRequest) as refusal:
        body(prompt={"id": "pmpt_1"})
    assert refusal.value.param == "prompt"


def test_a_configuration_in_the_context_holds_until_the_request_says_otherwise() -> None:
    update = {
        "type": "configuration_update",
        "reasoning": {"effort": "low"},
        "text": {"format": {"type": "json_object"}},
    }
    assert encoded(turn(update, message_item("user", "U")))["reasoning_effort"] == "low"
    sent = encoded(turn(update, message_item("user", "U"), reasoning={"effort": "high"}))
    assert (sent["reasoning_effort"], sent["response_format"]) == ("high", {"type": "json_object"})


def test_the_rows_limit_holds_where_the_client_gives_none() -> None:
    request_turn = turn(message_item("user", "U"))
    assert encoded(request_turn, max_output_tokens=500)["max_tokens"] == 500
    assert encoded(turn(message_item("user", "U"), max_output_tokens=64), max_output_tokens=500)["max_tokens"] == 64
