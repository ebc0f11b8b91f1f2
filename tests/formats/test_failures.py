"""Error messages of upstreams: faults of the input are a 400 in every format, and a loading model is retried."""

from __future__ import annotations

import orjson
import pytest

from app.errors import UpstreamDenied, UpstreamError, UpstreamFailed, UpstreamLimited, UpstreamLoading, UpstreamRefused
from app.formats import load
from app.formats._failures import stream_error

ENDED_BY_THE_INPUT = {
    "image input is not supported - hint: if this is unexpected, you may need to provide the mmproj": "invalid_value",
    "audio input is not supported - hint: you may need to provide the mmproj": "invalid_value",
    "Failed to load image or audio file": "invalid_value",
    "This model does not support images. Please use a model that does.": "invalid_value",
    "Failed to create new sequence: this model is missing data required for image input": "invalid_value",
    "/models/qwen is not a multimodal model": "invalid_value",
    "At most 0 image(s) may be provided in one prompt.": "invalid_value",
    "unsupported content[].type": "invalid_value",
    "Failed to parse grammar": "invalid_value",
    "Invalid grammar request": "invalid_value",
    "JSON schema conversion failed: Unrecognized schema": "invalid_value",
    "Conversation roles must alternate user/assistant/user/assistant/...": "invalid_value",
    "request (40030 tokens) exceeds the available context size (4096 tokens), try increasing it": (
        "context_length_exceeded"
    ),
    "Context size has been exceeded.": "context_length_exceeded",
    "This model's maximum context length is 4096 tokens. However, you requested 9000.": "context_length_exceeded",
    "The decoder prompt (length 9000) is longer than the maximum model length of 4096.": "context_length_exceeded",
    "The input (40000 tokens) is longer than the model's context length (32768 tokens).": "context_length_exceeded",
    "The number of tokens to keep from the initial prompt is greater than the context length.": (
        "context_length_exceeded"
    ),
    "invalid params, context window exceeds limit (2013)": "context_length_exceeded",
    "Input is too long for requested model.": "context_length_exceeded",
    "prompt too long; exceeded max context length by 4 tokens": "context_length_exceeded",
}
LOADING = [
    "Loading model",
    "llm server loading model",
    "Model is loading, please wait",
    "Model meta/llama is currently loading",
    "The model is not loaded yet; model not ready",
]
OTHER = ["Out of memory", "CUDA error: an illegal memory access", "failed to load model", "Internal Server Error"]
FORMATS = ["responses", "chat_completions", "messages"]


def failure(format_: str, status: int, sentence: str) -> UpstreamError:
    error = {"message": sentence, "type": "server_error", "code": status}
    return load(format_).decode_error(status, {}, orjson.dumps({"error": error}))


@pytest.mark.parametrize("format_", FORMATS)
@pytest.mark.parametrize("status", [400, 422, 500])
@pytest.mark.parametrize("sentence", ENDED_BY_THE_INPUT)
def test_an_error_about_the_input_is_the_clients_400(format_: str, status: int, sentence: str) -> None:
    error = failure(format_, status, sentence)
    assert isinstance(error, UpstreamRefused)
    assert (error.status, error.message, error.code) == (400, sentence, ENDED_BY_THE_INPUT[sentence])
    assert not error.counts


@pytest.mark.parametrize("sentence", ENDED_BY_THE_INPUT)
@pytest.mark.parametrize("code", [500, None, "server_error"])
def test_and_so_it_is_in_the_event_of_a_stream(sentence: str, code: object) -> None:
    error = stream_error({"message": sentence, "code": code})
    assert isinstance(error, UpstreamRefused)
    assert error.message == sentence


@pytest.mark.parametrize("format_", FORMATS)
@pytest.mark.parametrize("sentence", OTHER)
def test_other_server_errors_are_the_servers(format_: str, sentence: str) -> None:
    error = failure(format_, 500, sentence)
    assert isinstance(error, UpstreamFailed)
    assert error.perhaps_input
    assert error.message.endswith(f"(HTTP 500): {sentence}")
    assert error.upstream_message == sentence
    assert error.cause == "status=500 upstream_code=server_error" or error.cause == "status=500"


@pytest.mark.parametrize("status", [502, 503, 504, 529])
def test_a_server_that_can_answer_no_one_is_not_excused(status: int) -> None:
    assert not failure("responses", status, "no").perhaps_input


@pytest.mark.parametrize("format_", FORMATS)
@pytest.mark.parametrize("sentence", LOADING)
def test_a_server_that_loads_its_model_says_so_in_many_ways(format_: str, sentence: str) -> None:
    error = failure(format_, 503, sentence)
    assert isinstance(error, UpstreamLoading)
    assert not error.counts
    assert not isinstance(failure(format_, 500, sentence), UpstreamLoading)


@pytest.mark.parametrize("sentence", OTHER)
def test_other_unavailable_servers_do_not_load(sentence: str) -> None:
    assert not isinstance(failure("responses", 503, sentence), UpstreamLoading)


def test_a_403_that_flags_the_input_is_no_matter_of_the_key() -> None:
    assert isinstance(failure("responses", 403, "Your input was flagged by moderation."), UpstreamRefused)
    assert isinstance(failure("responses", 403, "image input is not supported"), UpstreamDenied)


@pytest.mark.parametrize("format_", FORMATS)
@pytest.mark.parametrize("status", [400, 402, 403, 429])
def test_an_exhausted_quota_is_no_refusal(format_: str, status: int) -> None:
    error = {"message": "You exceeded your quota.", "type": "invalid_request_error", "code": "insufficient_quota"}
    for known in (load(format_).decode_error(status, {}, orjson.dumps({"error": error})), stream_error(error)):
        assert isinstance(known, UpstreamLimited)
        assert (known.exhausted, known.code, known.message) == (True, "insufficient_quota", "You exceeded your quota.")


def test_a_rate_limit_in_an_event_is_no_refusal() -> None:
    error = stream_error({"message": "Slow down.", "type": "invalid_request_error", "code": "rate_limit_exceeded"})
    assert isinstance(error, UpstreamLimited)
    assert not error.exhausted


def test_a_code_that_is_a_sentence_is_not_for_the_log() -> None:
    error = stream_error({"message": "no", "code": "you said: my secret plan"})
    assert "secret" not in error.cause
