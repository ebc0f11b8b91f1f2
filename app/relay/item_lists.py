"""Lists of items as the API returns them: a model's whole context, each item with the members that clients expect."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import orjson

from app.contract.items import WITH_STATUS, Item, derive_item_id
from app.contract.records import Chain, StoredResponse
from app.contract.redaction import redacted_item
from app.errors import unknown_after
from app.schemas.listing import PageRequest

_PLAIN_PART = {"assistant": "output_text"}


def context_items(chain: Chain, stored: StoredResponse) -> list[Item]:
    """The input and output of the ancestors, then the response's own input, oldest first. Compactions are left out."""
    listed: list[Item] = []
    for position, link in enumerate(chain.links):
        if not (chain.compacted and position == 0):
            listed += _as_listed_all(orjson.loads(link.input), link.id)
        listed += _as_listed_all(orjson.loads(link.output), link.id)
    listed += _as_listed_all(stored.input_items(), stored.id)
    return [item for item in listed if item.get("type") != "compaction"]


def list_page(items: Sequence[Item], page: PageRequest) -> dict[str, Any]:
    """One page of a list. Raises InvalidRequest when `after` names no listed item."""
    ordered = list(items) if page.order == "asc" else list(reversed(items))
    start = 0
    if page.after is not None:
        start = next((position + 1 for position, item in enumerate(ordered) if item["id"] == page.after), 0)
        if not start:
            raise unknown_after(page.after)
    end = start + page.limit
    return list_object(ordered[start:end], has_more=end < len(ordered))


def list_object(data: Sequence[Item], *, has_more: bool) -> dict[str, Any]:
    """The API's list object."""
    return {
        "object": "list",
        "data": data,
        "first_id": data[0]["id"] if data else None,
        "last_id": data[-1]["id"] if data else None,
        "has_more": has_more,
    }


def _as_listed_all(items: Sequence[Item], response_id: str) -> Iterator[Item]:
    for position, item in enumerate(items):
        yield as_listed(item, response_id, position)


def as_listed(item: Item, response_id: str, position: int) -> Item:
    """The item with an id, a status and content as parts."""
    kind = str(item.get("type"))
    # Rows of earlier versions may hold credentials.
    whole = {name: value for name, value in redacted_item(item).items() if name != "id"}
    whole = {"id": item.get("id") or derive_item_id(kind, response_id, position), **whole}
    if kind in WITH_STATUS:
        whole["status"] = item.get("status") or "completed"
    if kind == "message":
        whole["content"] = _parts(item.get("content"), item.get("role"))
    elif isinstance(item.get("output"), list) and kind in ("function_call_output", "custom_tool_call_output"):
        whole["output"] = [_part(part) for part in item["output"]]
    elif kind == "reasoning":
        whole.setdefault("summary", [])
    return whole


def _parts(content: object, role: object) -> list[Any]:
    kind = _PLAIN_PART.get(str(role), "input_text")
    if isinstance(content, str):
        content = [{"type": kind, "text": content}]
    return [_part(part) for part in content] if isinstance(content, list) else []


def _part(part: Mapping[str, Any]) -> dict[str, Any]:
    whole = dict(part)
    if part.get("type") == "output_text":
        whole["annotations"] = part.get("annotations") or []
        whole["logprobs"] = part.get("logprobs") or []
    elif part.get("type") == "input_image":
        whole["detail"] = part.get("detail") or "auto"
    return whole
