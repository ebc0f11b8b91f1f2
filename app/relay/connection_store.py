"""Unstored responses of one connection, which its later turns can continue."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress

from app.contract.records import CHAINABLE, Chain, Draft, Link, Outcome, StoredResponse, ToolCall, UpstreamResponse
from app.errors import Overloaded, PayloadTooLarge
from app.memory import Share
from app.store.errors import HistoryError
from app.store.responses import ResponseStore
from app.store.tool_calls import ToolCallStore

#: Responses that one connection remembers, and the bytes of their contexts in total.
_RESPONSES = 16
_BYTES = 64 * 1024 * 1024


class ConnectionStore:
    """The store's responses, and the latest unstored ones of this connection. The store holds no content of unstored
    responses, so only `chain` and `note` differ. What their hosted tools have found is remembered with them.
    """

    def __init__(self, responses: ResponseStore, share: Share) -> None:
        """`share`: the connection's part of the memory for large bodies; `clear` closes it."""
        self._responses = responses
        self._share = share
        self._chains: OrderedDict[str, Chain] = OrderedDict()
        self._results: dict[str, dict[str, bytes]] = {}
        """What hosted tools have found, by the response and the call's item."""
        self._read: tuple[str | None, Chain] = (None, Chain())

    def __contains__(self, response_id: object) -> bool:
        return response_id in self._chains

    def chain(self, owner: str, response_id: str) -> Chain:
        chain = self._chains.get(response_id) or self._responses.chain(owner, response_id)
        self._read = (response_id, chain)
        return chain

    def note(self, draft: Draft, outcome: Outcome) -> None:
        if not draft.stored and outcome.status in CHAINABLE:
            # A response whose parent was deleted meanwhile cannot be continued.
            with suppress(HistoryError):
                self._remember(draft, outcome)
        self._responses.note(draft, outcome)

    def begin(self, draft: Draft, channel: str | None = None) -> None:
        self._responses.begin(draft, channel)

    def note_channel(self, response_id: str, channel: str) -> None:
        self._responses.note_channel(response_id, channel)

    def finish(self, draft: Draft, outcome: Outcome) -> bool:
        return self._responses.finish(draft, outcome)

    def finish_later(self, draft: Draft, outcome: Outcome) -> None:
        self._responses.finish_later(draft, outcome)

    def full_chain(self, owner: str, response_id: str) -> Chain:
        return self._responses.full_chain(owner, response_id)

    def read(self, owner: str, response_id: str) -> StoredResponse | None:
        return self._responses.read(owner, response_id)

    def upstream(self, owner: str, response_id: str) -> UpstreamResponse | None:
        return self._responses.upstream(owner, response_id)

    def cancel(self, owner: str, response_id: str) -> bool:
        return self._responses.cancel(owner, response_id)

    def delete(self, owner: str, response_id: str) -> bool:
        return self._responses.delete(owner, response_id)

    # --- this connection

    def forget(self, response_id: str) -> None:
        self._chains.pop(response_id, None)

    def remember_results(self, response_id: str, results: Mapping[str, bytes]) -> None:
        """Remembers what hosted tools have found, by the items of their calls, as long as the response is. Its turn
        counts their memory until the response is remembered."""
        self._results.setdefault(response_id, {}).update(results)

    def results(self, item_ids: Collection[str]) -> dict[str, bytes]:
        return {
            item_id: result
            for results in self._results.values()
            for item_id, result in results.items()
            if item_id in item_ids
        }

    def clear(self) -> None:
        """Forgets everything: the connection has ended."""
        self._chains.clear()
        self._results.clear()
        self._read = (None, Chain())
        self._share.close()

    def _remember(self, draft: Draft, outcome: Outcome) -> None:
        before = Chain() if outcome.compacted or draft.parent is None else self._before(draft.owner, draft.parent)
        links = (*before.links, _link(draft, outcome))
        self._chains[draft.id] = Chain(links, outcome.compacted or before.compacted, origin=before.origin)
        while len(self._chains) > _RESPONSES or sum(map(_size, self._chains.values())) > _BYTES:
            self._chains.popitem(last=False)
        while not self._has_room():
            self._chains.popitem(last=False)

    def _has_room(self) -> bool:
        """Whether the memory holds all chains. Shared links count once. Does not wait for other requests' memory."""
        links = {link.id: link for chain in self._chains.values() for link in chain.links}
        self._results = {response_id: found for response_id, found in self._results.items() if response_id in links}
        held = sum(map(_link_size, links.values())) + sum(map(_results_size, self._results.values()))
        self._share.shrink(held)
        try:
            self._share.grow(held - self._share.size, max_wait=0.0)
        except (PayloadTooLarge, Overloaded):
            return False
        return True

    def _before(self, owner: str, parent: str) -> Chain:
        """The parent's chain as the turn read it at its start: the parent may have been deleted since."""
        read, chain = self._read
        return chain if read == parent else self.chain(owner, parent)


class ConnectionToolCalls:
    """The store's calls of tools, and what hosted tools have found for the unstored responses of a connection."""

    def __init__(self, tool_calls: ToolCallStore, connection_store: ConnectionStore) -> None:
        self._tool_calls = tool_calls
        self._connection_store = connection_store

    def begin(self, owner: str, response: str, calls: Sequence[ToolCall]) -> None:
        self._tool_calls.begin(owner, response, calls)

    def start(self, owner: str, response: str, calls: Sequence[ToolCall]) -> None:
        self._tool_calls.start(owner, response, calls)

    def end(self, owner: str, response: str, calls: Sequence[ToolCall]) -> None:
        found = {call.item_id: call.result for call in calls if call.result is not None and not call.stored}
        if found:
            self._connection_store.remember_results(response, found)
        self._tool_calls.end(owner, response, calls)

    def settle(self) -> None:
        self._tool_calls.settle()

    def of_response(self, owner: str, response: str) -> list[ToolCall]:
        return self._tool_calls.of_response(owner, response)

    def results(self, owner: str, item_ids: Sequence[str]) -> Mapping[str, bytes]:
        found = self._connection_store.results(frozenset(item_ids))
        missing = [item_id for item_id in item_ids if item_id not in found]
        return {**self._tool_calls.results(owner, missing), **found} if missing else found


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


def _results_size(results: Mapping[str, bytes]) -> int:
    return sum(map(len, results.values()))


def _link_size(link: Link) -> int:
    return len(link.input) + len(link.output)
