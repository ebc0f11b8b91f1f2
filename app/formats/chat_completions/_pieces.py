"""Reads what a delta or a message says, in whatever member it stands: text of each kind, images, calls, sources."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple

import orjson

from app.errors import UpstreamBroken
from app.formats._reader import has_content

JSON = Mapping[str, Any]

#: Members for the model's thoughts; the first with text counts, since servers repeat it under several names.
_REASONING = (
    "reasoning_content",
    "reasoning",
    "reasoning_text",
    "thinking",
    "thought",
    "thoughts",
    "reasoning_details",
    "thinking_blocks",
)
_REASONING_NAMES = frozenset(_REASONING)
#: Types of parts of a content list.
_THOUGHTS = frozenset({"thinking", "reasoning", "reasoning_text", "reasoning.text", "thought"})
_CALLS = frozenset({"tool_use", "tool_call", "function_call", "function"})
_TEXTS = ("text", "content", "summary", "thinking", "value", "reasoning", "output_text", "parts")
_ARGUMENTS = ("arguments", "parameters", "args", "input")
_SOURCES = ("search_results", "citations")
#: The kinds of pieces that are written as text.
WRITTEN = frozenset({"output_text", "refusal", "reasoning_text"})


class Piece(NamedTuple):
    """One thing that a delta says: text of a kind, an image in base64, or a call."""

    kind: str
    value: Any


def pieces(delta: JSON) -> Iterator[Piece]:
    """What a delta or a message says. Raises UpstreamBroken for content of an unknown shape."""
    if not _REASONING_NAMES.isdisjoint(delta):
        yield from _texts("reasoning_text", next(filter(None, (text(delta.get(name)) for name in _REASONING)), ""))
    content = delta.get("content")
    if isinstance(content, str):
        yield from _texts("output_text", content)
    else:
        yield from _content(content)
    if len(delta) > 1 or content is None:
        yield from _others(delta)


def _others(delta: JSON) -> Iterator[Piece]:
    """The members that few deltas have."""
    yield from _content(delta.get("parts"))
    if not delta.get("content"):
        yield from _texts("output_text", text(delta.get("text")) or text(delta.get("output_text")))
    audio = delta.get("audio")
    if isinstance(audio, dict):
        yield from _texts("output_text", text(audio.get("transcript")))
        yield from _texts("audio", text(audio.get("data")))
    yield from _texts("refusal", text(delta.get("refusal")))
    for image in _list(delta.get("images")):
        yield _image(image)
    for call in _calls(delta):
        yield Piece("call", call)


def text(value: object) -> str:
    """A string, or the text of an object or of a list of parts."""
    if isinstance(value, str):
        return value
    if isinstance(value, list):
        return "".join(map(text, value))
    if isinstance(value, dict):
        return next(filter(None, (text(value.get(name)) for name in _TEXTS)), "")
    return ""


def _texts(kind: str, value: str) -> Iterator[Piece]:
    if value:
        yield Piece(kind, value)


# --- parts of a content list ------------------------------------------------------------------------------------


def _content(value: object) -> Iterator[Piece]:
    if isinstance(value, dict) and isinstance(value.get("parts"), list):
        value = value["parts"]
    for part in _list(value):
        yield from _part(part) if isinstance(part, dict) else _texts("output_text", text(part))


def _part(part: JSON) -> Iterator[Piece]:
    kind = str(part.get("type"))
    if kind in _THOUGHTS or part.get("thought") is True:
        yield from _texts("reasoning_text", text(part.get("thinking")) or text(part))
    elif kind == "refusal":
        yield from _texts("refusal", text(part.get("refusal")))
    elif kind in _CALLS or part.get("functionCall") or part.get("function_call"):
        yield Piece("call", part.get("functionCall") or part.get("function_call") or part)
    elif _image_data(part):
        yield _image(part)
    elif said := text(part.get("text")) or text(part.get("output_text")):
        yield Piece("output_text", said)
    elif has_content(part):
        raise UpstreamBroken(f"The model's server sent content of an unknown type: '{kind[:64]}'.")


# --- images -----------------------------------------------------------------------------------------------------


def _image(image: object) -> Piece:
    """An image in base64; one that lies behind a URL becomes a link in the text."""
    data = _image_data(image)
    if data.startswith("data:"):
        data = data.partition(",")[2]
    if not data:
        raise UpstreamBroken("The model's server sent an image without data.")
    if data.startswith(("http://", "https://")):
        return Piece("output_text", f"![image]({data})")
    return Piece("image", data)


def _image_data(image: object) -> str:
    """The URL or the base64 data of an image; empty if it is none."""
    if isinstance(image, str):
        return image
    if not isinstance(image, dict):
        return ""
    for name in ("image_url", "imageUrl", "url", "b64_json"):
        if found := _string(image.get(name)) or _image_data(image.get(name)):
            return found
    inner = image.get("inlineData") or image.get("inline_data") or image.get("source")
    if isinstance(inner, dict):
        return _string(inner.get("data")) or _string(inner.get("url"))
    return _string(image.get("data")) or _string(image.get("result"))


# --- calls ------------------------------------------------------------------------------------------------------


def _calls(delta: JSON) -> Iterable[JSON]:
    calls = [call for call in _list(delta.get("tool_calls")) if isinstance(call, dict)]
    # The older form, which allows one call.
    legacy = delta.get("function_call")
    return calls or ([{"index": 0, "function": legacy}] if isinstance(legacy, dict) else [])


def call_fields(call: JSON) -> tuple[str, str, str]:
    """Id, name and arguments of a call's delta; each may be empty. Some servers send them without `function`."""
    function = next((call[name] for name in ("function", "custom") if isinstance(call.get(name), dict)), call)
    arguments = next((function[name] for name in _ARGUMENTS if function.get(name)), "")
    if not isinstance(arguments, str):
        arguments = orjson.dumps(arguments).decode()
    call_id = _string(call.get("id")) or _string(call.get("call_id"))
    return call_id, _string(function.get("name")), arguments


# --- sources ----------------------------------------------------------------------------------------------------


def annotations_of(delta: JSON) -> list[dict[str, Any]]:
    """The annotations of a delta or a message, in the contract's shape."""
    return [_annotation(one) for one in _list(delta.get("annotations")) if isinstance(one, dict)]


def sources_of(completion: JSON) -> list[dict[str, Any]]:
    """Sources that stand beside the answer: URLs, or objects with a URL. Nothing says which words they belong to."""
    found = next(filter(None, (_list(completion.get(name)) for name in _SOURCES)), [])
    sources = [one if isinstance(one, dict) else {"url": one} for one in found]
    return [_citation(source) for source in sources if _string(source.get("url"))]


def _annotation(annotation: dict[str, Any]) -> dict[str, Any]:
    inner = annotation.get("url_citation")
    if isinstance(inner, dict):
        return _citation(inner)
    return _citation(annotation) if annotation.get("type", "url_citation") == "url_citation" else annotation


def _citation(source: JSON) -> dict[str, Any]:
    places = {name: place if type(place := source.get(name)) is int else 0 for name in ("start_index", "end_index")}
    return {"type": "url_citation", "url": _string(source.get("url")), "title": _string(source.get("title")), **places}


def _list(value: object) -> list[Any]:
    if isinstance(value, list):
        return value
    return [value] if isinstance(value, dict) else []


def _string(value: object) -> str:
    return value if isinstance(value, str) else ""
