"""LangChain's ChatOpenAI over the Responses API against the gateway: text, streams, tools, forms, on every format."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from langchain_core.messages import AIMessage, HumanMessage, SystemMessage, ToolMessage
from langchain_core.tools import tool
from langchain_openai import ChatOpenAI
from pydantic import BaseModel

from tests.gateway import Gateway
from tests.upstream_formats import FormatCase


class Place(BaseModel):
    """A place."""

    city: str
    inhabitants: int


@tool
def get_weather(city: str) -> str:
    """The weather in a city."""
    return f"sunny in {city}"


@pytest.fixture
def transport() -> Iterator[httpx.Client]:
    with httpx.Client(trust_env=False) as transport:
        yield transport


def chat(gateway: Gateway, model: str, transport: httpx.Client, **keys: Any) -> ChatOpenAI:
    return ChatOpenAI(
        model=model,
        base_url=gateway.base_url,
        api_key=gateway.token,  # type: ignore[arg-type]
        use_responses_api=True,
        max_retries=0,
        http_client=transport,
        **keys,
    )


def test_it_talks_and_counts(served: Gateway, model: str, transport: httpx.Client) -> None:
    answer = chat(served, model, transport).invoke([SystemMessage("Be brief."), HumanMessage("hello")])
    assert isinstance(answer, AIMessage)
    assert answer.text
    assert answer.usage_metadata is not None
    assert answer.usage_metadata["input_tokens"] > 0


def test_streamed_pieces_add_up(served: Gateway, model: str, transport: httpx.Client) -> None:
    pieces = list(chat(served, model, transport).stream("hello"))
    whole = chat(served, model, transport).invoke("hello")
    assert len(pieces) > 2
    assert "".join(piece.text for piece in pieces) == whole.text


@pytest.mark.parametrize("streamed", [False, True], ids=["json", "sse"])
def test_a_tool_is_called_and_its_result_read(format_case: FormatCase, transport: httpx.Client, streamed: bool) -> None:
    bound = chat(format_case.gateway, format_case.model, transport).bind_tools([get_weather])
    messages: list[Any] = [HumanMessage("How is the weather?")]
    for _ in range(2):
        if streamed:
            pieces = list(bound.stream(messages))
            answer: Any = pieces[0]
            for piece in pieces[1:]:
                answer = answer + piece
        else:
            answer = bound.invoke(messages)
        messages.append(answer)
        for call in answer.tool_calls:
            messages.append(get_weather.invoke(call))
    assert isinstance(messages[2], ToolMessage)
    assert "The tools said: sunny in Oslo." in messages[-1].text


def test_the_gateway_may_keep_the_conversation(format_case: FormatCase, transport: httpx.Client) -> None:
    bound = chat(format_case.gateway, format_case.model, transport, use_previous_response_id=True).bind_tools(
        [get_weather]
    )
    first = bound.invoke("How is the weather?")
    result = get_weather.invoke(first.tool_calls[0])
    second = bound.invoke([HumanMessage("How is the weather?"), first, result])
    assert "sunny in Oslo" in second.text
    assert [line[0] for line in format_case.sent_lines] == ["user", "call", "output"]


def test_a_form_is_filled_in(format_case: FormatCase, transport: httpx.Client) -> None:
    shaped = chat(format_case.gateway, format_case.model, transport).with_structured_output(Place, strict=True)
    assert shaped.invoke("Where?") == Place(city="Oslo", inhabitants=7)


def test_reasoning_comes_along_and_goes_back(format_case: FormatCase, transport: httpx.Client) -> None:
    keys: Any = {"reasoning": {"effort": "medium", "summary": "auto"}, "include": ["reasoning.encrypted_content"]}
    thinker = chat(format_case.gateway, format_case.model, transport, store=False, **keys).bind_tools([get_weather])
    first = thinker.invoke("Please think: how is the weather?")
    messages: list[Any] = [HumanMessage("Please think: how is the weather?"), first]
    second = thinker.invoke([*messages, get_weather.invoke(first.tool_calls[0])])
    assert "sunny in Oslo" in second.text
