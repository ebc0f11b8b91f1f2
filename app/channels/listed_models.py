"""Reads the lists of models that upstreams answer with: the names, and the facts that each server tells in members of
its own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

import orjson

from app.contract.model_facts import MODALITIES, NOTHING, ModelFacts

Json = Mapping[str, Any]
#: The members that lead to a value.
Path = tuple[str, ...]
_Value = TypeVar("_Value")

#: Where servers tell the window; the first that is known counts. What a server has loaded wins over what a model can
#: do: LM Studio, llama.cpp (its list and its properties), Antiphon and Groq, vLLM and SGLang, OpenRouter and others,
#: Mistral, Gemini, Anthropic, Novita, Cerebras, GitHub Copilot, models.dev, DeepInfra, TabbyAPI, Ollama, LiteLLM,
#: GitHub Models, Hugging Face.
_WINDOW: tuple[Path, ...] = (
    ("loaded_context_length",),
    ("loaded_instances", "config", "context_length"),
    ("meta", "n_ctx"),
    ("default_generation_settings", "n_ctx"),
    ("context_window",),
    ("max_model_len",),
    ("context_length",),
    ("max_context_length",),
    ("inputTokenLimit",),
    ("max_input_tokens",),
    ("context_size",),
    ("limits", "max_context_length"),
    ("capabilities", "limits", "max_context_window_tokens"),
    ("limit", "context"),
    ("metadata", "context_length"),
    ("parameters", "max_seq_len"),
    ("top_provider", "context_length"),
    ("details", "context_length"),
    ("model_info", "max_input_tokens"),
    ("limits", "max_input_tokens"),
    ("capabilities", "limits", "max_prompt_tokens"),
    ("max_context_tokens",),
    ("max_context_window",),
    ("context_len",),
    ("n_ctx",),
    ("providers", "context_length"),
)
_OUTPUT: tuple[Path, ...] = (
    ("max_output_tokens",),
    ("max_completion_tokens",),
    ("outputTokenLimit",),
    ("top_provider", "max_completion_tokens"),
    ("limits", "max_completion_tokens"),
    ("capabilities", "limits", "max_output_tokens"),
    ("limit", "output"),
    ("limits", "max_output_tokens"),
    ("model_info", "max_output_tokens"),
    ("metadata", "max_tokens"),
    ("max_tokens",),
)
#: Lists of what the model reads.
_MODALITIES: tuple[Path, ...] = (
    ("input_modalities",),
    ("architecture", "input_modalities"),
    ("modalities", "input"),
    ("modalities",),
)
#: Flags for images alone.
_VISION: tuple[Path, ...] = (
    ("capabilities", "vision"),
    ("capabilities", "image_input", "supported"),
    ("capabilities", "supports", "vision"),
    ("modalities", "vision"),
    ("supports_vision",),
    ("model_info", "supports_vision"),
    ("supports_image_in",),
    ("supports_image_input",),
)
#: Words in a list of abilities, or in `type`, that stand for images.
_VISION_LISTS: tuple[Path, ...] = (("capabilities",), ("tags",), ("type",))
_VISION_WORDS = frozenset({"vision", "multimodal", "vlm"})
_EFFORTS: tuple[Path, ...] = (
    ("efforts",),
    ("reasoning", "supported_efforts"),
    ("supported_efforts",),
    ("reasoning_efforts",),
    ("capabilities", "supports", "reasoning_effort"),
)
#: An object with one member for each effort.
_EFFORT_FLAGS: Path = ("capabilities", "effort")
_NAMES: tuple[Path, ...] = (("display_name",), ("displayName",))

#: The members of an entry that name its model.
_IDS = ("id", "name", "model", "key", "slug", "model_name")
#: The order of efforts, for servers that list them in another one.
_LOWEST_FIRST = ("none", "minimal", "low", "medium", "high", "xhigh", "max", "ultra")
#: Servers whose list lacks windows, by `owned_by`, and the path beside the base URL that tells them: Ollama, LM Studio
#: and llama.cpp.
_FURTHER = {
    "library": "/../api/ps",
    "organization_owner": "/../api/v0/models",
    "llamacpp": "/../props",
}
_LARGEST = 1_000_000_000


@dataclass(frozen=True, slots=True)
class ListedModels:
    """One upstream's list."""

    names: tuple[str, ...] = ()
    """The names under which its models are requested, as it lists them."""
    known: Mapping[str, ModelFacts] = field(default_factory=dict)
    """Its facts, by each name that a model has there."""
    any_model: ModelFacts = NOTHING
    """Facts that hold whatever model is named, as on a server that has only one."""
    further: str | None = None
    """A path that tells what this list does not."""

    def facts(self, model: str) -> ModelFacts:
        found = self.known.get(model) or self.known.get(_plain(model)) or NOTHING
        return found.or_else(self.any_model)

    def with_facts(self, other: ListedModels) -> ListedModels:
        """This list with the facts of another answer of the same server, which wins."""
        both = {**self.known, **{name: facts.or_else(self.facts(name)) for name, facts in other.known.items()}}
        return ListedModels(self.names, both, other.any_model.or_else(self.any_model))


def read_list(body: bytes) -> ListedModels:
    """What an answer says; nothing if it is no list of models."""
    try:
        listing = orjson.loads(body)
    except ValueError:
        return ListedModels()
    entries = list(_entries(listing))
    known: dict[str, ModelFacts] = {}
    for entry in entries:
        facts = _facts(entry)
        for name in _names_of(entry):
            known[name] = known.get(name, NOTHING).or_else(facts)
    names = tuple(dict.fromkeys(entry["id"] for entry in entries if isinstance(entry.get("id"), str) and entry["id"]))
    only = replace(known.get(names[0], NOTHING), display_name=None) if len(names) == 1 else NOTHING
    server = _facts(listing) if isinstance(listing, dict) and not entries else NOTHING
    return ListedModels(names, known, server.or_else(only), _further(entries, known.values()))


def _entries(listing: Any) -> Iterator[Json]:
    lists = (listing.get("data"), listing.get("models")) if isinstance(listing, dict) else (listing,)
    for entries in lists:
        if isinstance(entries, list):
            yield from (entry for entry in entries if isinstance(entry, dict))


def _names_of(entry: Json) -> Iterator[str]:
    aliases = entry.get("aliases")
    for name in (*(entry.get(key) for key in _IDS), *(aliases if isinstance(aliases, list) else ())):
        if isinstance(name, str) and name:
            yield name
            yield _plain(name)


def _plain(name: str) -> str:
    """Gemini lists `models/NAME`, and Ollama `NAME:latest`."""
    return name.removeprefix("models/").removesuffix(":latest")


def _further(entries: Iterable[Json], facts: Iterable[ModelFacts]) -> str | None:
    if any(one.context_window for one in facts):
        return None
    owners = (entry.get("owned_by") for entry in entries)
    return next((_FURTHER[owner] for owner in owners if isinstance(owner, str) and owner in _FURTHER), None)


# --- the facts of one entry -------------------------------------------------------------------------------------


def _facts(entry: Json) -> ModelFacts:
    return ModelFacts(
        context_window=_first(entry, _WINDOW, _count),
        max_output_tokens=_first(entry, _OUTPUT, _count),
        modalities=_first(entry, _MODALITIES, _modalities) or _by_vision(entry),
        efforts=_first(entry, _EFFORTS, _efforts) or _efforts(_supported(_at(entry, _EFFORT_FLAGS))),
        display_name=_first(entry, _NAMES, _text),
    )


def _first(entry: Json, paths: Iterable[Path], read: Callable[[Any], _Value | None]) -> _Value | None:
    return next((found for found in (read(_at(entry, path)) for path in paths) if found is not None), None)


def _at(entry: Json, path: Path) -> Any:
    """The value that a path leads to; in a list, that of its first element."""
    value: Any = entry
    for name in path:
        value = value[0] if isinstance(value, list) and value else value
        value = value.get(name) if isinstance(value, dict) else None
    return value


def _count(value: Any) -> int | None:
    """A whole number, which some servers write as text; 0 and -1 stand for unknown."""
    if isinstance(value, str) and value.isascii() and value.isdigit() and len(value) < 10:
        value = int(value)
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return value if isinstance(value, int) and value is not True and 0 < value <= _LARGEST else None


def _text(value: Any) -> str | None:
    return value if isinstance(value, str) and 0 < len(value) <= 256 and value.isprintable() else None


def _words(value: Any) -> list[str] | None:
    return [word.lower() for word in value if isinstance(word, str)] if isinstance(value, list) else None


def _modalities(value: Any) -> tuple[str, ...] | None:
    words = _words(value)
    return tuple(name for name in MODALITIES if name in words) or None if words else None


def _by_vision(entry: Json) -> tuple[str, ...] | None:
    """Text, and images if a flag or a word says so. Without any word nothing is known."""
    flag = _first(entry, _VISION, lambda value: value if isinstance(value, bool) else None)
    listed = [word for path in _VISION_LISTS for word in _listed(_at(entry, path))]
    if flag or not _VISION_WORDS.isdisjoint(listed):
        return ("text", "image")
    return ("text",) if flag is False else None


def _listed(value: Any) -> list[str]:
    return _words([value] if isinstance(value, str) else value) or []


def _efforts(value: Any) -> tuple[str, ...] | None:
    words = _words(value)
    if not words:
        return None
    known = tuple(word for word in _LOWEST_FIRST if word in words)
    return known or None


def _supported(value: Any) -> list[str] | None:
    """The members of an object that say `supported`."""
    if not isinstance(value, dict):
        return None
    return [name for name, one in value.items() if isinstance(one, dict) and one.get("supported") is True]
