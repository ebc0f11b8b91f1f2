"""What the model lists of many kinds of servers say about windows and abilities."""

from __future__ import annotations

from typing import Any

import orjson
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from app.channels.listed_models import ListedModels, read_list
from app.contract.model_facts import NOTHING, ModelFacts

JSON = dict[str, Any]
BOTH, TEXT = ("text", "image"), ("text",)


def _read(listing: Any) -> ListedModels:
    return read_list(orjson.dumps(listing))


def _data(**entry: Any) -> JSON:
    return {"object": "list", "data": [{"id": "m", "object": "model", **entry}, {"id": "other"}]}


ANTHROPIC = {
    "type": "model",
    "display_name": "Claude",
    "max_input_tokens": 200_000,
    "max_tokens": 64_000,
    "capabilities": {
        "image_input": {"supported": True},
        "effort": {
            "supported": True,
            "high": {"supported": True},
            "low": {"supported": True},
            "max": {"supported": False},
        },
    },
}
GEMINI = {"name": "models/m", "displayName": "Gemini", "inputTokenLimit": 1_048_576, "outputTokenLimit": 65_536}
OPENROUTER = {
    "context_length": 262_144,
    "architecture": {"input_modalities": ["image", "text", "hologram"]},
    "top_provider": {"context_length": 131_072, "max_completion_tokens": 32_768},
    "reasoning": {"supported_efforts": ["high", "medium", "low"]},
}
COPILOT = {
    "capabilities": {
        "limits": {"max_context_window_tokens": 128_000, "max_output_tokens": 16_384},
        "supports": {"vision": False, "reasoning_effort": ["low", "high"]},
    }
}


@pytest.mark.parametrize(
    ("listing", "expected"),
    [
        pytest.param(_data(max_model_len=32_768), ModelFacts(32_768), id="vllm"),
        pytest.param(_data(context_window=131_072, max_completion_tokens=8_192), ModelFacts(131_072, 8_192), id="groq"),
        pytest.param(
            _data(max_context_length=32_000, capabilities={"vision": True}),
            ModelFacts(32_000, None, BOTH),
            id="mistral",
        ),
        pytest.param(
            _data(**ANTHROPIC),
            ModelFacts(200_000, 64_000, BOTH, ("low", "high"), display_name="Claude"),
            id="anthropic",
        ),
        pytest.param({"models": [GEMINI]}, ModelFacts(1_048_576, 65_536, display_name="Gemini"), id="gemini"),
        pytest.param(
            _data(**OPENROUTER), ModelFacts(262_144, 32_768, BOTH, ("low", "medium", "high")), id="openrouter"
        ),
        pytest.param(_data(**COPILOT), ModelFacts(128_000, 16_384, TEXT, ("low", "high")), id="copilot"),
        pytest.param(_data(meta={"n_ctx_train": 131_072, "n_ctx": 8_192}), ModelFacts(8_192), id="llama.cpp"),
        pytest.param(
            {
                "data": [{"id": "m", "meta": {"n_ctx": 4_096}}],
                "models": [{"name": "m", "capabilities": ["multimodal"]}],
            },
            ModelFacts(4_096, None, BOTH),
            id="llama.cpp, both lists",
        ),
        pytest.param(
            _data(type="vlm", max_context_length=131_072, loaded_context_length=4_096),
            ModelFacts(4_096, None, BOTH),
            id="lm studio, loaded",
        ),
        pytest.param(_data(max_context_length=131_072), ModelFacts(131_072), id="lm studio, not loaded"),
        pytest.param({"models": [{"name": "m:latest", "context_length": 4_096}]}, ModelFacts(4_096), id="ollama"),
        pytest.param([{"id": "m", "context_length": 8_192}, {"id": "n"}], ModelFacts(8_192), id="together"),
        pytest.param(
            _data(context_length=8_192, supports_image_input=False), ModelFacts(8_192, None, TEXT), id="fireworks"
        ),
        pytest.param(_data(context_window="65536", max_tokens=8e3), ModelFacts(65_536, 8_000), id="numbers as text"),
        pytest.param(
            {"data": [{"id": "x", "aliases": ["m"], "max_model_len": 9}, {"id": "y"}]}, ModelFacts(9), id="alias"
        ),
        pytest.param(
            {"data": [{"model_name": "m", "model_info": {"max_input_tokens": 9, "supports_vision": True}}]},
            ModelFacts(9, None, BOTH),
            id="litellm",
        ),
        pytest.param(
            [{"id": "m", "limits": {"max_input_tokens": 9, "max_output_tokens": 5}}],
            ModelFacts(9, 5),
            id="github models",
        ),
        pytest.param({"models": [{"slug": "m", "context_window": 9}]}, ModelFacts(9), id="codex"),
        pytest.param(_data(providers=[{"context_length": 9}, {"context_length": 8}]), ModelFacts(9), id="hugging face"),
        pytest.param(
            {
                "models": [
                    {"key": "m", "max_context_length": 9, "loaded_instances": [{"config": {"context_length": 8}}]}
                ]
            },
            ModelFacts(8),
            id="lm studio, its own list",
        ),
        pytest.param(
            _data(context_window=100, max_output_tokens=10, modalities=["text", "file"], efforts=["low"]),
            ModelFacts(100, 10, ("text", "file"), ("low",)),
            id="antiphon",
        ),
    ],
)
def test_the_members_of_each_server_are_read(listing: Any, expected: ModelFacts) -> None:
    assert _read(listing).facts("m") == expected


@pytest.mark.parametrize("unknown", [0, -1, None, True, 1.5, "many", "-1", [], {}, 10**18, "9" * 5000])
def test_what_is_no_count_of_tokens_is_unknown(unknown: Any) -> None:
    assert _read(_data(context_window=unknown, max_model_len=7)).facts("m") == ModelFacts(7)


def test_a_server_with_one_model_answers_every_name_with_it() -> None:
    one = _read({"data": [{"id": "/models/q.gguf", "display_name": "Q", "meta": {"n_ctx": 4_096}}]})
    assert one.facts("anything") == ModelFacts(4_096)
    assert one.names == ("/models/q.gguf",)
    assert _read(_data(max_model_len=5)).facts("anything") == NOTHING


@pytest.mark.parametrize(
    ("owner", "path", "answer", "expected"),
    [
        ("library", "/../api/ps", {"models": [{"name": "m", "context_length": 4_096}]}, ModelFacts(4_096)),
        (
            "organization_owner",
            "/../api/v0/models",
            {"data": [{"id": "m", "type": "vlm", "max_context_length": 9}]},
            ModelFacts(9, None, BOTH),
        ),
        (
            "llamacpp",
            "/../props",
            {"default_generation_settings": {"n_ctx": 512}, "modalities": {"vision": False}},
            ModelFacts(512, None, TEXT),
        ),
    ],
)
def test_another_answer_tells_what_a_list_lacks(owner: str, path: str, answer: JSON, expected: ModelFacts) -> None:
    listed = _read({"data": [{"id": "m", "owned_by": owner}]})
    assert listed.further == path
    both = listed.with_facts(_read(answer))
    assert (both.names, both.facts("m"), both.further) == (("m",), expected, None)
    assert _read({"data": [{"id": "m", "owned_by": owner, "context_window": 1}]}).further is None


@pytest.mark.parametrize(
    "body", [b"", b"<html>", b"null", b"[]", b"{}", b'{"data": {}}', b'{"data": [1, null]}', b'"m"']
)
def test_what_is_no_list_says_nothing(body: bytes) -> None:
    listed = read_list(body)
    assert (listed.names, listed.facts("m"), listed.further) == ((), NOTHING, None)


_names = st.sampled_from(
    [
        *("id", "name", "aliases", "owned_by", "display_name", "data", "models", "type", "tags"),
        *("capabilities", "vision", "effort", "supported", "reasoning", "modalities", "input"),
        *("limits", "meta", "n_ctx", "context_window", "max_tokens"),
    ]
)
_leaves = (
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.floats(allow_nan=False) | st.text(max_size=9) | _names
)
_json = st.recursive(_leaves, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(_names, inner, max_size=6))


@example([{"id": ""}])
@given(_json)
def test_any_json_is_read_without_an_error(value: Any) -> None:
    listed = _read({"data": [value, {"id": "m", "max_model_len": 9, "capabilities": value}], "models": value})
    assert listed.facts("m").context_window is not None
    read_list(orjson.dumps(value))
