"""A store in front of the store: what one connection was answered and nobody keeps, so that it can be gone on from
there. It ends with its connection."""

from __future__ import annotations

from collections import OrderedDict
from typing import Any, cast

from app.errors import PayloadTooLarge, Unavailable
from app.memory import Share
from app.records import CHAINABLE, Chain, Draft, Link, Outcome
from app.relay.ports import Store

#: Responses that one connection may go back to, and the bytes of their contexts together.
_RESPONSES = 16
_BYTES = 64 * 1024 * 1024


class Recent:
    """Whatever is not about unstored responses is the store's own business."""

    def __init__(self, store: Store, share: Share) -> None:
        """`share`: of the memory for large bodies, closed by whoever opened it."""
        self._store = store
        self._share = share
        self._chains: OrderedDict[str, Chain] = OrderedDict()
        self._read: tuple[str | None, Chain] = (None, Chain())

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)

    def __contains__(self, response_id: object) -> bool:
        return response_id in self._chains

    def as_store(self) -> Store:
        return cast(Store, self)

    def chain(self, owner: str, response_id: str) -> Chain:
        chain = self._chains.get(response_id) or self._store.chain(owner, response_id)
        self._read = (response_id, chain)
        return chain

    def note(self, draft: Draft, outcome: Outcome) -> None:
        if not draft.kept and outcome.status in CHAINABLE:
            self._remember(draft, outcome)
        self._store.note(draft, outcome)

    def forget(self, response_id: str) -> None:
        self._chains.pop(response_id, None)

    def clear(self) -> None:
        """The connection has ended: nothing can go on from here any more."""
        self._chains.clear()
        self._read = (None, Chain())
        self._share.close()

    def _remember(self, draft: Draft, outcome: Outcome) -> None:
        before = Chain() if outcome.compacted or draft.parent is None else self._before(draft.owner, draft.parent)
        links = (*before.links, _link(draft, outcome))
        self._chains[draft.id] = Chain(links, compacted=outcome.compacted or before.compacted)
        while len(self._chains) > _RESPONSES or sum(map(_size, self._chains.values())) > _BYTES:
            self._chains.popitem(last=False)
        while not self._has_room():
            self._chains.popitem(last=False)

    def _has_room(self) -> bool:
        """Chains share the links that they have in common. Nothing waits for others to give room back."""
        links = {link.id: link for chain in self._chains.values() for link in chain.links}
        held = sum(map(_link_size, links.values()))
        self._share.shrink(held)
        try:
            self._share.grow(held - self._share.size, patience=0.0)
        except (PayloadTooLarge, Unavailable):
            return False
        return True

    def _before(self, owner: str, parent: str) -> Chain:
        """As the turn read it when it was opened: the parent may be gone by now."""
        read, chain = self._read
        return chain if read == parent else self.chain(owner, parent)


def _link(draft: Draft, outcome: Outcome) -> Link:
    usage = outcome.usage
    return Link(
        id=draft.id,
        status=outcome.status,
        channel=outcome.channel,
        family=outcome.family,
        opaque=outcome.opaque,
        input=draft.input,
        output=outcome.output,
        input_tokens=usage.input_tokens if usage else None,
        output_tokens=usage.output_tokens if usage else None,
    )


def _size(chain: Chain) -> int:
    return sum(map(_link_size, chain.links))


def _link_size(link: Link) -> int:
    return len(link.input) + len(link.output)
