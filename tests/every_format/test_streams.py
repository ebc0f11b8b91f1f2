"""However an upstream's stream is cut, spelt or broken, the client's keeps the contract."""

from __future__ import annotations

import json
from typing import Any

import orjson
import pytest

from tests.every_format.conversations import WEATHER, calls_of, essence, text_of, tool
from tests.response_contract import check_error, check_response, check_stream
from tests.upstream import (
    Script,
    byte_by_byte,
    commented,
    dropped,
    ended,
    failing,
    failing_at_once,
    framed,
    garbage,
    html,
    in_one_write,
    line_ends,
    refusal,
    respelled,
    split_randomly,
    too_long,
    unterminated,
)
from tests.upstream_formats import FormatCase

JSON = dict[str, Any]
#: Every format has sent a word or two by its eighth event, and none by its first.
SOME_TEXT = 8
NO_TEXT = 1
#: Answers that pay for one second try: the budget that keeps an outage from doubling the load.
THRIFT = 10
ODD = '😀 "quoted" \\ \u2028 \u0000 é 世界'


def _escaped(body: bytes) -> bytes:
    """Everything outside of ASCII as JSON escapes, astral characters as surrogate pairs."""
    return "".join(c if ord(c) < 128 else json.dumps(c)[1:-1] for c in body.decode()).encode()


#: Keep-alives as servers send them in place of comments.
KEEP_ALIVES = b'data: {}\n\ndata:\n\nevent: ping\ndata: {"type": "ping"}\n\ndata: {"type":"keepalive"}\n\n'

SPELLINGS: dict[str, tuple[Script, ...]] = {
    "random splits": (split_randomly(1, pieces=200),),
    "other splits": (split_randomly(2, pieces=60),),
    "byte by byte": (byte_by_byte(),),
    "one write": (in_one_write(),),
    "CRLF": (line_ends(b"\r\n"), split_randomly(3)),
    "CR": (line_ends(b"\r"), split_randomly(4)),
    "comments": (commented(),),
    "escapes": (respelled(_escaped), split_randomly(5, pieces=300)),
    "close-delimited": (framed("close"), byte_by_byte()),
    "spaceless": (respelled(lambda body: body.replace(b"data: ", b"data:")),),
    "keep-alives as data": (commented(KEEP_ALIVES), split_randomly(6)),
    "loose JSON": (respelled(lambda body: body.replace(b"data: {", b'data: {"obfuscation":NaN,')),),
    "without the last blank line": (respelled(lambda body: body.rstrip(b"\n")), split_randomly(7)),
}
REQUESTS: dict[str, JSON] = {
    "text": {"input": ODD},
    "calls": {"input": "explain both weathers", "tools": [tool(a=ODD, b="x" * 300)]},
}


@pytest.mark.parametrize("spelling", SPELLINGS)
@pytest.mark.parametrize("requested", REQUESTS)
def test_any_spelling_and_any_split_says_the_same(format_case: FormatCase, requested: str, spelling: str) -> None:
    plain = format_case.events(**REQUESTS[requested])[-1]["response"]
    format_case.enqueue(*SPELLINGS[spelling])
    assert essence(format_case.events(**REQUESTS[requested])[-1]["response"]) == essence(plain)


def test_all_characters_arrive(format_case: FormatCase) -> None:
    assert ODD in text_of(format_case.events(input=ODD)[-1]["response"])
    (call,) = calls_of(format_case.events(input="weather", tools=[tool(a=ODD)])[-1]["response"])
    assert orjson.loads(call["arguments"]) == {"a": ODD}


def test_huge_arguments_arrive_whole(format_case: FormatCase) -> None:
    huge = "0123456789" * 10_000
    for response in (
        format_case.create(input="weather", tools=[tool(a=huge)]),
        format_case.events(input="weather", tools=[tool(a=huge)])[-1]["response"],
    ):
        (call,) = calls_of(response)
        assert orjson.loads(call["arguments"]) == {"a": huge}


# --- broken in the middle ---------------------------------------------------------------------------------------

BROKEN: dict[str, tuple[Script, ...]] = {
    "an error": (failing(after=SOME_TEXT),),
    "a dropped connection": (dropped(after=SOME_TEXT),),
    "an end too soon": (ended(after=SOME_TEXT),),
    "no end": (unterminated(),),
    "garbage": (garbage(after=SOME_TEXT, data=b"data: {not json}\n\n"),),
    "half a character": (respelled(lambda body: body[: body.rindex("世".encode()) + 1]),),
}


@pytest.mark.parametrize("fault", BROKEN)
def test_a_broken_stream_ends_as_failed_and_keeps_its_output(format_case: FormatCase, fault: str) -> None:
    format_case.enqueue(*BROKEN[fault])
    answer = format_case.on("first").stream(input=f"hello {ODD}")
    failed = check_stream(answer.content, status="failed")[-1]["response"]
    stored = check_response(format_case.gateway.get(f"/responses/{failed['id']}").json(), status="failed")
    assert "You said" in text_of(stored)
    assert stored["error"] == failed["error"]
    check_error(format_case.post(previous_response_id=failed["id"]), 400, "previous_response_failed")


# --- broken before the first output -----------------------------------------------------------------------------

EARLY: dict[str, Script] = {
    "an error at once": failing_at_once(),
    "an error behind keep-alives": lambda exchange, answer: commented(KEEP_ALIVES)(
        exchange, failing_at_once()(exchange, answer)
    ),
    "an error after the beginning": failing(after=NO_TEXT),
    "an end after the beginning": ended(after=NO_TEXT),
    "a dropped connection": dropped(after=NO_TEXT),
    "a web page": html(),
    "an overload": refusal(529, "Overloaded."),
}


@pytest.fixture
def first(format_case: FormatCase) -> FormatCase:
    """A case with a channel of another format behind it, and with enough answers for a retry."""
    for _ in range(THRIFT):
        format_case.create()
    format_case.upstream.requests.clear()
    return format_case.on("first")


@pytest.mark.parametrize("fault", EARLY)
def test_a_channel_of_another_format_goes_on_with_the_same_stream(
    first: FormatCase, format_cases: dict[str, FormatCase], fault: str
) -> None:
    first.enqueue(EARLY[fault])
    response = first.events(input="weather", tools=[WEATHER])[-1]["response"]
    assert [call["name"] for call in calls_of(response)] == ["get_weather"]
    assert request_counts(format_cases) == [1, 1]
    assert len(first.upstream.bodies) == 1


@pytest.mark.parametrize("fault", ["a web page", "an overload"])
def test_a_channel_of_another_format_answers_instead(
    first: FormatCase, format_cases: dict[str, FormatCase], fault: str
) -> None:
    first.enqueue(EARLY[fault])
    response = first.create(input="weather", tools=[WEATHER])
    assert [call["name"] for call in calls_of(response)] == ["get_weather"]
    assert request_counts(format_cases) == [1, 1]


def request_counts(format_cases: dict[str, FormatCase]) -> list[int]:
    """The number of requests to each upstream that got any."""
    return [len(format_case.upstream.bodies) for format_case in format_cases.values() if format_case.upstream.bodies]


@pytest.mark.parametrize("script", [refusal(400, "Not this."), too_long()], ids=["refused", "too long"])
def test_a_refused_request_goes_to_no_other_channel(
    format_case: FormatCase, format_cases: dict[str, FormatCase], script: Script
) -> None:
    format_case.enqueue(script)
    check_error(format_case.on("first").post(), 400)
    assert request_counts(format_cases) == [1]


def test_when_all_fail_the_client_gets_the_error(first: FormatCase, format_cases: dict[str, FormatCase]) -> None:
    for format_case in format_cases.values():
        format_case.upstream.always(*format_case.dialect, failing(after=NO_TEXT))
    answer = first.stream()
    if answer.status_code == 200:
        check_stream(answer.content, status="failed")
    else:
        check_error(answer, 502)
    assert request_counts(format_cases) == [1, 1]
