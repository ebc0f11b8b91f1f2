"""Writes the steps of a conversation as Anthropic's messages: user and assistant alternate, each with content blocks.

The first and the last message are the user's; results come first in the message after their calls; empty text is left
out.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import mimetypes
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

from app import nesting
from app.contract.channel import Channel
from app.contract.items import Item
from app.formats._caching import MARKS, Marks, divided, marks_of
from app.formats._conversation import (
    AssistantPart,
    AssistantText,
    AssistantTurn,
    Call,
    ClientMessage,
    Instruction,
    Part,
    Reasoning,
    Silence,
    is_text,
    steps,
    text_of,
    unreadable,
)
from app.formats._images import true_type
from app.formats._message_order import GO_ON
from app.formats._toolbox import Toolbox
from app.formats.messages import _thinking_blocks

Block = dict[str, Any]

_DATA_URL = re.compile(r"data:([^;,]*)((?:;[^;,]*)*),(.*)", re.DOTALL)
_UNFIT = re.compile(r"[^a-zA-Z0-9_-]")
_LONGEST_ID = 64
_IMAGE_TYPES = {"image/jpg": "image/jpeg"}
_PDF = "application/pdf"


def carries(part: Part) -> bool:
    """Whether a block can express this content part."""
    return is_text(part) or _shown(part) is not None


def conversation(
    items: Sequence[Item], instructions: Iterable[tuple[str, Marks]], row: Channel, model: str, toolbox: Toolbox
) -> tuple[list[Block], list[Block]]:
    """The system prompt's blocks, and the messages. Blocks have the marks for the cache that the client set."""
    builder = _MessageBuilder(row, model)
    for text, marks in instructions:
        builder.add_instruction(text, marks)
    for step in steps(items, toolbox):
        match step:
            case Instruction(text, marks):
                builder.add_instruction(text, marks)
            case ClientMessage(content):
                builder.add("user", _content(content))
            case Silence():
                builder.add_silence()
            case AssistantTurn(parts):
                builder.add_assistant_turn(parts)
    return builder.finished()


class _MessageBuilder:
    """Builds the messages in order. Consecutive blocks of one role are one message."""

    def __init__(self, row: Channel, model: str) -> None:
        self._row = row
        self._model = model
        self._system: list[Block] = []
        self._messages: list[Block] = []
        self._ids: set[str] = set()
        self._was_silent = False
        """The last message was the user's, and empty."""

    def add_instruction(self, text: str, marks: Marks) -> None:
        """Adds an instruction: leading ones form the system prompt, later ones become user text."""
        block = {**_text(text), **marks}
        if self._messages:
            self.add("user", [block])
        else:
            self._system.append(block)

    def add(self, role: str, blocks: Iterable[Block]) -> None:
        content = [block for block in blocks if _has_content(block)]
        last_role = self._messages[-1]["role"] if self._messages else None
        if content and self._was_silent and role == last_role == "assistant":
            self._messages.append({"role": "user", "content": [_text(GO_ON)]})
            last_role = "user"
        self._was_silent = self._was_silent and not content
        if content and last_role == role:
            self._messages[-1]["content"] += content
        elif content:
            self._messages.append({"role": role, "content": content})

    def add_silence(self) -> None:
        """Adds an empty message of the user: it separates what the assistant says before and behind it."""
        self._was_silent = True

    def add_assistant_turn(self, parts: Sequence[AssistantPart]) -> None:
        """Adds the assistant's message and the results of its calls."""
        blocks = list(parts)
        while blocks and isinstance(blocks[-1], Reasoning):
            # The API refuses a message that ends with thinking.
            blocks.pop()
        ids = {id(part): self._id(part.id) for part in blocks if isinstance(part, Call)}
        self.add("assistant", (block for part in blocks for block in self._blocks_of(part, ids)))
        self.add("user", (_result(part, ids[id(part)]) for part in blocks if isinstance(part, Call)))

    def finished(self) -> tuple[list[Block], list[Block]]:
        groups = divided(self._system)
        system = [{**_text("\n\n".join(block["text"] for block in blocks)), **marks} for blocks, marks in groups]
        if self._messages and self._messages[0]["role"] == "assistant":
            self._messages.insert(0, {"role": "user", "content": [_text(GO_ON)]})
        if not self._messages or self._messages[-1]["role"] == "assistant":
            self.add("user", [_text(GO_ON)])
        return system, self._messages

    def _blocks_of(self, part: AssistantPart, ids: Mapping[int, str]) -> Iterator[Block]:
        match part:
            case AssistantText(text, marks):
                yield {**_text(text), **marks}
            case Reasoning():
                if block := self._thinking_block(part):
                    yield block
            case Call(name=name, arguments=arguments, marks=marks):
                yield {"type": "tool_use", "id": ids[id(part)], "name": name, "input": _input(arguments), **marks}

    def _thinking_block(self, reasoning: Reasoning) -> Block | None:
        """The original thinking block for the model that wrote it; unsigned text for servers that want it."""
        if block := _thinking_blocks.opened(reasoning.item.get("encrypted_content"), self._model):
            return block
        unsigned = self._row.reasoning_text and reasoning.text
        return {"type": "thinking", "thinking": reasoning.text, "signature": ""} if unsigned else None

    def _id(self, call_id: str) -> str:
        """A valid id that is unique among the calls of this conversation."""
        fitted = call_id if call_id and not _UNFIT.search(call_id) and len(call_id) <= _LONGEST_ID else _fitted(call_id)
        unique, number = fitted, 1
        while unique in self._ids:
            number += 1
            unique = _fitted(f"{fitted}/{number}")
        self._ids.add(unique)
        return unique


def _input(arguments: str) -> Any:
    """A call's arguments as an object, as this API requires; as text inside one if they cannot be written."""
    try:
        return nesting.loads(arguments, nesting.FROM_CLIENTS)
    except nesting.TooDeep:
        return {"arguments": arguments}


def _fitted(call_id: str) -> str:
    return f"call_{hashlib.sha256(call_id.encode()).hexdigest()[:48]}"


def _result(call: Call, call_id: str) -> Block:
    """A mark inside the result stands at the result: the API caches up to whole results."""
    blocks = [block for block in _blocks(call.result) if _has_content(block)]
    content = [{name: value for name, value in block.items() if name not in MARKS} for block in blocks]
    result: Block = {"type": "tool_result", "tool_use_id": call_id}
    if content:
        result["content"] = content
    if call.failed:
        result["is_error"] = True
    return result | next(filter(None, map(marks_of, reversed(blocks))), {})


# --- content ----------------------------------------------------------------------------------------------------


def _has_content(block: Block) -> bool:
    """Whether the block may be sent: the API refuses blank text."""
    return block["type"] != "text" or bool(block["text"].strip())


def _text(text: str) -> Block:
    return {"type": "text", "text": text}


def _content(content: str | Sequence[Part]) -> Iterable[Block]:
    return [_text(content)] if isinstance(content, str) else _blocks(content)


def _blocks(parts: Iterable[Part]) -> Iterator[Block]:
    for part in parts:
        block = _text(text_of([part])) if is_text(part) else _shown(part) or _text(unreadable(part))
        yield {**block, **marks_of(part)}


def _shown(part: Part) -> Block | None:
    read = _PARTS.get(str(part.get("type")))
    return read(part) if read else None


def _image(part: Part) -> Block | None:
    url = part.get("image_url")
    if not isinstance(url, str):
        return None
    if url.startswith(("https://", "http://")):
        return {"type": "image", "source": {"type": "url", "url": url}}
    given = _data(url)
    return _image_of(*given) if given else None


def _image_of(media_type: str, data: str) -> Block:
    known = true_type(_IMAGE_TYPES.get(media_type, media_type), data)
    return {"type": "image", "source": {"type": "base64", "media_type": known, "data": data}}


def _file(part: Part) -> Block | None:
    titled = {"title": part["filename"]} if isinstance(part.get("filename"), str) and part["filename"] else {}
    if isinstance(part.get("file_url"), str):
        return {"type": "document", "source": {"type": "url", "url": part["file_url"]}, **titled}
    if not isinstance(part.get("file_data"), str):
        return None
    guessed = mimetypes.guess_type(part.get("filename") or "")[0] or _PDF
    media_type, data = _data(part["file_data"]) or (guessed, part["file_data"])
    if media_type.startswith("image/"):
        return _image_of(media_type, data)
    source = _document(media_type, data)
    return {"type": "document", "source": source, **titled} if source else None


def _document(media_type: str, data: str) -> Block | None:
    if media_type == _PDF:
        return {"type": "base64", "media_type": _PDF, "data": data}
    if media_type.startswith("text/") or media_type == "application/json":
        try:
            return {"type": "text", "media_type": "text/plain", "data": base64.b64decode(data).decode()}
        except (binascii.Error, UnicodeDecodeError):
            return None
    return None


def _data(url: str) -> tuple[str, str] | None:
    """Type and base64 data of a data URL."""
    match = _DATA_URL.fullmatch(url)
    if match is None or "base64" not in match[2].lower():
        return None
    return match[1].lower(), match[3]


_PARTS: dict[str, Callable[[Part], Block | None]] = {"input_image": _image, "input_file": _file}
