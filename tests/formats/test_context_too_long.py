"""A context that exceeds the model's window, as servers say it, and sentences about other limits that sound similar."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import orjson
import pytest

from app.errors import BodyTooLarge, ContextTooLong, UpstreamError
from app.formats import load
from app.formats._failures import http_error, stream_error

FORMATS = ("responses", "chat_completions", "messages")

_HERE = Path(__file__).parent / "sentences"
#: Server, the window that the sentence names, and the sentence.
SENTENCES = [line.split(" | ", 2) for line in (_HERE / "too_long.txt").read_text().splitlines()]
WITH_WINDOWS = [
    pytest.param(sentence, None if window == "-" else int(window), id=f"{server}-{at}")
    for at, (server, window, sentence) in enumerate(SENTENCES)
]
#: Other limits, and sentences that mention the context without its being exceeded.
OTHER_LIMITS = (_HERE / "other_limits.txt").read_text().splitlines()

#: Errors whose code or type says it, whatever the sentence.
CODES: list[dict[str, Any]] = [
    {"message": "No.", "type": "exceed_context_size_error", "code": 400, "n_prompt_tokens": 1407, "n_ctx": 256},
    {"message": "No.", "code": "context_length_exceeded", "type": "invalid_request_error", "param": "messages"},
    {"message": "No.", "code": "model_max_prompt_tokens_exceeded"},
    {"message": "No.", "type": "context_exceeded", "n_prompt_tokens": 9, "n_ctx": 256},
    {"message": "No.", "type": "ContextWindowExceededError"},
    {"message": "No.", "code": "model_context_window_exceeded"},
    {"message": "Provider returned error", "code": 400, "metadata": {"raw": '{"code": "context_length_exceeded"}'}},
]


def failure(format_: str, status: int, error: dict[str, Any]) -> UpstreamError:
    return load(format_).decode_error(status, {}, orjson.dumps({"type": "error", "error": error}))


def check(error: UpstreamError, message: str) -> ContextTooLong:
    assert isinstance(error, ContextTooLong), error.message
    assert (error.status, error.code, error.param, error.message) == (400, "context_length_exceeded", "input", message)
    assert (error.elsewhere, error.counts) == (False, False)
    return error


@pytest.mark.parametrize(("sentence", "window"), WITH_WINDOWS)
def test_the_sentence_of_a_server_is_known_and_its_window_read(sentence: str, window: int | None) -> None:
    error = check(http_error(400, {}, orjson.dumps({"error": {"message": sentence, "code": None}})), sentence)
    assert error.window == window


@pytest.mark.parametrize("format_", FORMATS)
@pytest.mark.parametrize("status", [400, 403, 404, 413, 422, 424, 429, 500, 503])
def test_every_format_knows_it_with_every_status(format_: str, status: int) -> None:
    for _, _, sentence in SENTENCES:
        check(failure(format_, status, {"message": sentence, "type": "server_error", "code": status}), sentence)


@pytest.mark.parametrize("error", CODES, ids=range(len(CODES)))
@pytest.mark.parametrize("status", [400, 413, 500])
def test_a_code_or_a_type_says_it_too(error: dict[str, Any], status: int) -> None:
    known = http_error(status, {}, orjson.dumps({"error": error}))
    assert isinstance(known, ContextTooLong)
    assert known.window == error.get("n_ctx")


@pytest.mark.parametrize("code", [400, "400", 500, None, "server_error", "invalid_request_error"])
def test_it_is_known_without_a_status_of_its_own(code: object) -> None:
    for _, _, sentence in SENTENCES:
        check(stream_error({"message": sentence, "code": code}), sentence)


@pytest.mark.parametrize(
    "body",
    [
        {"message": "{}"},
        {"detail": "{}"},
        {"error": "{}"},
        {"errors": [{"message": "{}"}]},
        [{"error": {"message": "{}", "code": 400}}],
        {"error": {"message": {"reason": "{}"}}},
        {"object": "error", "message": "{}", "type": "BadRequestError", "code": 400},
    ],
    ids=range(7),
)
@pytest.mark.parametrize("format_", FORMATS)
def test_it_is_known_in_bodies_of_every_shape(format_: str, body: object) -> None:
    sentence = "prompt is too long: 213462 tokens > 200000 maximum"
    written = orjson.dumps(body).replace(b'"{}"', orjson.dumps(sentence))
    assert check(load(format_).decode_error(400, {}, written), sentence).window == 200000


def test_a_413_without_a_word_says_it() -> None:
    assert isinstance(http_error(413, {}, b""), ContextTooLong)
    assert not isinstance(http_error(400, {}, b""), ContextTooLong)


@pytest.mark.parametrize("sentence", OTHER_LIMITS, ids=range(len(OTHER_LIMITS)))
def test_other_limits_are_not_taken_for_it(sentence: str) -> None:
    for status in (400, 413, 422, 429, 500):
        error = http_error(status, {}, orjson.dumps({"error": {"message": sentence, "type": "invalid_request_error"}}))
        assert error.code != "context_length_exceeded"
    assert stream_error({"message": sentence, "code": None}).code != "context_length_exceeded"


@pytest.mark.parametrize("format_", FORMATS)
@pytest.mark.parametrize(
    ("status", "body"),
    [
        (413, b"<html><head><title>413 Request Entity Too Large</title></head></html>"),
        (413, b'{"type":"error","error":{"type":"request_too_large","message":"Request exceeds the maximum size"}}'),
        (413, b'{"error":{"message":"Request Entity Too Large","code":"request_too_large"}}'),
        (400, b'{"error":{"message":"Request payload size exceeds the limit: 20971520 bytes. Use the File API."}}'),
    ],
)
def test_a_body_with_too_many_bytes_is_a_context_that_may_be_shortened(format_: str, status: int, body: bytes) -> None:
    error = load(format_).decode_error(status, {}, body)
    assert isinstance(error, BodyTooLarge), error
    assert (error.status, error.code, error.window, error.elsewhere) == (413, "request_too_large", None, False)


@pytest.mark.parametrize("sentence", ["image exceeds 5 MB maximum", "Tool definitions are too large"])
def test_a_part_that_is_too_large_is_no_matter_of_the_context(sentence: str) -> None:
    error = http_error(413, {}, orjson.dumps({"error": {"message": sentence}}))
    assert not isinstance(error, ContextTooLong)


def test_a_rate_limit_with_the_status_of_a_large_body_is_a_rate_limit() -> None:
    message = next(sentence for sentence in OTHER_LIMITS if "service tier" in sentence)
    error = http_error(413, {}, orjson.dumps({"error": {"message": message, "code": "rate_limit_exceeded"}}))
    assert (error.status, error.code, error.elsewhere) == (429, "rate_limit_exceeded", True)
