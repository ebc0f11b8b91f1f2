"""The official SDK against the gateway: what its users do on the first day, on every format."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import openai
import pytest
from openai.types.responses import Response, ResponseFunctionToolCall
from pydantic import BaseModel

from tests.endpoints.vocabulary import WEATHER
from tests.gateway import Gateway
from tests.upstream import refusal
from tests.upstream_formats import FormatCase

UNKNOWN = "resp_" + "0" * 48
EXACT = "exact"


@pytest.fixture
def client(served: Gateway) -> Iterator[openai.OpenAI]:
    with served.client() as client:
        yield client


class Place(BaseModel):
    city: str
    inhabitants: int


# --- the main job -----------------------------------------------------------------------------------------------


def test_a_conversation_of_two_turns(client: openai.OpenAI, model: str) -> None:
    first = client.responses.create(model=model, input="My name is Ada.")
    second = client.responses.create(model=model, input="What is my name?", previous_response_id=first.id)

    assert first.output_text
    assert second.previous_response_id == first.id
    assert first.usage
    assert second.usage
    assert second.usage.input_tokens > first.usage.input_tokens
    assert second.output_text != client.responses.create(model=model, input="What is my name?").output_text


def test_a_conversation_of_two_streamed_turns(client: openai.OpenAI, model: str) -> None:
    def turn(text: str, parent: str | None) -> Response:
        *_, last = client.responses.create(model=model, input=text, previous_response_id=parent, stream=True)
        assert last.type == "response.completed"
        return last.response

    first = turn("My name is Ada.", None)
    second = turn("What is my name?", first.id)

    assert second.previous_response_id == first.id
    assert client.responses.retrieve(second.id) == second


def test_a_tool_loop(client: openai.OpenAI, model: str) -> None:
    tools: Any = [WEATHER]
    first = client.responses.create(model=model, input="Weather?", tools=tools, tool_choice="required")
    calls = [item for item in first.output if isinstance(item, ResponseFunctionToolCall)]
    outputs: Any = [{"type": "function_call_output", "call_id": call.call_id, "output": "sunny"} for call in calls]
    second = client.responses.create(model=model, input=outputs, previous_response_id=first.id, tools=tools)

    assert calls
    assert "sunny" in second.output_text


def test_a_stateless_tool_loop_with_the_sdks_own_objects(client: openai.OpenAI, model: str) -> None:
    tools: Any = [WEATHER]
    items: Any = [{"role": "user", "content": "Weather?"}]
    include: Any = ["reasoning.encrypted_content"]
    first = client.responses.create(
        model=model, input=items, tools=tools, tool_choice="required", store=False, include=include
    )
    items += first.output
    items += [
        {"type": "function_call_output", "call_id": item.call_id, "output": "sunny"}
        for item in first.output
        if item.type == "function_call"
    ]
    second = client.responses.create(model=model, input=items, tools=tools, store=False, include=include)

    assert "sunny" in second.output_text


def test_objects_dumped_to_json_are_accepted_back(client: openai.OpenAI, model: str) -> None:
    first = client.responses.create(model=model, input="hello", include=["message.output_text.logprobs"])
    dumped: Any = [item.model_dump() for item in first.output]

    assert client.responses.create(model=model, input=[*dumped, {"role": "user", "content": "go on"}]).output_text


# --- the ways to ask --------------------------------------------------------------------------------------------


def test_create_answers_what_the_strict_sdk_accepts(served: Gateway, model: str) -> None:
    with served.client(_strict_response_validation=True) as strict:
        response = strict.responses.create(model=model, input="hello")

        assert response.status == "completed"
        assert strict.responses.retrieve(response.id) == response


def test_streamed_deltas_add_up_to_the_text(client: openai.OpenAI, model: str) -> None:
    events = list(client.responses.create(model=model, input="hello", stream=True))

    text = "".join(event.delta for event in events if event.type == "response.output_text.delta")
    assert events[-1].type == "response.completed"
    assert text == events[-1].response.output_text
    assert [event.sequence_number for event in events] == list(range(len(events)))


def test_the_stream_helper_follows_a_text(client: openai.OpenAI, model: str) -> None:
    with client.responses.stream(model=model, input="hello") as stream:
        snapshots = [event.snapshot for event in stream if event.type == "response.output_text.delta"]
        final = stream.get_final_response()

    assert snapshots[-1] == final.output_text
    assert client.responses.retrieve(final.id).output_text == final.output_text


def test_the_stream_helper_follows_a_call(client: openai.OpenAI, model: str) -> None:
    tools: Any = [{**WEATHER, "strict": True}]
    with client.responses.stream(model=model, input="Weather?", tools=tools, tool_choice="required") as stream:
        final = stream.get_final_response()

    (call,) = [item for item in final.output if item.type == "function_call"]
    assert isinstance(call.parsed_arguments, dict)
    assert call.parsed_arguments.keys() == {"city"}


def test_the_stream_helper_parses_a_model(client: openai.OpenAI, model: str) -> None:
    with client.responses.stream(model=model, input="Where?", text_format=Place) as stream:
        final = stream.get_final_response()

    assert isinstance(final.output_parsed, Place)


def test_parse_gives_a_pydantic_model(client: openai.OpenAI, model: str) -> None:
    response = client.responses.parse(model=model, input="Where?", text_format=Place)

    assert isinstance(response.output_parsed, Place)
    assert response.text
    assert response.text.format
    assert response.text.format.type == "json_schema"


def test_explicit_nones_are_as_if_left_out(client: openai.OpenAI, model: str) -> None:
    response = client.responses.create(
        model=model,
        input="hello",
        instructions=None,
        metadata=None,
        previous_response_id=None,
        store=None,
        temperature=None,
        top_p=None,
        max_output_tokens=None,
        truncation=None,
        service_tier=None,
        conversation=None,
        include=None,
        background=None,
        stream=None,
        top_logprobs=None,
        parallel_tool_calls=None,
    )

    assert client.responses.retrieve(response.id).output_text == response.output_text


def test_extra_keys_pass(client: openai.OpenAI, format_cases: dict[str, FormatCase]) -> None:
    client.responses.create(model=EXACT, input="hello", extra_body={"client_metadata": {"a": "b"}})

    assert format_cases[EXACT].sent_body["client_metadata"] == {"a": "b"}


# --- afterwards -------------------------------------------------------------------------------------------------


def test_retrieve_gives_the_same_response(client: openai.OpenAI, model: str) -> None:
    response = client.responses.create(model=model, input="hello", metadata={"k": "v"})

    assert client.responses.retrieve(response.id) == response


def test_retrieve_includes_the_requested_parts(client: openai.OpenAI) -> None:
    response = client.responses.create(model=EXACT, input="hello")
    item = client.responses.retrieve(response.id, include=["reasoning.encrypted_content"]).output[0]

    assert item.type == "reasoning"
    assert item.encrypted_content


def test_delete_deletes(client: openai.OpenAI, model: str) -> None:
    response = client.responses.create(model=model, input="hello")
    client.responses.delete(response.id)

    for again in (client.responses.retrieve, client.responses.delete):
        with pytest.raises(openai.NotFoundError):
            again(response.id)


def test_models_are_listed_and_retrieved(client: openai.OpenAI, model: str) -> None:
    assert model in [listed.id for listed in client.models.list()]
    assert client.models.retrieve(model).id == model


def test_the_request_id_is_at_hand(client: openai.OpenAI, model: str) -> None:
    raw = client.responses.with_raw_response.create(model=model, input="hello")
    plain = client.responses.create(model=model, input="hello")

    assert raw.request_id == raw.headers["x-request-id"]
    assert str(plain._request_id).startswith("req_")
    assert raw.parse().output_text


# --- errors -----------------------------------------------------------------------------------------------------


def test_a_wrong_key_is_an_authentication_error(served: Gateway) -> None:
    with served.client(token="sk-wrong") as stranger, pytest.raises(openai.AuthenticationError) as caught:
        stranger.responses.create(model="demo", input="hello")

    assert caught.value.code == "invalid_api_key"


@pytest.mark.parametrize(
    ("parameters", "code", "param"),
    [
        ({"model": "nobody"}, "model_not_found", "model"),
        ({"temperature": 3}, "decimal_above_max_value", "temperature"),
        ({"max_output_tokens": "10"}, "invalid_type", "max_output_tokens"),
        ({"previous_response_id": UNKNOWN}, "previous_response_not_found", "previous_response_id"),
        ({"model": openai.omit}, "missing_required_parameter", "model"),
    ],
    ids=["model", "range", "type", "parent", "missing"],
)
@pytest.mark.parametrize("stream", [False, True], ids=["json", "stream"])
def test_a_bad_request_says_what_was_wrong(
    client: openai.OpenAI, parameters: Any, code: str, param: str, stream: bool
) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        client.responses.create(**{"model": "demo", "input": "hello", "stream": stream, **parameters})

    assert (caught.value.code, caught.value.param, caught.value.type) == (code, param, "invalid_request_error")
    assert str(caught.value.request_id).startswith("req_")


def test_the_upstreams_refusal_is_a_bad_request_too(client: openai.OpenAI, format_cases: dict[str, FormatCase]) -> None:
    format_cases[EXACT].enqueue(
        refusal(400, "Your input exceeds the context window.", "context_length_exceeded", "input")
    )

    with pytest.raises(openai.BadRequestError, match="exceeds the context window") as caught:
        client.responses.create(model=EXACT, input="hello")
    assert caught.value.code == "context_length_exceeded"


def test_cancelling_a_synchronous_response_is_a_bad_request(client: openai.OpenAI) -> None:
    response = client.responses.create(model="demo", input="hello")

    with pytest.raises(openai.BadRequestError, match="Cannot cancel a synchronous response"):
        client.responses.cancel(response.id)
    with pytest.raises(openai.NotFoundError):
        client.responses.cancel(UNKNOWN)
