"""Positions of responses in the tree. A position never changes, so it is cached, and a child needs no query for it."""

from __future__ import annotations

from dataclasses import dataclass

from app.store.prompt_digests import START, End

REMEMBERED = 20_000


@dataclass(frozen=True, slots=True)
class TreePosition:
    """`branch` is None when no turn can continue from the response: it is missing, or failed, or was cancelled."""

    pk: int | None
    branch: int | None
    depth: int
    since: int
    root: int | None = None
    """Key of the root of its tree; None for a root."""
    prompt_end: End | None = None
    """Where the digests of its items end, if that is known."""

    @property
    def tree(self) -> int | None:
        """The key of its tree, to which its children belong; None if there is no such response."""
        return self.root or self.pk or None


ROOT = TreePosition(pk=None, branch=None, depth=0, since=0, prompt_end=START)
#: The parent key of a response whose parent is missing. No row has this key, so the chain counts as broken.
LOST = TreePosition(pk=0, branch=None, depth=0, since=0)


class TreePositions:
    def __init__(self) -> None:
        self._known: dict[tuple[str, str], TreePosition] = {}

    def remember(self, owner: str, response_id: str, position: TreePosition) -> None:
        if len(self._known) >= REMEMBERED:
            self._known.clear()
        self._known[owner, response_id] = position

    def find(self, owner: str, response_id: str) -> TreePosition | None:
        return self._known.get((owner, response_id))
