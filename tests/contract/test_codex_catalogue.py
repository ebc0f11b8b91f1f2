"""The entries of Codex's catalogue: complete for every version, and true to the facts."""

from __future__ import annotations

from typing import Any

import pytest

from app.contract.codex_catalogue import DEFAULT_WINDOW, entry, is_listed
from app.contract.model_facts import NOTHING, ModelFacts

JSON = dict[str, Any]

#: The members without which some version of Codex reads no entry at all, and their types.
REQUIRED = {
    "slug": str,
    "display_name": str,
    "description": (str, type(None)),
    "supported_reasoning_levels": list,
    "shell_type": str,
    "visibility": str,
    "supported_in_api": bool,
    "priority": int,
    "availability_nux": type(None),
    "upgrade": type(None),
    "base_instructions": str,
    "supports_reasoning_summaries": bool,
    "support_verbosity": bool,
    "default_verbosity": (str, type(None)),
    "apply_patch_tool_type": (str, type(None)),
    "truncation_policy": dict,
    "supports_parallel_tool_calls": bool,
    "context_window": int,
    "experimental_supported_tools": list,
    "input_modalities": list,
}


def _entry(facts: ModelFacts = NOTHING, version: str = "0.171.0") -> JSON:
    return entry("m", facts, 1, version)


@pytest.mark.parametrize(
    "facts",
    [
        NOTHING,
        ModelFacts(1_000, 10, ("text",), ("low",), 0.5, "Name", False, True, "none", 100, True),
        ModelFacts(efforts=("max", "ultra"), modalities=("audio", "text")),
    ],
)
@pytest.mark.parametrize("version", ["0.171.0", "0.150.2-alpha.1", "", "newest"])
def test_an_entry_has_all_that_any_version_requires(facts: ModelFacts, version: str) -> None:
    found = _entry(facts, version)
    for name, kind in REQUIRED.items():
        assert isinstance(found[name], kind), name
    assert found["truncation_policy"].keys() == {"mode", "limit"}
    assert set(found["input_modalities"]) <= {"text", "image"}
    assert found["apply_patch_tool_type"] in ("freeform", None)
    levels = [level["effort"] for level in found["supported_reasoning_levels"]]
    assert found.get("default_reasoning_level") in (levels or [None])
    assert all(level["description"] for level in found["supported_reasoning_levels"])


def test_codex_compacts_by_the_window() -> None:
    found = _entry(ModelFacts(32_768))
    assert (found["context_window"], found["max_context_window"]) == (32_768, 32_768)
    # Codex itself takes nine tenths.
    assert "auto_compact_token_limit" not in found
    assert _entry(ModelFacts(32_768, compact_at=0.5))["auto_compact_token_limit"] == 16_384
    assert _entry()["context_window"] == DEFAULT_WINDOW


def test_the_output_of_a_tool_is_cut_at_a_part_of_the_window() -> None:
    def limit(facts: ModelFacts) -> int:
        policy = _entry(facts)["truncation_policy"]
        assert policy["mode"] == "tokens"
        return int(policy["limit"])

    assert limit(NOTHING) == limit(ModelFacts(1_000_000)) == 10_000
    assert limit(ModelFacts(8_192)) == 819
    assert limit(ModelFacts(8_192, tool_output_tokens=2_000)) == 2_000


def test_efforts_that_an_older_version_cannot_read_are_left_out() -> None:
    def levels(version: str) -> list[str]:
        found = _entry(ModelFacts(efforts=("low", "high", "max")), version)
        return [level["effort"] for level in found["supported_reasoning_levels"]]

    assert levels("0.171.0") == levels("0.169.1-alpha") == levels("1.0.0") == ["low", "high", "max"]
    assert levels("0.99.0") == levels("") == levels("9" * 99) == ["low", "high"]


@pytest.mark.parametrize(
    ("efforts", "default"),
    [(("low", "medium", "high"), "medium"), (("low", "high"), "high"), (("none",), "none"), (None, None)],
)
def test_an_effort_in_the_middle_is_the_default(efforts: tuple[str, ...] | None, default: str | None) -> None:
    assert _entry(ModelFacts(efforts=efforts)).get("default_reasoning_level") == default


def test_the_instructions_fit_the_tools() -> None:
    by_tool, by_commands = _entry(), _entry(ModelFacts(patch_tool="none"))
    assert (by_tool["apply_patch_tool_type"], by_commands["apply_patch_tool_type"]) == ("freeform", None)
    assert "apply_patch" in by_tool["base_instructions"]
    assert "apply_patch" not in by_commands["base_instructions"]


@pytest.mark.parametrize(
    ("model", "by_default"),
    [
        *(
            (name, False)
            for name in ("gpt-5", "gpt-5.5", "gpt-6-sol", "gpt-10", "openai/gpt-6-luna", "codex-mini-latest")
        ),
        *((name, True) for name in ("gpt-oss-120b", "gpt-4.1", "gpt-500", "o3", "my-codex-1", "qwen3", "mygpt-6")),
    ],
)
def test_codex_keeps_its_own_facts_about_its_models_unless_the_operator_has_others(
    model: str, by_default: bool
) -> None:
    assert is_listed(model, ModelFacts(1_000), states_window=False) is by_default
    assert is_listed(model, ModelFacts(1_000), states_window=True)
    assert not is_listed(model, ModelFacts(catalogue=False), states_window=True)
    assert is_listed(model, ModelFacts(catalogue=True), states_window=False)
