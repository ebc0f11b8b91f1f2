from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.contract.items import Item
from app.errors import (
    UpstreamBroken,
    UpstreamDenied,
    UpstreamError,
    UpstreamFailed,
    UpstreamLacksModel,
    UpstreamLimited,
    UpstreamRefused,
)
from app.formats import messages
from tests.formats.conversations import answered, called, events, framed, message_item, recording, turn
from tests.formats.messages.conversations import encoded, event, read
from tests.response_contract import check_stream

WEATHER = {"type": "function", "name": "get_weather", "parameters": {"type": "object", "properties": {}}}
TOOLS = [
    WEATHER,
    {"type": "custom", "name": "apply_patch"},
    {"type": "namespace", "name": "crm", "description": "d", "tools": [{"type": "function", "name": "find"}]},
]
TURN = turn(message_item("user", "?"), stream=True, tools=TOOLS, reasoning={"summary": "auto"})
START = event("message_start", message={"id": "msg_1", "model": "claude-x", "content": [], "usage": {}})
STOP = event("message_stop")


def end(reason: str = "end_turn", **more: Any) -> bytes:
    return event("message_delta", delta={"stop_reason": reason, **more}, usage={"output_tokens": 3}) + STOP


def begun(index: int, block: dict[str, Any]) -> bytes:
    return event("content_block_start", index=index, content_block=block)


def more(index: int, **delta: Any) -> bytes:
    return event("content_block_delta", index=index, delta=delta)


def stopped(index: int) -> bytes:
    return event("content_block_stop", index=index)


TEXT = begun(0, {"type": "text", "text": ""}) + more(0, type="text_delta", text="Half")

# --- streamed and whole -----------------------------------------------------------------------------------------

words = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
inputs = st.one_of(st.dictionaries(words, words, max_size=2), words.map(lambda value: {"input": value}))
blocks = st.one_of(
    st.builds(lambda value: {"type": "text", "text": value}, words),
    st.builds(lambda value, sig: {"type": "thinking", "thinking": value, "signature": sig}, words, words),
    st.builds(lambda value: {"type": "redacted_thinking", "data": value}, words),
    st.builds(
        lambda name, value: {"type": "tool_use", "name": name, "input": value},
        st.sampled_from(["get_weather", "apply_patch", "crm__find", "unheard_of"]),
        inputs,
    ),
    st.just({"type": "web_search_tool_result", "content": []}),
)


def in_pieces(whole: str, draw: st.DrawFn) -> list[str]:
    cuts = sorted(draw(st.lists(st.integers(0, len(whole)), max_size=3)))
    return [whole[start:end] for start, end in zip([0, *cuts], [*cuts, len(whole)], strict=True)]


@st.composite
def streamed(draw: st.DrawFn, index: int, block: dict[str, Any]) -> bytes:
    kind = block["type"]
    if kind == "text":
        grown = [more(index, type="text_delta", text=piece) for piece in in_pieces(block["text"], draw)]
        return begun(index, {**block, "text": ""}) + b"".join(grown) + stopped(index)
    if kind == "thinking":
        grown = [more(index, type="thinking_delta", thinking=piece) for piece in in_pieces(block["thinking"], draw)]
        grown.append(more(index, type="signature_delta", signature=block["signature"]))
        return begun(index, {**block, "thinking": "", "signature": ""}) + b"".join(grown) + stopped(index)
    if kind == "tool_use":
        written = orjson.dumps(block["input"]).decode() if block["input"] else ""
        grown = [more(index, type="input_json_delta", partial_json=piece) for piece in in_pieces(written, draw)]
        return begun(index, {**block, "input": {}}) + b"".join(grown) + stopped(index)
    return begun(index, block) + stopped(index)


@given(
    content=st.lists(blocks, max_size=5),
    data=st.data(),
    reason=st.sampled_from(["end_turn", "tool_use", "stop_sequence", "pause_turn", "max_tokens", "refusal"]),
)
def test_a_streamed_answer_is_the_whole_one(content: list[Item], data: st.DataObject, reason: str) -> None:
    content = [{**block, "id": f"toolu_{at}"} for at, block in enumerate(content)]
    whole = messages.decode(orjson.dumps({"id": "msg_1", "content": content, "stop_reason": reason}), TURN)
    body = b"".join(data.draw(streamed(index, block)) for index, block in enumerate(content))
    out, decoder = read([START + body + end(reason)], TURN)
    assert decoder.answer is not None
    assert decoder.answer.status == whole.status
    assert decoder.answer.incomplete_details == whole.incomplete_details
    assert decoder.answer.output == whole.output
    check_stream(framed(out, decoder, TURN))


def test_an_answer_can_be_sent_back_as_it_is() -> None:
    """The output of a stream becomes the same blocks again in the next request."""
    one = recording("messages", "thinking-then-tool")
    _, decoder = read([one.body], one.turn)
    assert decoder.answer is not None
    result = answered(decoder.answer.output[-1]["call_id"])
    sent = encoded(turn(message_item("user", "?"), *decoder.answer.output, result, tools=[WEATHER]))["messages"]
    assert [block["type"] for block in sent[1]["content"]] == ["thinking", "text", "tool_use"]
    assert sent[1]["content"][0]["thinking"] == "The user asks\nfor the weather."
    assert sent[1]["content"][2]["input"] == {"location": "Paris, FR"}


# --- members shown on request -----------------------------------------------------------------------------------


def test_the_signature_of_thinking_is_stored_and_shown_only_when_requested() -> None:
    one = recording("messages", "thinking-then-tool")
    for include, shown in (([], False), (["reasoning.encrypted_content"], True)):
        out, decoder = read([one.body], turn(message_item("user", "?"), include=include))
        assert decoder.answer is not None
        assert decoder.answer.output[0]["encrypted_content"].startswith("anthropic:")
        assert (b"encrypted_content" in out) is shown


def test_unsigned_thinking_is_sealed_by_the_gateway_when_requested() -> None:
    one = recording("messages", "deepseek-unsigned-thinking")
    _, decoder = read([one.body], turn(message_item("user", "?"), include=["reasoning.encrypted_content"]))
    assert decoder.answer is not None
    assert decoder.answer.output[0]["encrypted_content"] == "sealed:.mH"


# --- the head and the end of a stream ---------------------------------------------------------------------------


def test_the_start_of_a_message_is_accepted_and_starts_nothing() -> None:
    decoder = messages.decoder(turn(), 2)
    assert decoder.feed(event("ping")) == b""
    assert not decoder.accepted
    assert decoder.feed(START + begun(0, {"type": "text", "text": ""})) == b""
    assert decoder.accepted
    assert not decoder.started
    assert decoder.feed(more(0, type="text_delta", text="H"))
    assert decoder.started


@pytest.mark.parametrize("body", [b"", STOP, START, START + STOP, b"data: {", START + end()[:20]])
def test_an_end_before_any_output_lets_another_channel_try(body: bytes) -> None:
    with pytest.raises(UpstreamBroken):
        read([body], turn())


def test_an_empty_answer_is_an_answer() -> None:
    out, decoder = read([START + end()], turn())
    assert out == b""
    assert decoder.answer is not None
    assert (decoder.answer.status, decoder.answer.output) == ("completed", [])


def test_an_error_without_its_last_line_end_is_still_read() -> None:
    error = event("error", error={"type": "invalid_request_error", "message": "No."})
    with pytest.raises(UpstreamRefused, match="No"):
        read([START + error[:-2]], turn())


def test_usage_is_cumulative_and_absent_where_none_came() -> None:
    _, decoder = read([START + TEXT + end()], turn())
    assert decoder.answer is not None
    assert decoder.answer.usage is None
    start = event("message_start", message={"usage": {"input_tokens": 5, "output_tokens": 1}})
    last = {"input_tokens": 0, "output_tokens": 9, "cache_read_input_tokens": 2, "cache_creation_input_tokens": None}
    _, decoder = read([start + TEXT + event("message_delta", delta={"stop_reason": "end_turn"}, usage=last)], turn())
    assert decoder.answer is not None
    assert decoder.answer.usage is not None
    assert (decoder.answer.usage.input_tokens, decoder.answer.usage.output_tokens) == (7, 9)


@pytest.mark.parametrize(
    ("more", "counts"),
    [
        ({"cache_read_input_tokens": 80, "cache_creation_input_tokens": 9}, (109, 80, 9)),
        ({"cache_creation": {"ephemeral_5m_input_tokens": 4, "ephemeral_1h_input_tokens": 5}}, (29, 0, 9)),
        ({"cached_tokens": 15}, (20, 15, 0)),
        ({"prompt_cache_hit_tokens": 15}, (20, 15, 0)),
        ({"prompt_tokens_details": {"cached_tokens": 80}}, (100, 80, 0)),
    ],
)
def test_cached_tokens_are_part_of_the_input(more: dict[str, Any], counts: tuple[int, int, int]) -> None:
    last = {"input_tokens": 20, "output_tokens": 9, **more}
    _, decoder = read([START + TEXT + event("message_delta", delta={"stop_reason": "end_turn"}, usage=last)], turn())
    assert decoder.answer is not None
    assert (usage := decoder.answer.usage) is not None
    assert (usage.input_tokens, usage.cached_tokens, usage.cache_write_tokens) == counts


# --- failures ---------------------------------------------------------------------------------------------------


def failing(kind: str, message: str = "x") -> bytes:
    return event("error", error={"type": kind, "message": message})


FAILURES = [
    (failing("overloaded_error"), UpstreamFailed, "server_is_overloaded"),
    (failing("api_error"), UpstreamFailed, "upstream_error"),
    (failing("timeout_error"), UpstreamFailed, "upstream_error"),
    (failing("rate_limit_error"), UpstreamLimited, "rate_limit_exceeded"),
    (failing("authentication_error"), UpstreamDenied, "upstream_denied"),
    (failing("permission_error"), UpstreamDenied, "upstream_denied"),
    (failing("billing_error"), UpstreamLimited, "insufficient_quota"),
    (failing("invalid_request_error"), UpstreamRefused, "invalid_request_error"),
    (failing("invalid_request_error", "prompt is too long: 9 > 8"), UpstreamRefused, "context_length_exceeded"),
    (failing("not_found_error", "model: claude-9"), UpstreamLacksModel, "model_not_found"),
    (failing("unheard_of_error"), UpstreamFailed, "upstream_error"),
    (event("error"), UpstreamBroken, "upstream_protocol_error"),
    (b"data: {not json}\n\n", UpstreamBroken, "upstream_protocol_error"),
    (b'data: ["x"]\n\n', UpstreamBroken, "upstream_protocol_error"),
    (b'data: {"choices":[{"delta":{"content":"x"}}]}\n\n', UpstreamBroken, "upstream_protocol_error"),
    (event("message_start"), UpstreamBroken, "upstream_protocol_error"),
]


@pytest.mark.parametrize(("body", "kind", "code"), FAILURES)
def test_a_failure_before_the_first_output_is_an_error(body: bytes, kind: type[UpstreamError], code: str) -> None:
    with pytest.raises(kind):
        messages.decoder(turn(), 2).feed(START + body)


@pytest.mark.parametrize(("body", "kind", "code"), FAILURES)
def test_a_failure_after_it_is_a_failed_answer(body: bytes, kind: type[UpstreamError], code: str) -> None:
    out, decoder = read([START + TEXT + body + end()], turn())
    assert decoder.answer is not None
    assert decoder.answer.status == "failed"
    assert decoder.answer.error is not None
    assert decoder.answer.error["code"] == code
    assert decoder.partial()[-1]["status"] == "incomplete"
    check_stream(framed(out, decoder, turn()))


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b"{}", b'{"content":null}', b'{"type":"error","error":{}}'])
def test_a_body_that_is_no_message_is_an_error(body: bytes) -> None:
    with pytest.raises(UpstreamError):
        messages.decode(body, turn())


# --- calls ------------------------------------------------------------------------------------------------------


def test_an_input_that_came_whole_is_the_arguments() -> None:
    block = {"type": "tool_use", "id": "t", "name": "get_weather", "input": {"a": 1}}
    _, decoder = read([START + begun(0, block) + stopped(0) + end("tool_use")], TURN)
    assert decoder.answer is not None
    assert decoder.answer.output[0]["arguments"] == '{"a":1}'


@pytest.mark.parametrize("partial", ["", '{"a":'])
def test_only_the_last_call_can_have_been_cut_off(partial: str) -> None:
    block = {"type": "tool_use", "id": "t", "name": "get_weather", "input": {}}
    cut = begun(0, block) + more(0, type="input_json_delta", partial_json=partial) + stopped(0)
    _, decoder = read([START + cut + end("max_tokens")], TURN)
    assert decoder.answer is not None
    assert [item["status"] for item in decoder.answer.output] == ["incomplete"]
    _, decoder = read([START + cut + begun(1, {**block, "id": "u"}) + stopped(1) + end("max_tokens")], TURN)
    assert decoder.answer is not None
    assert [item["status"] for item in decoder.answer.output] == ["completed", "incomplete"]


def test_a_call_id_that_the_conversation_has_used_is_not_used_again() -> None:
    block = {"type": "tool_use", "id": "t", "name": "get_weather", "input": {}}
    before = turn(message_item("user", "?"), called("t"), answered("t"), tools=[WEATHER])
    out, decoder = read([START + begun(0, block) + stopped(0) + end("tool_use")], before)
    assert decoder.answer is not None
    assert decoder.answer.output[0]["call_id"] not in ("t", "")
    assert events(out)[0]["item"]["call_id"] == decoder.answer.output[0]["call_id"]
