"""However deep an upstream nests what it says, its answer ends: as an answer, or as one that has failed."""

from __future__ import annotations

import orjson
import pytest

from app.nesting import FROM_UPSTREAMS
from tests.depth import nested_text
from tests.every_format.conversations import WEATHER, calls_of
from tests.response_contract import check_error, check_stream
from tests.upstream import Answer, Script, respelled
from tests.upstream_formats import FormatCase

TOO_DEEP = [FROM_UPSTREAMS + 1, 251, 254, 300, 1020, 1100]


def deepened(levels: int, after: int = 0) -> Script:
    """An unknown member of this depth in the answer; in a stream, in the event behind the first `after`."""

    def change(body: bytes) -> bytes:
        events = body.split(b"\n\n") if b"data: {" in body else [body]
        opening, brace, rest = events[after].partition(b"{")
        events[after] = opening + brace + b'"unheard_of":%b,' % nested_text(levels) + rest
        return b"\n\n".join(events)

    return respelled(change)


@pytest.mark.parametrize("levels", TOO_DEEP)
def test_an_answer_that_is_too_deep_has_failed(format_case: FormatCase, levels: int) -> None:
    format_case.enqueue(deepened(levels))
    answer = format_case.post()
    assert answer.status_code == 502
    check_error(answer.json(), code="upstream_protocol_error")


@pytest.mark.parametrize("levels", TOO_DEEP)
@pytest.mark.parametrize("after", [0, 8])
def test_a_stream_that_is_too_deep_has_failed(format_case: FormatCase, levels: int, after: int) -> None:
    """Before the first word with a status line, later with a terminal event."""
    format_case.enqueue(deepened(levels, after))
    answer = format_case.stream()
    if not after:
        assert answer.status_code == 502
        check_error(answer.json(), code="upstream_protocol_error")
        return
    response = check_stream(answer.content, status="failed")[-1]["response"]
    assert response["error"]["code"] == "upstream_protocol_error"
    assert format_case.gateway.get(f"/responses/{response['id']}").json() == response


@pytest.mark.parametrize("streamed", [False, True])
@pytest.mark.parametrize("member", ["message", "code", "type", "param"])
@pytest.mark.parametrize("levels", TOO_DEEP)
def test_an_error_that_is_too_deep_is_one_without_words(
    format_case: FormatCase, member: str, levels: int, streamed: bool
) -> None:
    body = b'{"type":"error","error":{"%b":%b}}' % (member.encode(), nested_text(levels, "{"))
    format_case.enqueue(lambda exchange, answer: Answer(400, {"Content-Type": "application/json"}, [body]))
    answer = format_case.stream() if streamed else format_case.post()
    assert answer.status_code == 400, answer.text
    check_error(answer.json())


def test_the_deepest_answer_is_given(format_case: FormatCase) -> None:
    format_case.enqueue(deepened(FROM_UPSTREAMS - 1))
    assert format_case.create()["status"] == "completed"


@pytest.mark.parametrize("streamed", [False, True])
@pytest.mark.parametrize("levels", [FROM_UPSTREAMS - 20, 300, 1020, 1100])
def test_arguments_are_text_however_deep_they_are(format_case: FormatCase, streamed: bool, levels: int) -> None:
    arguments = b'{"city":%b}' % nested_text(levels)
    call = {"type": "function_call", "call_id": "call_1", "name": "get_weather", "arguments": arguments.decode()}
    output = {"type": "function_call_output", "call_id": "call_1", "output": "sunny"}
    response = format_case.ask(streamed, input=[call, output], tools=[WEATHER])
    assert response["status"] == "completed"
    assert not calls_of(response)
    assert b"[[[[" in orjson.dumps(format_case.sent_body)
