"""The reason in an upstream's error, in every shape that servers give it: its words alone reach the client."""

from __future__ import annotations

import string
from typing import Any

import orjson
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from app.errors import UpstreamError, UpstreamRefused
from app.formats import load
from app.formats._error_body import MAX_BYTES, of, read
from app.formats._failures import http_error

FORMATS = ("responses", "chat_completions", "messages")
WORDS = "Function call is missing a thought_signature in functionCall parts."
INNER = orjson.dumps({"error": {"message": WORDS, "type": "invalid_request_error"}}).decode()

SHAPES: dict[str, Any] = {
    "OpenAI": {"error": {"message": WORDS, "type": "invalid_request_error", "param": None, "code": None}},
    "Gemini's array": [{"error": {"code": 400, "message": WORDS, "status": "INVALID_ARGUMENT"}}],
    "Gemini's details": {
        "error": {
            "code": 400,
            "message": "Request contains an invalid argument.",
            "status": "INVALID_ARGUMENT",
            "details": [{"@type": "x/BadRequest", "fieldViolations": [{"field": "contents", "description": WORDS}]}],
        }
    },
    "Anthropic": {"type": "error", "error": {"type": "invalid_request_error", "message": WORDS}, "request_id": "req_1"},
    "an object of its own": {"object": "error", "message": WORDS, "type": "BadRequestError", "code": 400},
    "flat": {"code": 400, "message": WORDS},
    "FastAPI": {"detail": WORDS},
    "FastAPI's list": {"detail": [{"type": "missing", "loc": ["body", "x"], "msg": WORDS, "input": {"secret": "s"}}]},
    "an error in a detail": {"detail": {"error": {"message": WORDS}}},
    "Cloudflare": {"result": None, "success": False, "errors": [{"code": 7003, "message": WORDS}], "messages": []},
    "a list of texts": {"error": [WORDS], "warnings": []},
    "errors of fields": {"type": "https://x.test/p", "title": "Errors.", "status": 400, "errors": {"$.x": [WORDS]}},
    "problem details": {"type": "about:blank", "title": "Bad Request", "status": 400, "detail": WORDS},
    "OpenRouter": {
        "error": {"message": "Provider returned error", "code": 400, "metadata": {"raw": INNER, "provider_name": "X"}}
    },
    "OpenRouter's plain text": {
        "error": {"message": "Provider returned error", "code": 400, "metadata": {"raw": WORDS}}
    },
    "a text": {"error": WORDS},
    "a message that is an object": {"error": {"message": {"error": {"message": WORDS}}}},
    "a message that is a list": {"message": [WORDS]},
    "a message that is JSON": {"error": {"message": INNER}},
    "JSON in JSON in JSON": {"error": {"message": orjson.dumps({"message": INNER}).decode()}},
    "JSON behind words": {"error": {"message": f"upstream said: {INNER}"}},
    "a printed object": {
        "error": {"message": f"Error code: 400 - {{'error': {{'message': '{WORDS}', 'code': None}}}}"}
    },
    "printed bytes": {"error": {"message": f"litellm.BadRequestError: b'{INNER}'"}},
    "MiniMax": {"id": "1", "choices": None, "base_resp": {"status_code": 2013, "status_msg": WORDS}},
    "msg": {"code": 1, "msg": WORDS},
    "err_msg": {"err_no": 1, "err_msg": WORDS},
    "error_msg": {"error_code": 336007, "error_msg": WORDS},
    "errorMessage": {"errorCode": "X", "errorMessage": WORDS},
    "Message": {"__type": "ValidationException", "Message": WORDS},
    "reason": {"status": "failed", "reason": WORDS},
    "description": {"ok": False, "description": WORDS},
    "OAuth": {"error": "invalid_request", "error_description": WORDS},
    "Spring": {"timestamp": "now", "status": 400, "error": "Bad Request", "message": WORDS, "path": "/v1/x"},
    "Azure": {
        "error": {"code": "400", "message": "The request failed.", "innererror": {"code": "x", "message": WORDS}}
    },
    "a fault": {"fault": {"faultstring": WORDS, "detail": {"errorcode": "x"}}},
    "a header": {"header": {"code": 10013, "message": WORDS, "sid": "s"}},
    "an unknown shape": {"outcome": {"problems": [{"message": WORDS}]}},
}
TEXTS: dict[str, tuple[str, str]] = {
    "plain": (WORDS, WORDS),
    "with a mark": (f"\ufeff{orjson.dumps({'detail': WORDS}).decode()}", WORDS),
    "an event": (f'event: error\ndata: {{"error": {{"message": "{WORDS}"}}}}\n\n', WORDS),
    "a page": (
        "<html><head><title>502 Bad Gateway</title></head><body><h1>502</h1>nginx</body></html>",
        "502 Bad Gateway",
    ),
    "a page without a title": ("<!DOCTYPE html><html><body><h1>Too &amp; large</h1></body></html>", "Too & large"),
    "a page without anything": (
        "<html><script>x()</script><body>Down for <b>maintenance</b></body></html>",
        "Down for maintenance",
    ),
    "XML": (
        '<?xml version="1.0"?><Error><Code>AccessDenied</Code><Message>Not &lt;you&gt;</Message></Error>',
        "Not <you>",
    ),
    "a traceback": (
        'Traceback (most recent call last):\n  File "/srv/app.py", line 3\n    secret()\nValueError: bad value',
        "ValueError: bad value",
    ),
    "nothing": ("", ""),
    "half an object": ('{"error": {"message": "cut', '{"error": {"message": "cut'),
}


def refusal(format_: str, body: bytes, status: int = 400) -> UpstreamError:
    return load(format_).decode_error(status, {}, body)


@pytest.mark.parametrize("format_", FORMATS)
@pytest.mark.parametrize("status", [400, 413, 415, 422])
@pytest.mark.parametrize("shape", SHAPES)
def test_the_words_of_every_shape_reach_the_client(format_: str, status: int, shape: str) -> None:
    error = refusal(format_, orjson.dumps(SHAPES[shape]), status)
    assert isinstance(error, UpstreamRefused)
    assert WORDS.rstrip(".") in error.message
    assert not {"{", "secret"} & set(error.message.split())
    assert error.body()["error"].keys() == {"message", "type", "param", "code"}


@pytest.mark.parametrize("text", TEXTS)
def test_the_words_of_other_bodies_reach_the_client(text: str) -> None:
    body, words = TEXTS[text]
    assert read(body.encode()).words == words


@pytest.mark.parametrize("status", [402, 403, 404, 409, 429, 500, 502, 503, 504, 529])
def test_a_failure_of_the_server_carries_its_words_too(status: int) -> None:
    for format_ in FORMATS:
        assert refusal(format_, orjson.dumps({"error": {"message": "Boom."}}), status).message.endswith("Boom.")


def test_what_is_said_of_the_key_is_the_operators_business() -> None:
    error = refusal(
        "responses", orjson.dumps({"error": {"message": "Incorrect API key provided: sk-abcdefgh1234"}}), 401
    )
    assert "Incorrect" not in error.message
    assert error.upstream_message == "Incorrect API key provided: ***"


def test_where_a_validation_failed_is_named() -> None:
    errors = [
        {
            "loc": ["body", "messages", 0, "content"],
            "msg": "Field required",
            "input": {"role": "user", "content": "s3cret"},
        },
        {"loc": ["body", "x"], "msg": "Extra inputs are not permitted", "input": "s3cret"},
    ]
    assert of({"detail": errors}).words == ("messages.0.content: Field required; x: Extra inputs are not permitted")


HIDDEN = [
    "sk-proj-abcdefghijklmnop",
    "sk-ant-api03-abcdefgh_ijk",
    "gsk_abcdefghijkl1234",
    "xai-abcdefghijkl1234",
    "AIzaSyabcdefghijklmnop",
    "AKIAABCDEFGHIJKLMNOP",
    "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxIn0.c2lnbmF0dXJl",
    "https://api.internal.test:8443/v1/chat?key=1",
    "http://10.1.2.3:8000/v1",
    "10.1.2.3:8000",
    "192.168.0.7",
    "localhost:11434",
    "[fe80::1%eth0]:8080",
    "gpu-3.cluster.internal",
    "models.example.com:8000",
    "wss://relay.test/x",
]


@pytest.mark.parametrize("secret", HIDDEN)
@pytest.mark.parametrize(
    "sentence",
    [
        "Cannot reach {}.",
        "{} answered: no",
        "The key '{}' is wrong",
        'bad "{}", sorry',
        "see ({}) or ask",
        "Authorization: Bearer {}",
    ],
)
def test_keys_and_addresses_do_not_leave(secret: str, sentence: str) -> None:
    words = of({"error": {"message": sentence.format(secret)}}).words
    assert secret not in words
    assert "[address]" in words or "***" in words


@pytest.mark.parametrize(
    "sentence",
    [
        "The model `gpt-5.1` does not exist.",
        "temperature must be between 0.0 and 2.0, got 3.5",
        "Invalid value at input[0].content[1].type: 'x'",
        "At 10:30 the limit of 128000 was reached (1.2.3)",
        "max_tokens: 32000 > 8192",
        "Model qwen2.5:7b not found",
        "token: expected a string",
        "n_keep: 40000>= n_ctx: 32768",
        "Größe überschritten: 超长 🎼",
    ],
)
def test_what_is_neither_a_key_nor_an_address_stays(sentence: str) -> None:
    assert of({"message": sentence}).words == sentence


@pytest.mark.parametrize(
    "quoted",
    [
        'Invalid body: {"model": "m", "messages": [{"role": "user", "content": "s3cret"}]}',
        "Invalid body: {'model': 'm', 'messages': [{'role': 'user', 'content': 's3cret'}]}",
        "1 validation error for Request [type=x, input_value={'content': 's3cret'}, input_type=dict]",
        'Cannot parse [{"role": "user", "content": "s3cret"}, {"role": "user", "content": "s3cret"',
    ],
)
def test_a_quoted_request_does_not_come_back(quoted: str) -> None:
    words = of({"error": {"message": quoted}}).words
    assert "s3cret" not in words
    assert words


def test_a_request_in_a_member_does_not_come_back() -> None:
    body = {"error": {"message": "No.", "request": {"messages": [{"content": "s3cret"}]}}, "messages": ["s3cret"]}
    assert of(body).words == "No."


@pytest.mark.parametrize("character", ["x", "é", "漢", "🎼"])
@pytest.mark.parametrize("status", [400, 404, 429, 500])
def test_no_more_than_2_kib_leave(character: str, status: int) -> None:
    error = http_error(status, {}, orjson.dumps({"error": {"message": character * 5000}}))
    assert len(error.message.encode()) <= MAX_BYTES
    assert error.message.endswith("…")


#: Bodies on which the search for words could take a time that grows with the square of their size.
HOSTILE = ["{", "[{", "{'a':", "{'a': 1} ", "a.", "abcd:", "http://", "<title>", "<script ", "<!--", "<message ", "<a>"]


@pytest.mark.parametrize("piece", HOSTILE)
def test_a_hostile_body_is_read_in_a_moment(piece: str) -> None:
    text = piece * (300_000 // len(piece))
    assert http_error(502, {}, text.encode()).message
    assert http_error(400, {}, orjson.dumps({"error": {"message": text}})).message
    assert http_error(400, {}, f"<html>{text}".encode()).message


def test_a_request_that_is_repeated_at_length_hides_no_words() -> None:
    quoted = {"messages": [{"content": "s3cret " * 200_000}]}
    body = {"detail": [{"loc": ["body", "x"], "msg": WORDS, "input": quoted}]}
    assert read(orjson.dumps(body)).words == f"x: {WORDS}"


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.text(max_size=30),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["error", "message", "detail", "code", "metadata", "raw", "loc", "x"]), inner, max_size=4
        )
    ),
    max_leaves=12,
)


@given(JSON)
def test_any_value_is_one_line_of_valid_text(value: object) -> None:
    words = of(value).words
    assert len(words.encode()) <= MAX_BYTES
    assert words == " ".join(words.split())


@given(st.binary(max_size=300) | st.text(string.printable, max_size=300).map(str.encode))
def test_any_body_has_a_reason(body: bytes) -> None:
    assert http_error(400, {}, body).message
    assert http_error(502, {}, body).message


@given(st.text("{}[]()'\",: 0a", max_size=40))
@example("'input' {[]} is invalid")
@example("{{'error': {}}}")
def test_braces_in_a_sentence_are_read_or_left(text: str) -> None:
    assert isinstance(of({"error": {"message": text}}).words, str)
