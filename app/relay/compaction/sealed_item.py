"""The sealed compaction item: made, recognised and opened. Values in, values out."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import orjson

from app.contract.items import Item, new_item_id
from app.sealing import Seal, is_sealed

HEADER = "This is a summary of the earlier conversation, made to shorten it. Go on from here as if you had read it all."

TRIMMED = "The earlier part of this conversation was left out to shorten it."

UNREADABLE = "[Part of the earlier conversation was compacted elsewhere and cannot be read here.]"


def text_message(role: str, text: str) -> Item:
    kind = "output_text" if role == "assistant" else "input_text"
    return {"type": "message", "role": role, "content": [{"type": kind, "text": text}]}


def summary_message(summary: str | None) -> Item:
    return text_message("user", f"{HEADER}\n\n{summary}" if summary else TRIMMED)


def is_summary(item: Item) -> bool:
    """Whether this message is one that an opened item begins with: nobody said it."""
    content = item.get("content")
    if item.get("role") != "user" or not isinstance(content, list) or len(content) != 1:
        return False
    text = content[0].get("text", "") if isinstance(content[0], Mapping) else ""
    return isinstance(text, str) and (text.startswith(HEADER) or text in (TRIMMED, UNREADABLE))


def seal_items(seal: Seal, owner: str, items: Sequence[Item]) -> Item:
    """A compaction item that opens to these items."""
    return _sealed(seal, owner, {"items": items})


@dataclass(frozen=True, slots=True)
class Native:
    """An upstream's own compaction item: who made it, and where a family that cannot read it finds the originals."""

    item: Item
    family: str
    channel: str
    response: str | None = None
    """Where the context of this stored response stands for it."""
    originals: Sequence[Item] | None = None
    """What it stands for; within one turn only, never sent out."""


def seal_native(seal: Seal, owner: str, native: Native, verbatim: Sequence[Item]) -> Item:
    """An upstream's own compaction item, wrapped; behind it come the items that are kept word for word."""
    return _sealed(seal, owner, {"native": asdict(native), "items": verbatim})


def portable(items: Iterable[Item]) -> Iterable[Item]:
    """Items as any upstream can read them: reasoning that only its maker can decrypt is left out."""
    for item in items:
        if item.get("type") != "reasoning":
            yield item
        elif item.get("content"):
            yield {name: value for name, value in item.items() if name != "encrypted_content"}


def _sealed(seal: Seal, owner: str, content: Mapping[str, Any]) -> Item:
    sealed = seal.close(owner, orjson.dumps(content))
    return {"type": "compaction", "id": new_item_id("compaction"), "encrypted_content": sealed}


def is_ours(item: Item) -> bool:
    return item.get("type") == "compaction" and is_sealed(item.get("encrypted_content"))


@dataclass(frozen=True, slots=True)
class Opened:
    """What a sealed item holds: the items it stands for, or an upstream's own item and those kept behind it."""

    items: Sequence[Item]
    native: Native | None = None


def open_item(seal: Seal, owner: str, item: Item) -> Opened:
    """Raises InvalidRequest, `invalid_encrypted_content`."""
    content = orjson.loads(seal.open(owner, item["encrypted_content"]))
    native = content.get("native")
    return Opened(content["items"], Native(**native) if native else None)


def unreadable() -> Item:
    """Stands where nobody here can read what stood there."""
    return text_message("user", UNREADABLE)
