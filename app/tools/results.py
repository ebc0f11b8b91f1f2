"""What a tool has answered, as the client, the store and the model get it. Pure: values in, values out.

Blocks of text are joined. Everything else has a short label in the text, and pictures go to the model beside it. A long
text is cut on the border of a character and says so; a picture is passed on whole or left out.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import orjson

from app.contract.tools import Link, ToolOutcome

JSON = Mapping[str, Any]
#: Removes a server's secrets from its words.
Redact = Callable[[str], str]

#: Most characters of base64 of all pictures of a result. Model servers take about 5 MB a picture.
MOST_OF_PICTURES = 4 * 1024 * 1024

_KIB = 1024
#: A group of 4 characters of base64 stands for 3 bytes.
_BASE64 = (3, 4)
_NO_WORDS = "The tool reported an error and gave no reason."


def outcome_of(result: JSON, max_result: int, redact: Redact) -> ToolOutcome:
    """`result`: a CallToolResult of MCP as JSON. `max_result`: most bytes of its text."""
    read = _Reading(redact)
    blocks = [block for block in result.get("content") or () if isinstance(block, Mapping)]
    for block in blocks:
        read.add(block)
    structured = result.get("structuredContent")
    text = "\n".join(read.texts)
    if not text and structured is not None:
        text = redact(_json(structured))
    text = cut(text, max_result)
    if result.get("isError"):
        words = text or _NO_WORDS
        return ToolOutcome(error=_execution_error(blocks, words, max_result, redact), text_for_model=words)
    return ToolOutcome(
        output=text,
        text_for_model=text,
        images=tuple(read.pictures),
        structured=structured,
        links=tuple(read.links),
    )


def cut(text: str, limit: int) -> str:
    """The text in at most `limit` bytes. A cut one ends with a note, which counts."""
    data = text.encode()
    if len(data) <= limit:
        return text
    # The note says how much is left out, which depends on the note's own length.
    note = _note(len(data), len(data))
    left = data[: max(0, limit - len(note.encode()))].decode(errors="ignore")
    return left + _note(len(data) - len(left.encode()), len(data))


def _note(left_out: int, whole: int) -> str:
    return f"\n[cut: {size(left_out)} of {size(whole)} left out]"


def size(count: int) -> str:
    """A number of bytes for people: "812 bytes", "120 KB", "4.2 MB"."""
    if count < _KIB:
        return f"{count} bytes"
    if count < _KIB * _KIB:
        return f"{count // _KIB} KB"
    return f"{count / (_KIB * _KIB):.1f} MB"


def _execution_error(blocks: Sequence[JSON], words: str, max_result: int, redact: Redact) -> JSON:
    """The server's own blocks, unless they are too large or cannot be written."""
    content: Any = [{"type": "text", "text": words}]
    try:
        written = orjson.dumps(blocks)
    except TypeError:
        written = b""
    if blocks and 0 < len(written) <= max_result:
        content = _redacted(blocks, redact)
    return {"type": "mcp_tool_execution_error", "content": content}


def _redacted(value: Any, redact: Redact) -> Any:
    if isinstance(value, str):
        return redact(value)
    if isinstance(value, Mapping):
        return {name: _redacted(inner, redact) for name, inner in value.items()}
    return [_redacted(inner, redact) for inner in value] if isinstance(value, list | tuple) else value


@dataclass(slots=True)
class _Reading:
    """What the blocks of a result have brought so far."""

    redact: Redact
    texts: list[str] = field(default_factory=list)
    pictures: list[JSON] = field(default_factory=list)
    links: list[Link] = field(default_factory=list)
    _of_pictures: int = 0

    def add(self, block: JSON) -> None:
        read = _READERS.get(block.get("type", ""))
        if read is not None:
            read(self, block)

    def add_text(self, block: JSON) -> None:
        self.texts.append(self.redact(str(block.get("text", ""))))

    def add_picture(self, block: JSON) -> None:
        data, mime = str(block.get("data", "")), str(block.get("mimeType", "image/png"))
        label = f"image: {mime}, {_decoded_size(data)}"
        if self._of_pictures + len(data) > MOST_OF_PICTURES:
            self.texts.append(f"[{label}, too large to be passed on]")
            return
        self._of_pictures += len(data)
        self.texts.append(f"[{label}]")
        self.pictures.append({"type": "input_image", "image_url": f"data:{mime};base64,{data}", "detail": "auto"})

    def add_audio(self, block: JSON) -> None:
        mime = block.get("mimeType", "audio")
        self.texts.append(f"[audio: {mime}, {_decoded_size(str(block.get('data', '')))}]")

    def add_link(self, block: JSON) -> None:
        uri = self.redact(str(block.get("uri", "")))
        title = self.redact(str(block.get("title") or block.get("name") or ""))
        self.links.append(Link(uri, title))
        words = [f"{title}: {uri}" if title else uri]
        if block.get("description"):
            words.append(self.redact(str(block["description"])))
        self.texts.append("\n".join(words))

    def add_resource(self, block: JSON) -> None:
        resource = block.get("resource")
        if not isinstance(resource, Mapping):
            return
        mime = str(resource.get("mimeType") or "application/octet-stream")
        if "text" in resource:
            self.add_text(resource)
        elif mime.startswith("image/"):
            self.add_picture({"data": resource.get("blob", ""), "mimeType": mime})
        else:
            self.texts.append(f"[file: {mime}, {_decoded_size(str(resource.get('blob', '')))}]")


#: By the type of a block. Other types are of later versions of MCP.
_READERS: Mapping[str, Callable[[_Reading, JSON], None]] = {
    "text": _Reading.add_text,
    "image": _Reading.add_picture,
    "audio": _Reading.add_audio,
    "resource_link": _Reading.add_link,
    "resource": _Reading.add_resource,
}


def _decoded_size(data: str) -> str:
    decoded, encoded = _BASE64
    return size(len(data) * decoded // encoded)


def _json(value: Any) -> str:
    """Unlike orjson, it writes numbers of any size."""
    return json.dumps(value, ensure_ascii=False)
