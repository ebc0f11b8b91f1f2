"""The context of a turn where compaction items stand in it: what they open to, and how one channel can read it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

import orjson

from app.errors import InvalidRequest
from app.records import Chain, Link
from app.relay.compacting import Opened, is_ours, open_item, said
from app.relay.ports import Store
from app.sealing import PREFIX, Seal
from app.turn import Item, Turn

_SENT_ON = frozenset({"user", "system", "developer"})
_MARK = PREFIX.encode()


class Contexts:
    def __init__(self, store: Store, seal: Seal) -> None:
        self._store = store
        self._seal = seal

    def load(self, owner: str, response_id: str) -> Chain:
        """The chain from its newest compaction on, which is opened; a native one stays for `fit`."""
        chain = self._store.chain(owner, response_id)
        return self._opened(owner, chain) if chain.compacted else chain

    def expand(self, owner: str, items: Sequence[Item]) -> list[Item]:
        """A client's own input with its newest compaction item opened.

        Of what stands before it the messages of users and instructors are sent on; the rest is what the item stands
        for. Messages that the item kept word for word are not sent twice.
        """
        newest = next((at for at in range(len(items) - 1, -1, -1) if items[at].get("type") == "compaction"), None)
        if newest is None:
            return list(items)
        opened = self._open_known(owner, items[newest])
        kept = {(item.get("role"), said(item)) for item in opened if item.get("type") == "message"}
        before = [
            item
            for item in items[:newest]
            if item.get("role") in _SENT_ON and (item.get("role"), said(item)) not in kept
        ]
        return [*before, *opened, *items[newest + 1 :]]

    def fit(self, turn: Turn, family: str) -> Turn:
        """The turn as a channel of this family can read it. On another family's channel the stored originals take the
        place of a native compaction, or a note where nothing was stored."""
        head = turn.chain.links[0] if turn.chain.links else None
        if head is not None and _MARK in head.output:
            turn = replace(turn, chain=self._fitted(turn.owner, turn.chain, head, family))
        if any(is_ours(item) for item in turn.input):
            turn = replace(turn, input=[*self._for_family(turn.owner, turn.input, family)])
        return turn

    def items(self, turn: Turn) -> list[Item]:
        """The whole context before the turn's own input, as items; native compactions as their originals."""
        chain = self.fit(turn, "").chain
        return [item for link in chain.links for array in (link.input, link.output) for item in orjson.loads(array)]

    def _opened(self, owner: str, chain: Chain) -> Chain:
        head, *rest = chain.links
        try:
            items = [opened for item in orjson.loads(head.output) for opened in self._open_if_ours(owner, item)]
        except InvalidRequest:
            # Sealed with a key that is gone: the originals are still here.
            return self._originals(owner, chain)
        return Chain((replace(head, input=b"[]", output=orjson.dumps(items)), *rest))

    def _fitted(self, owner: str, chain: Chain, head: Link, family: str) -> Chain:
        items = orjson.loads(head.output)
        natives = [open_item(self._seal, owner, item) for item in items if is_ours(item)]
        if any(opened.family != family for opened in natives):
            return self._originals(owner, chain)
        fitted = self._for_family(owner, items, family)
        return Chain((replace(head, output=orjson.dumps([*fitted]), family=family), *chain.links[1:]))

    def _originals(self, owner: str, chain: Chain) -> Chain:
        """The history behind every compaction."""
        whole = self._store.full_chain(owner, chain.links[-1].id)
        return Chain(tuple(_without_compactions(link) for link in whole.links))

    def _for_family(self, owner: str, items: Iterable[Item], family: str) -> Iterable[Item]:
        for item in items:
            if is_ours(item):
                yield from open_item(self._seal, owner, item).for_family(family)
            else:
                yield item

    def _open_known(self, owner: str, item: Item) -> Sequence[Item]:
        return list(self._open_if_ours(owner, item))

    def _open_if_ours(self, owner: str, item: Item) -> Iterable[Item]:
        """What a sealed item opens to. A native one stays: only the channel that is asked decides how it is read."""
        if not is_ours(item):
            return [item]
        opened: Opened = open_item(self._seal, owner, item)
        return [item] if opened.native is not None else opened.items


def _without_compactions(link: Link) -> Link:
    if b'"compaction"' not in link.output:
        return link
    items = [item for item in orjson.loads(link.output) if item.get("type") != "compaction"]
    return replace(link, output=orjson.dumps(items))
