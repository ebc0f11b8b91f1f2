from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.contract.turn import Turn
from app.errors import UpstreamBroken, UpstreamError, UpstreamFailed, UpstreamLimited, UpstreamRefused
from app.formats import chat_completions
from tests.formats.chat_completions.conversations import read
from tests.formats.conversations import called, events, framed, link, message_item, recording, turn, without_ids
from tests.response_contract import check_stream

TOOL = {"type": "function", "name": "get_weather", "parameters": {"type": "object", "properties": {}}}


def chunk(delta: dict[str, Any] | None = None, finish: str | None = None, **more: Any) -> bytes:
    choices = [] if delta is None else [{"index": 0, "delta": delta, "finish_reason": finish}]
    return b"data: " + orjson.dumps({"id": "chatcmpl-1", "model": "up", "choices": choices, **more}) + b"\n\n"


def call(index: int | None, call_id: str = "", name: str = "", arguments: Any = "") -> dict[str, Any]:
    at = {} if index is None else {"index": index}
    return {"tool_calls": [{**at, "id": call_id, "function": {"name": name, "arguments": arguments}}]}


ROLE = chunk({"role": "assistant", "content": ""})
TEXT = chunk({"content": "Half"})
DONE = b"data: [DONE]\n\n"


# --- streamed and whole -----------------------------------------------------------------------------------------

words = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
arguments = st.one_of(
    st.dictionaries(words, words, max_size=2).map(lambda value: orjson.dumps(value).decode()),
    words,
    words.map(lambda value: orjson.dumps({"input": value}).decode()),
)
calls = st.tuples(st.sampled_from(["get_weather", "apply_patch", "crm__find", "unheard_of"]), arguments)


@st.composite
def whole_messages(draw: st.DrawFn) -> dict[str, Any]:
    message: dict[str, Any] = {"role": "assistant", "content": draw(st.one_of(st.none(), words))}
    for name in ("reasoning_content", "refusal"):
        message[name] = draw(st.one_of(st.none(), words))
    message["tool_calls"] = [
        {"id": draw(st.sampled_from([f"call_{number}", ""])), "function": {"name": name, "arguments": text}}
        for number, (name, text) in enumerate(draw(st.lists(calls, max_size=3)))
    ]
    return message


def in_pieces(text: str | None, draw: st.DrawFn) -> list[str]:
    text = text or ""
    cuts = sorted(draw(st.lists(st.integers(0, len(text)), max_size=3)))
    return [text[start:end] for start, end in zip([0, *cuts], [*cuts, len(text)], strict=True)]


@st.composite
def deltas_of(draw: st.DrawFn, message: dict[str, Any]) -> list[dict[str, Any]]:
    deltas: list[dict[str, Any]] = [{"role": "assistant", "content": draw(st.sampled_from([None, ""]))}]
    for name in ("reasoning_content", "content", "refusal"):
        deltas += [{name: piece} for piece in in_pieces(message[name], draw)]
    for index, one in enumerate(message["tool_calls"]):
        deltas.append(call(index, one["id"], one["function"]["name"]))
        deltas += [call(index, arguments=piece) for piece in in_pieces(one["function"]["arguments"], draw)]
    return deltas


TURN = turn(
    message_item("user", "?"),
    stream=True,
    tools=[
        TOOL,
        {"type": "custom", "name": "apply_patch"},
        {"type": "namespace", "name": "crm", "description": "d", "tools": [{"type": "function", "name": "find"}]},
    ],
    reasoning={"summary": "auto"},
)


@given(message=whole_messages(), data=st.data(), finish=st.sampled_from(["stop", "length", "content_filter"]))
def test_a_streamed_answer_is_the_whole_one(message: dict[str, Any], data: st.DataObject, finish: str) -> None:
    choice = {"index": 0, "message": message, "finish_reason": finish}
    whole = chat_completions.decode(orjson.dumps({"id": "c", "choices": [choice]}), TURN)
    body = b"".join(chunk(delta) for delta in data.draw(deltas_of(message)))
    out, decoder = read([body + chunk({}, finish) + DONE], TURN)
    assert decoder.answer is not None
    assert decoder.answer.status == whole.status
    assert decoder.answer.incomplete_details == whole.incomplete_details
    assert decoder.answer.output == whole.output
    check_stream(framed(out, decoder, TURN))


@given(message=whole_messages(), data=st.data())
def test_interleaved_calls_come_out_one_after_the_other(message: dict[str, Any], data: st.DataObject) -> None:
    made = [[call(at, f"c{at}", one["function"]["name"])] for at, one in enumerate(message["tool_calls"])]
    for at, one in enumerate(message["tool_calls"]):
        made[at] += [call(at, arguments=piece) for piece in (one["function"]["arguments"], " ")]
    order = data.draw(st.permutations([at for at, deltas in enumerate(made) for _ in deltas]))
    body = b"".join(chunk(made[at].pop(0)) for at in order)
    out, decoder = read([ROLE + body + chunk({}, "tool_calls") + DONE], TURN)
    assert decoder.answer is not None
    assert sorted(item["call_id"] for item in decoder.answer.output) == [f"c{at}" for at in range(len(made))]
    check_stream(framed(out, decoder, TURN))


# --- the head and the end of a stream ---------------------------------------------------------------------------


def test_a_chunk_with_a_role_is_accepted_and_starts_nothing() -> None:
    decoder = chat_completions.decoder(turn(), 2)
    assert decoder.feed(ROLE) == b""
    assert decoder.accepted
    assert not decoder.started
    assert decoder.feed(TEXT)
    assert decoder.started


def test_a_comment_is_not_accepted_as_a_chunk() -> None:
    decoder = chat_completions.decoder(turn(), 2)
    decoder.feed(b": keep-alive\n\n")
    assert not decoder.accepted


def test_items_of_ours_before_the_answer_shift_its_places() -> None:
    request_turn = turn()
    shifted = Turn(**{name: getattr(request_turn, name) for name in Turn.__slots__} | {"leading_items": ({}, {})})
    out, decoder = read([TEXT + chunk({}, "stop") + DONE], shifted, sequence=6)
    assert {event["output_index"] for event in events(out)} == {2}
    assert [event["sequence_number"] for event in events(out)] == list(range(6, decoder.sequence))


@pytest.mark.parametrize("body", [b"", DONE, ROLE + DONE, ROLE, b"<html>", b"data: {"])
def test_an_end_before_any_output_lets_another_channel_try(body: bytes) -> None:
    with pytest.raises(UpstreamBroken):
        read([body], turn())


def test_neither_patience_nor_a_long_first_piece_is_nonsense() -> None:
    body = b": keep-alive\n\n" * 10_000 + b"".join([ROLE, *[TEXT] * 1000, chunk({}, "stop"), DONE])
    for pieces in ([body], [body[: 1 << 17], body[1 << 17 :]]):
        _, decoder = read(pieces, turn())
        assert decoder.answer is not None
        assert decoder.answer.status == "completed"


@pytest.mark.parametrize("tail", [b"", DONE, b"data: [DONE]", b"data: [DONE]\n", chunk() + DONE])
def test_a_reason_to_finish_is_an_end_with_or_without_done(tail: bytes) -> None:
    _, decoder = read([TEXT + chunk({}, "stop"), tail], turn())
    assert decoder.answer is not None
    assert decoder.answer.status == "completed"


def test_done_without_a_reason_is_an_end() -> None:
    out, decoder = read([TEXT + DONE], turn())
    assert decoder.answer is not None
    assert decoder.answer.status == "completed"
    check_stream(framed(out, decoder, turn()))


def test_an_empty_answer_is_an_answer() -> None:
    out, decoder = read([ROLE + chunk({}, "stop") + DONE], turn())
    assert out == b""
    assert decoder.answer is not None
    assert (decoder.answer.status, decoder.answer.output) == ("completed", [])


def test_nothing_after_the_end_is_read() -> None:
    _, decoder = read([TEXT + chunk({"content": "!"}, "stop") + DONE + chunk({"content": "more"})], turn())
    assert decoder.answer is not None
    assert decoder.answer.output[0]["content"][0]["text"] == "Half!"


def test_usage_may_come_with_the_choice_or_without_choices() -> None:
    counted = {"prompt_tokens": 5, "completion_tokens": 2}
    beside = b"data: " + orjson.dumps({"usage": counted}) + b"\n\n"
    inside = b"data: " + orjson.dumps({"choices": [{"delta": {}, "finish_reason": "stop", "usage": counted}]}) + b"\n\n"
    for body in (TEXT + chunk({}, "stop") + beside, TEXT + inside):
        _, decoder = read([body + DONE], turn())
        assert decoder.answer is not None
        assert decoder.answer.usage is not None
        assert decoder.answer.usage.total_tokens == 7


COUNTED = {"prompt_tokens": 100, "completion_tokens": 7, "total_tokens": 107}
#: What servers say of their caches: the members of a usage object, and the tokens read and written.
CACHES: dict[str, tuple[dict[str, Any], int, int]] = {
    "openai": ({"prompt_tokens_details": {"cached_tokens": 80, "cache_write_tokens": 9}}, 80, 9),
    "kimi": ({"cached_tokens": 80}, 80, 0),
    "deepseek": ({"prompt_cache_hit_tokens": 80, "prompt_cache_miss_tokens": 20}, 80, 0),
    "claude": ({"cache_read_input_tokens": 80, "cache_creation_input_tokens": 9}, 80, 9),
    "claude, both names": (
        {"prompt_tokens_details": {"cached_tokens": 0, "cache_creation_tokens": 9}, "cache_read_input_tokens": 80},
        80,
        9,
    ),
    "qwen": ({"prompt_tokens_details": {"cached_tokens": 80, "cache_creation_input_tokens": 9}}, 80, 9),
    "qwen, by lifetime": (
        {"prompt_tokens_details": {"cached_tokens": 80, "cache_creation": {"ephemeral_5m_input_tokens": 9}}},
        80,
        9,
    ),
    "gemini": ({"cachedContentTokenCount": 80}, 80, 0),
    "bedrock": ({"cacheReadInputTokens": 80, "cacheWriteInputTokens": 9}, 80, 9),
    "zeros under other names": ({"input_tokens": 0, "output_tokens": 0, "prompt_cache_hit_tokens": 80}, 80, 0),
    "bedrock, its metrics": ({"cacheReadInputTokenCount": 80, "cacheWriteInputTokenCount": 9}, 80, 9),
    "vercel": ({"cachedInputTokens": 80}, 80, 0),
    "in quotes": ({"cached_tokens": "80"}, 80, 0),
    "nonsense": ({"cached_tokens": "eighty", "prompt_tokens_details": None, "cache_creation": [9]}, 0, 0),
}


def whole_usage(usage: dict[str, Any], at: str) -> Any:
    choice = {"index": 0, "message": {"role": "assistant", "content": "Half"}, "finish_reason": "stop"}
    body = {"choices": [{**choice, "usage": usage}]} if at == "choice" else {"choices": [choice], "usage": usage}
    return chat_completions.decode(orjson.dumps(body), turn()).usage


def streamed_usage(usage: dict[str, Any], at: str) -> Any:
    choice = {"index": 0, "delta": {}, "finish_reason": "stop", "usage": usage}
    if at == "choice":
        last = b"data: " + orjson.dumps({"choices": [choice]}) + b"\n\n"
    else:
        last = chunk({}, "stop") + chunk(None, usage=usage)
    _, decoder = read([TEXT + last + DONE], turn())
    assert decoder.answer is not None
    return decoder.answer.usage


@pytest.mark.parametrize("server", CACHES)
@pytest.mark.parametrize("at", ["choice", "chunk"])
@pytest.mark.parametrize("counted", [whole_usage, streamed_usage])
def test_cached_tokens_are_read_under_every_name(server: str, at: str, counted: Any) -> None:
    more, read_tokens, written = CACHES[server]
    usage = counted({**COUNTED, **more}, at)
    assert (usage.input_tokens, usage.output_tokens) == (100, 7)
    assert (usage.cached_tokens, usage.cache_write_tokens) == (read_tokens, written)


@pytest.mark.parametrize("total", [{"total_tokens": 207}, {}])
def test_cached_tokens_beside_the_input_are_added_to_it(total: dict[str, int]) -> None:
    beside = {"prompt_tokens": 20, "completion_tokens": 7, "cache_read_input_tokens": 150}
    alike = {"prompt_tokens": 90, "completion_tokens": 7, "cache_read_input_tokens": 80, "total_tokens": 177}
    assert whole_usage({**beside, "cache_creation_input_tokens": 30, **total}, "chunk").input_tokens == 200
    assert whole_usage(alike, "chunk").input_tokens == 170


def test_the_counts_of_gemini_itself_are_read() -> None:
    counts = {"promptTokenCount": 100, "candidatesTokenCount": 5, "thoughtsTokenCount": 2}
    counts |= {"cachedContentTokenCount": 80}
    body = {"choices": [{"message": {"content": "Half"}, "finish_reason": "stop"}], "usageMetadata": counts}
    usage = chat_completions.decode(orjson.dumps(body), turn()).usage
    assert usage is not None
    assert (usage.input_tokens, usage.cached_tokens) == (100, 80)
    assert (usage.output_tokens, usage.reasoning_tokens) == (7, 2)


@pytest.mark.parametrize("more", [{"total_tokens": 127}, {"total_tokens": 107}, {}])
def test_thoughts_beside_the_answer_are_added_to_it(more: dict[str, int]) -> None:
    usage = whole_usage({**COUNTED, "completion_tokens_details": {"reasoning_tokens": 20}, **more}, "chunk")
    assert (usage.input_tokens, usage.output_tokens, usage.reasoning_tokens) == (100, 27, 20)


def test_groq_counts_in_a_member_of_its_own() -> None:
    last = chunk({}, "stop", x_groq={"id": "req_1", "usage": {**COUNTED, "cached_tokens": 80}})
    _, decoder = read([TEXT + last + DONE], turn())
    assert decoder.answer is not None
    assert (usage := decoder.answer.usage) is not None
    assert (usage.input_tokens, usage.cached_tokens) == (100, 80)


def test_llama_cpp_counts_its_cache_in_its_timings() -> None:
    choice = {"index": 0, "message": {"role": "assistant", "content": "Half"}, "finish_reason": "stop"}
    body = {"choices": [choice], "usage": COUNTED, "timings": {"cache_n": 80, "prompt_n": 20, "predicted_n": 7}}
    usage = chat_completions.decode(orjson.dumps(body), turn()).usage
    assert usage is not None
    assert (usage.input_tokens, usage.cached_tokens, usage.reports_cache) == (100, 80, True)


def test_a_later_count_does_not_forget_cached_tokens() -> None:
    inside = {"index": 0, "delta": {}, "finish_reason": "stop", "usage": {**COUNTED, "cached_tokens": 80}}
    first = b"data: " + orjson.dumps({"choices": [inside]}) + b"\n\n"
    _, decoder = read([TEXT + first + chunk(None, usage={**COUNTED, "completion_tokens": 8}) + DONE], turn())
    assert decoder.answer is not None
    assert decoder.answer.usage is not None
    assert (decoder.answer.usage.cached_tokens, decoder.answer.usage.output_tokens) == (80, 8)


def test_missing_usage_is_left_to_be_estimated() -> None:
    _, decoder = read([TEXT + chunk({}, "stop", usage={"prompt_tokens": None}) + DONE], turn())
    assert decoder.answer is not None
    assert decoder.answer.usage is None


# --- failures ---------------------------------------------------------------------------------------------------


def line(value: object) -> bytes:
    return b"data: " + orjson.dumps(value) + b"\n\n"


FAILURES = [
    (line({"error": {"message": "x", "type": "InternalServerError", "code": 500}}), UpstreamFailed),
    (line({"error": {"message": "x", "type": "BadRequestError", "code": 400}}), UpstreamRefused),
    (line({"error": {"message": "x", "code": "429"}}), UpstreamLimited),
    (line({"error": {"message": "x", "code": "rate_limit_exceeded"}}), UpstreamLimited),
    (line({"error": {"message": "x", "type": "invalid_request_error"}}), UpstreamRefused),
    (line({"error": {"message": "This model's maximum context length is 8192 tokens."}}), UpstreamRefused),
    (line({"object": "error", "message": "x", "type": "BadRequestError", "code": 400}), UpstreamRefused),
    (line({"error": "overloaded"}), UpstreamFailed),
    (line({"code": "InternalError.Timeout", "message": "x", "request_id": "1"}), UpstreamFailed),
    (b"event: error\n" + line({"message": "x"}), UpstreamFailed),
    (b'error: {"code": 500, "message": "x", "type": "server_error"}\n\n', UpstreamFailed),
    (b'error: {"code": 400, "message": "x", "type": "exceed_context_size_error"}\n\n', UpstreamRefused),
    (b"data: {not json}\n\n", UpstreamBroken),
    (b'data: ["x"]\n\n', UpstreamBroken),
    (b'data: {"output":[{"text":"x"}]}\n\n', UpstreamBroken),
    (b"data: \xff\xfe\n\n", UpstreamBroken),
    (chunk({}, "insufficient_system_resource"), UpstreamFailed),
    (chunk(call(0, "c", "", "{}")) + chunk({}, "stop"), UpstreamBroken),
]


@pytest.mark.parametrize(("body", "kind"), FAILURES)
def test_a_failure_before_the_first_output_is_an_error(body: bytes, kind: type[UpstreamError]) -> None:
    with pytest.raises(kind):
        chat_completions.decoder(turn(), 2).feed(ROLE + body + DONE)


@pytest.mark.parametrize(("body", "kind"), FAILURES)
def test_a_failure_after_it_is_a_failed_answer(body: bytes, kind: type[UpstreamError]) -> None:
    out, decoder = read([ROLE + TEXT + body + DONE], turn())
    assert decoder.answer is not None
    assert decoder.answer.status == "failed"
    assert decoder.partial()[-1]["status"] == "incomplete"
    check_stream(framed(out, decoder, turn()))


def test_an_error_without_its_last_line_end_is_still_read() -> None:
    decoder = chat_completions.decoder(turn(), 2)
    decoder.feed(ROLE + b'data: {"error":{"message":"No.","code":400}}')
    with pytest.raises(UpstreamRefused, match="No"):
        decoder.finish()


def test_an_event_without_an_end_breaks_the_stream() -> None:
    decoder = chat_completions.decoder(turn(), 2)
    decoder.feed(TEXT)
    decoder.feed(b"data: " + b"x" * (17 << 20))
    assert decoder.answer is not None
    assert decoder.answer.status == "failed"


@pytest.mark.parametrize(
    "body",
    [
        *[b"", b"{", b"[]", b"{}", b'{"choices":[]}', b'{"choices":null}', b'{"choices":[{"index":0}]}'],
        b'{"choices":[{"index":0,"message":{"content":"x"},"finish_reason":"error"}]}',
        b'{"error":{"message":"x"}}',
    ],
)
def test_a_body_that_is_no_completion_is_an_error(body: bytes) -> None:
    with pytest.raises(UpstreamError):
        chat_completions.decode(body, turn())


# --- calls ------------------------------------------------------------------------------------------------------


def only_calls(*deltas: dict[str, Any], **request: Any) -> list[dict[str, Any]]:
    request_turn = turn(message_item("user", "?"), **{"tools": [TOOL], **request})
    out, decoder = read([b"".join(map(chunk, deltas)) + chunk({}, "tool_calls") + DONE], request_turn)
    assert decoder.answer is not None
    check_stream(framed(out, decoder, request_turn))
    return list(decoder.answer.output)


def test_a_call_without_arguments_is_made_with_an_empty_object() -> None:
    assert [item["arguments"] for item in only_calls(call(0, "c", "get_weather"))] == ["{}"]


def test_arguments_as_an_object_are_written_down() -> None:
    assert only_calls(call(0, "c", "get_weather", {"a": 1}))[0]["arguments"] == '{"a":1}'


def test_a_name_repeated_with_every_piece_is_one_name() -> None:
    made = only_calls(call(0, "c", "get_weather", '{"a"'), call(0, "c", "get_weather", ":1}"))
    assert without_ids(made) == [
        {"type": "function_call", "name": "get_weather", "arguments": '{"a":1}', "status": "completed"}
    ]


def test_a_function_outside_the_tools_is_called_as_the_model_called_it() -> None:
    assert only_calls(call(0, "c", "dance", "{}"))[0]["name"] == "dance"


def test_a_member_of_a_namespace_is_known_without_it() -> None:
    tools = [{"type": "namespace", "name": "crm", "description": "d", "tools": [{"type": "function", "name": "find"}]}]
    assert only_calls(call(0, "c", "find", "{}"), tools=tools)[0]["namespace"] == "crm"


def test_the_old_single_function_call_is_a_call() -> None:
    deltas = ({"function_call": {"name": "get_weather"}}, {"function_call": {"arguments": "{}"}})
    assert [item["name"] for item in only_calls(*deltas)] == ["get_weather"]


def test_text_in_the_midst_of_a_call_comes_after_it() -> None:
    made = only_calls(call(0, "c", "get_weather", '{"a"'), {"content": "!"}, call(0, arguments=":1}"))
    assert [item["type"] for item in made] == ["function_call", "message"]


def test_a_call_that_goes_on_after_its_end_breaks_the_stream() -> None:
    body = chunk(call(0, "c", "get_weather", "{}")) + TEXT + chunk(call(0, arguments='{"a":1}'))
    _, decoder = read([body], turn())
    assert decoder.answer is not None
    assert decoder.answer.status == "failed"


def test_a_call_id_that_the_conversation_has_used_is_not_used_again() -> None:
    before = turn(message_item("user", "?"), chain=type(turn().chain)((link(called("call_0")),)), tools=[TOOL])
    _, decoder = read([chunk(call(0, "call_0", "get_weather", "{}")) + chunk({}, "tool_calls") + DONE], before)
    assert decoder.answer is not None
    assert decoder.answer.output[0]["call_id"] not in ("call_0", "")


def test_long_call_ids_are_shortened_the_same_way_everywhere() -> None:
    out, decoder = read([recording("chat_completions", "openai-custom-and-namespace").body], turn())
    assert decoder.answer is not None
    call_id = decoder.answer.output[1]["call_id"]
    assert len(call_id) <= 64
    assert out.count(call_id.encode()) == 2
    assert b"n" * 80 not in out


# --- members shown on request -----------------------------------------------------------------------------------


def test_logprobs_are_hidden_unless_requested() -> None:
    _, decoder = read([recording("chat_completions", "openai-logprobs").body], turn())
    assert decoder.answer is not None
    assert decoder.answer.output[0]["content"][0]["logprobs"] == []


def test_reasoning_is_sealed_and_summarised_only_when_requested() -> None:
    _, decoder = read([recording("chat_completions", "vllm-reasoning").body], turn())
    assert decoder.answer is not None
    item = decoder.answer.output[0]
    assert "encrypted_content" not in item
    assert item["summary"] == []
