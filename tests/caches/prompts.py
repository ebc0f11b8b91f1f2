"""A request as a prompt cache sees it: the parts of its prompt, in the order in which the model reads them.

A token is four bytes of the rendered prompt. Marks for the cache are no part of it, and neither are sampling, metadata
and keys.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from hashlib import blake2b
from itertools import accumulate
from typing import Any

import orjson

JSON = dict[str, Any]

TOKEN = 4
_MARKS = ("cache_control", "prompt_cache_breakpoint")
_DIGEST = 8


@dataclass(frozen=True, slots=True)
class Part:
    """A tool, instructions, an item or a content block."""

    text: bytes
    is_marked: bool = False
    """The request asks to cache the prompt up to here."""
    ends_input: bool = False
    """The client's own words or a tool's output end here."""


@dataclass(frozen=True)
class Prompt:
    parts: tuple[Part, ...]

    @cached_property
    def text(self) -> bytes:
        whole = b"".join(part.text for part in self.parts)
        return whole[: len(whole) // TOKEN * TOKEN]

    @property
    def tokens(self) -> int:
        return len(self.text) // TOKEN

    @cached_property
    def ends(self) -> list[int]:
        """The tokens up to the end of each part."""
        return [size // TOKEN for size in accumulate(len(part.text) for part in self.parts)]

    def digests(self, step: int) -> list[bytes]:
        """A digest of each prefix whose length is a multiple of so many tokens."""
        size, running, found = step * TOKEN, blake2b(digest_size=_DIGEST), []
        for start in range(0, len(self.text) - size + 1, size):
            running.update(self.text[start : start + size])
            found.append(running.digest())
        return found

    def digests_of_parts(self) -> list[bytes]:
        """A digest of the prefix up to the end of each part."""
        running, found = blake2b(digest_size=_DIGEST), []
        for part in self.parts:
            running.update(part.text)
            found.append(running.digest())
        return found

    def shared(self, other: Prompt) -> int:
        """The tokens that both begin with."""
        if self.text.startswith(other.text):
            return other.tokens
        low, high = 0, min(len(self.text), len(other.text))
        while low < high:
            middle = (low + high + 1) // 2
            low, high = (middle, high) if self.text[low:middle] == other.text[low:middle] else (low, middle - 1)
        return low // TOKEN


def prompt_of(path: str, body: Mapping[str, Any]) -> Prompt:
    """The prompt of a request to this path of the API."""
    return Prompt(tuple(_READERS[path](body)))


def reads(path: str) -> bool:
    """Whether requests to this path have a prompt."""
    return path in _READERS


def _of_responses(body: Mapping[str, Any]) -> Iterator[Part]:
    if form := (body.get("text") or {}).get("format"):
        yield _part(form)
    yield from map(_part, body.get("tools") or ())
    if body.get("instructions"):
        yield _part(body["instructions"])
    for item in _items(body["input"]):
        is_output = str(item.get("type")).endswith("_output")
        yield _part(item, marked=_marked_inside(item), ends_input=is_output or item.get("role") == "user")


def _of_chat(body: Mapping[str, Any]) -> Iterator[Part]:
    if form := body.get("response_format"):
        yield _part(form)
    yield from map(_part, body.get("tools") or ())
    for message in body["messages"]:
        yield _part(message, marked=_marked_inside(message), ends_input=message["role"] in ("user", "tool"))


def _of_messages(body: Mapping[str, Any]) -> Iterator[Part]:
    """Tools, system, messages; a change of `tool_choice` or `thinking` invalidates what stands behind the system."""
    for tool in body.get("tools") or ():
        yield _part(tool, marked="cache_control" in tool)
    for block in _blocks(body.get("system") or ()):
        yield _part(block, marked="cache_control" in block)
    yield _part({name: body[name] for name in ("tool_choice", "thinking") if name in body})
    for message in body["messages"]:
        for block in _blocks(message["content"]):
            is_user = message["role"] == "user"
            yield _part({"role": message["role"], **block}, marked="cache_control" in block, ends_input=is_user)


_READERS: dict[str, Callable[[Mapping[str, Any]], Iterable[Part]]] = {
    "/v1/responses": _of_responses,
    "/v1/chat/completions": _of_chat,
    "/v1/messages": _of_messages,
}


def _items(given: str | Sequence[JSON]) -> Sequence[JSON]:
    return [{"role": "user", "content": given}] if isinstance(given, str) else given


def _blocks(content: str | Sequence[JSON]) -> Sequence[JSON]:
    return [{"type": "text", "text": content}] if isinstance(content, str) else content


def _part(value: Any, *, marked: bool = False, ends_input: bool = False) -> Part:
    return Part(orjson.dumps(_without_marks(value)), marked, ends_input)


def _marked_inside(item: Mapping[str, Any]) -> bool:
    """Whether one of the content parts of an item or a message is marked."""
    contents = (item.get("content"), item.get("output"))
    return any(mark in part for content in contents if isinstance(content, list) for part in content for mark in _MARKS)


def _without_marks(value: Any) -> Any:
    if isinstance(value, list):
        return [_without_marks(element) for element in value]
    if isinstance(value, dict):
        return {name: _without_marks(inner) for name, inner in value.items() if name not in _MARKS}
    return value
