"""The sealed compaction item: how it is made, recognised and opened. Values in, values out."""

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
    """Whether this message was made by a compaction: the first message of an opened item."""
    content = item.get("content")
    if item.get("role") != "user" or not isinstance(content, list) or len(content) != 1:
        return False
    text = content[0].get("text", "") if isinstance(content[0], Mapping) else ""
    return isinstance(text, str) and (text.startswith(HEADER) or text in (TRIMMED, UNREADABLE))


def seal_items(seal: Seal, owner: str, items: Sequence[Item], origin: str | None = None) -> Item:
    """A compaction item that opens to these items. `origin`: where the compacted conversation began."""
    return _sealed(seal, owner, {"items": items, "origin": origin})


@dataclass(frozen=True, slots=True)
class Native:
    """An upstream's own compaction item: its maker, and where other families find the original items."""

    item: Item
    family: str
    channel: str
    response: str | None = None
    """Id of the stored response whose context the item replaces."""
    originals: Sequence[Item] | None = None
    """The original items. Set within one turn only and never sent to a client."""


def seal_native(seal: Seal, owner: str, native: Native, verbatim: Sequence[Item], origin: str | None = None) -> Item:
    """An upstream's own compaction item, sealed together with the items kept verbatim. `origin`: as `seal_items`."""
    return _sealed(seal, owner, {"native": asdict(native), "items": verbatim, "origin": origin})


def portable(items: Iterable[Item]) -> Iterable[Item]:
    """Items that any upstream can read. Reasoning without text is left out, since only its upstream can decrypt it."""
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
    """The content of a sealed item: the items it stands for, or an upstream's own item and those kept verbatim."""

    items: Sequence[Item]
    native: Native | None = None
    origin: str | None = None
    """Where the conversation began. Items of earlier versions do not say."""


def open_item(seal: Seal, owner: str, item: Item) -> Opened:
    """Raises InvalidRequest with code `invalid_encrypted_content`."""
    content = orjson.loads(seal.open(owner, item["encrypted_content"]))
    native = content.get("native")
    return Opened(content["items"], Native(**native) if native else None, content.get("origin"))


def unreadable() -> Item:
    """A placeholder for items that cannot be read here."""
    return text_message("user", UNREADABLE)
