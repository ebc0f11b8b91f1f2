"""Turns of trees that were never stored, for what is pure."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from app.contract.outline import Outline
from app.contract.usage import Usage
from app.store.tree import Node

ASKED = Outline(asked=True, message=True)
RESULTS = Outline(results=1, calls={"exec_command": 1})

PLAIN = Node(
    key=0,
    id="",
    parent=None,
    inferred=False,
    retry_of=None,
    started_by=None,
    started=(),
    subagent=None,
    owner="ada",
    token=None,
    status="completed",
    stored=True,
    deleted=False,
    streamed=False,
    model="m",
    channel="a",
    upstream_model=None,
    request_id=None,
    client=None,
    created_at=1_790_000_000,
    completed_at=1_790_000_001,
    first_byte_ms=700,
    total_ms=2000,
    usage=None,
    attempts=(),
    compacted=False,
    compaction=None,
    error=None,
    incomplete_details=None,
    branch=1,
    depth=None,
    outline=RESULTS,
)


def turn(key: int, parent: int | None = None, **facts: Any) -> Node:
    """`resp_<key>`, in the branch of the root unless stated."""
    above = None if parent is None else id_of(parent)
    return replace(PLAIN, key=key, id=id_of(key), parent=above, **facts)


def id_of(key: int) -> str:
    return f"resp_{key:048x}"


def line(first: int, last: int, parent: int | None = None, **facts: Any) -> list[Node]:
    """Turns that follow each other, the first one after `parent`."""
    parents = [parent, *range(first, last)]
    return [turn(key, above, **facts) for key, above in zip(range(first, last + 1), parents, strict=True)]


def used(tokens: int, cached: int = 0, **more: Any) -> dict[str, Any]:
    return {"usage": Usage(tokens, cached, output_tokens=10, **more)}
