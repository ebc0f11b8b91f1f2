"""The context of a turn with compaction items: opens them, and fits them to the family of a channel."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, replace
from functools import partial
from operator import is_

import orjson

from app.contract.channel import Channel
from app.contract.items import CLIENT_ROLES, Item, is_call, unanswered
from app.contract.records import Chain, Link, StoredResponse
from app.contract.replay import replayed, without_orphans
from app.contract.turn import Secret, Turn
from app.errors import InvalidRequest
from app.relay.compaction.plan import content_key
from app.relay.compaction.sealed_item import Native, Opened, is_ours, open_item, portable, unreadable
from app.relay.history_errors import history_errors
from app.relay.tools import history as tool_history
from app.sealing import PREFIX, Seals, is_sealed
from app.store.errors import HistoryError
from app.store.store import Store

_MARK = PREFIX.encode()
#: How the sealed content of reasoning begins that holds a secret of a family. Reasoning text alone has no such mark.
_SECRET = b"\0"
#: The family of no channel, so that nothing native can be read.
_NO_FAMILY = ""


class Contexts:
    def __init__(self, store: Store, seals: Seals) -> None:
        self._store = store
        self._seal = seals.compaction
        self._reasoning = seals.reasoning

    @history_errors()
    def load(self, owner: str, response_id: str) -> Chain:
        """The chain from its newest compaction on, opened. A native item stays sealed until `for_family`."""
        chain = self._store.responses.chain(owner, response_id)
        return self._opened(owner, chain, lambda: self._store.responses.full_chain(owner, response_id))

    @history_errors()
    def load_conversation(self, owner: str, conversation_id: str) -> Chain:
        """As `load`, for a conversation."""
        conversations = self._store.conversations
        chain = conversations.chain(owner, conversation_id)
        return self._opened(owner, chain, lambda: conversations.full_chain(owner, conversation_id))

    @history_errors()
    def before(self, stored: StoredResponse) -> Chain:
        """The context of a response before its own input."""
        owner, conversations = stored.owner, self._store.conversations
        if stored.parent is not None:
            return self.load(owner, stored.parent)
        if stored.conversation is None:
            return Chain()
        place = (owner, stored.conversation, stored.conversation_position)
        return self._opened(owner, conversations.chain(*place), lambda: conversations.full_chain(*place))

    def expand(self, owner: str, items: Sequence[Item]) -> list[Item]:
        """A client's input with sealed reasoning and the newest compaction item opened. A native item stays sealed
        until `for_family`.

        Of the items before the compaction only the messages of users and instructors remain: the compaction item
        stands for the others.
        """
        items = [self._opened_reasoning(owner, item) for item in items]
        newest = next(
            (position for position in range(len(items) - 1, -1, -1) if items[position].get("type") == "compaction"),
            None,
        )
        if newest is None:
            return items
        sent_on = [item for item in items[:newest] if item.get("role") in CLIENT_ROLES]
        return self._open(owner, [*sent_on, *items[newest:]])[0]

    def checked(self, owner: str, items: Iterable[Item]) -> list[Item]:
        """The items as they are stored: seals of the gateway are checked, and sealed reasoning gets its text. Raises
        InvalidRequest."""
        for item in items:
            if is_ours(item):
                open_item(self._seal, owner, item)
        return [{**item, **self._opened_reasoning(owner, item), **_sealed_part(item)} for item in items]

    def _seal_secret(self, owner: str, family: str, secret: Secret) -> str:
        sealed = orjson.dumps({"family": family, **asdict(secret)})
        return self._reasoning.close(owner, _SECRET + sealed)

    def sealer(self, owner: str) -> Callable[[str], str]:
        """A function that seals reasoning text into `encrypted_content`."""
        return lambda text: self._reasoning.close(owner, text.encode())

    def _opened_reasoning(self, owner: str, item: Item) -> Item:
        """Reasoning that the gateway sealed, as text. Raises InvalidRequest."""
        if not _is_sealed_reasoning(item):
            return item
        opened = self._reasoning.open(owner, item["encrypted_content"])
        if not opened.startswith(_SECRET):
            return {**_unsealed(item), "content": [_reasoning_text(opened.decode())]}
        # The secret stays sealed until `for_family`.
        text = orjson.loads(opened.removeprefix(_SECRET))["text"]
        return item if item.get("content") or not text else {**item, "content": [_reasoning_text(text)]}

    def _secret_for(self, owner: str, item: Item, family: str) -> Item:
        """Reasoning that the gateway sealed, as this family made it; for another family without the secret."""
        try:
            opened = self._reasoning.open(owner, item["encrypted_content"])
        except InvalidRequest:
            # The key of the seal is gone.
            return _unsealed(item)
        sealed = orjson.loads(opened.removeprefix(_SECRET)) if opened.startswith(_SECRET) else {}
        if sealed.get("family") != family:
            return _unsealed(item)
        own_id = {"id": sealed["item_id"]} if sealed["item_id"] else {}
        return {**item, "encrypted_content": sealed["value"], **own_id}

    def for_channel(self, turn: Turn, channel: Channel) -> Turn:
        """The turn as this channel can read it: what only its family can open, and calls of tools as it takes them."""
        results = partial(self._store.tool_calls.results, turn.owner)
        return tool_history.for_channel(self.for_family(turn, channel.family), channel, results)

    def for_family(self, turn: Turn, family: str) -> Turn:
        """The turn as a channel of this family can read it. For another family the original items replace a native
        compaction, or a note if they were not stored."""
        turn = _with_links(turn, [self._link_for_family(turn.owner, link, family) for link in turn.chain.links])
        input = turn.input
        if _has_compaction(input) or any(map(_is_sealed_reasoning, input)):
            input = self._read(turn.owner, input, family, family)
        return replace(turn, input=input, seal_secret=partial(self._seal_secret, turn.owner, family))

    def items(self, turn: Turn) -> list[Item]:
        """The context before the turn's own input, as items. Native compactions stay sealed."""
        items: list[Item] = []
        cut: set[int] = set()
        for link in turn.chain.links:
            own = [*items_of(link)]
            items += own
            if link.status == "incomplete":
                cut |= {id(item) for item in own if is_call(item)}
        if cut:
            # The client need not answer the calls of a response that was cut off.
            cut &= {id(call) for call in unanswered([*items, *turn.input])}
        return [*without_orphans([item for item in items if id(item) not in cut])] if cut else items

    def originals(self, owner: str, items: Sequence[Item]) -> list[Item]:
        """The items, with native compactions replaced by the items that they stand for."""
        return self._read(owner, items, _NO_FAMILY)

    def shown(self, turn: Turn) -> Turn:
        """The turn with compactions replaced by the items sealed in them, which a client may refer to."""
        turn = _with_links(turn, [self._shown_link(turn.owner, link) for link in turn.chain.links])
        if _has_compaction(turn.input):
            turn = replace(turn, input=self._visible(turn.owner, turn.input))
        return turn

    def shown_chain(self, owner: str, chain: Chain) -> Chain:
        return replace(chain, links=tuple(self._shown_link(owner, link) for link in chain.links))

    def _shown_link(self, owner: str, link: Link) -> Link:
        if _MARK not in link.input and _MARK not in link.output:
            return link
        return link._replace(input=self.shown_array(owner, link.input), output=self.shown_array(owner, link.output))

    def shown_array(self, owner: str, array: bytes) -> bytes:
        return orjson.dumps(self._visible(owner, orjson.loads(array))) if _MARK in array else array

    def origin(self, turn: Turn) -> str | None:
        """Where the conversation of the turn began: as its chain says, or the newest compaction in its input; None if
        nothing says it."""
        if root := turn.chain.root:
            return root
        given = turn.request.get("input") or ()
        if not _has_compaction(given):
            return None
        newest = next((item for item in reversed(given) if is_ours(item)), None)
        return open_item(self._seal, turn.owner, newest).origin if newest else None

    def native_channel(self, turn: Turn) -> str | None:
        """The channel of the newest native compaction in the turn's own input."""
        if not _has_compaction(turn.input):
            return None
        natives = (open_item(self._seal, turn.owner, item).native for item in reversed(turn.input) if is_ours(item))
        return next((native.channel for native in natives if native is not None), None)

    # --- opening

    def _opened(self, owner: str, chain: Chain, whole: Callable[[], Chain]) -> Chain:
        if not chain.compacted:
            return chain
        head, *rest = chain.links
        try:
            items, origin = self._open(owner, orjson.loads(head.output))
        except InvalidRequest:
            # The key of the seal is gone. The store still has the original items.
            return replace(chain, links=tuple(map(_without_compactions, whole().links)), compacted=False)
        # The reported tokens include the compaction pass, so they do not measure the context.
        opened = head._replace(input=b"[]", output=orjson.dumps(items), input_tokens=None, output_tokens=None)
        # When a conversation was compacted twice at once, the later compaction is the head.
        links = (opened, *map(_without_compactions, rest))
        return replace(chain, links=links, compacted=False, origin=chain.origin or origin)

    def _open(self, owner: str, items: Iterable[Item]) -> tuple[list[Item], str | None]:
        """The items with sealed compaction items opened, except native ones: `for_family` reads those once the channel
        is known. Beside them, where the conversation began, as its newest compaction says."""
        out: list[Item] = []
        origin: str | None = None
        for item in items:
            if not is_ours(item):
                out.append(item)
                continue
            opened = open_item(self._seal, owner, item)
            out = [*_without_repeats(out, opened.items), *(opened.items if opened.native is None else [item])]
            origin = opened.origin or origin
        return out, origin

    def _visible(self, owner: str, items: Iterable[Item]) -> list[Item]:
        visible: list[Item] = []
        for item in items:
            visible += open_item(self._seal, owner, item).items if is_ours(item) else [item]
        return visible

    # --- native compactions

    def _link_for_family(self, owner: str, link: Link, family: str) -> Link:
        """The link as a channel of this family can read it. A link of another family loses its native items."""
        if _MARK not in link.input and _MARK not in link.output:
            return link
        reader = family if link.family in (None, family) else _NO_FAMILY
        input, output = (self._read(owner, orjson.loads(array), reader, family) for array in (link.input, link.output))
        return link._replace(input=orjson.dumps(input), output=orjson.dumps(output), family=link.family or family)

    def _read(self, owner: str, items: Iterable[Item], family: str, secrets: str = _NO_FAMILY) -> list[Item]:
        """The items as `family` can read compactions, and `secrets` the secrets of reasoning."""
        out: list[Item] = []
        for item in items:
            if is_ours(item):
                read = self._opened_for_family(owner, open_item(self._seal, owner, item), family)
                out = [*_without_repeats(out, read), *read]
            else:
                out.append(self._secret_for(owner, item, secrets) if _is_sealed_reasoning(item) else item)
        return out

    def _opened_for_family(self, owner: str, opened: Opened, family: str) -> list[Item]:
        native = opened.native
        if native is None:
            return self._read(owner, opened.items, family)
        if native.family == family:
            return [native.item, *opened.items]
        if native.originals is not None:
            return [*portable(self._read(owner, native.originals, family))]
        stored = self._stored(owner, native)
        return [unreadable(), *opened.items] if stored is None else [*portable(self._read(owner, stored, family))]

    def _stored(self, owner: str, native: Native) -> list[Item] | None:
        """The original context of the compacted response, with every compaction undone; None when it is gone."""
        if native.response is None:
            return None
        try:
            *before, own = self._store.responses.full_chain(owner, native.response).links
        except HistoryError:
            return None
        own = own._replace(output=b"[]")
        return [item for link in (*before, own) for item in items_of(_without_compactions(link))]


def _has_compaction(items: Iterable[Item]) -> bool:
    """Whether one of the items may be sealed. Most inputs hold none, and long ones are searched for every request."""
    return "compaction" in [item.get("type") for item in items]


def _with_links(turn: Turn, links: Sequence[Link]) -> Turn:
    """The turn with these links; the same turn when no link has changed."""
    if all(map(is_, links, turn.chain.links)):
        return turn
    return replace(turn, chain=replace(turn.chain, links=tuple(links)))


def _is_sealed_reasoning(item: Item) -> bool:
    return item.get("type") == "reasoning" and is_sealed(item.get("encrypted_content"))


def _unsealed(item: Item) -> Item:
    return {name: value for name, value in item.items() if name != "encrypted_content"}


def _reasoning_text(text: str) -> Item:
    return {"type": "reasoning_text", "text": text}


def _sealed_part(item: Item) -> Item:
    return {"encrypted_content": item["encrypted_content"]} if _is_sealed_reasoning(item) else {}


def items_of(link: Link) -> Iterator[Item]:
    """The items of a response that go to a model. A call that was cut off is left out."""
    yield from orjson.loads(link.input)
    yield from given_items(link.output, link.status)


def given_items(output: bytes, status: str) -> Iterator[Item]:
    """As `items_of`, for an output alone."""
    yield from replayed(orjson.loads(output), status)


def _without_repeats(before: Iterable[Item], opened: Iterable[Item]) -> list[Item]:
    """The items without the messages that the opened item repeats."""
    known = {content_key(item) for item in opened if item.get("role") in CLIENT_ROLES}
    return [item for item in before if item.get("role") not in CLIENT_ROLES or content_key(item) not in known]


def _without_compactions(link: Link) -> Link:
    """The link without its compaction item and without a window's copies of the user messages."""
    if b'"compaction"' not in link.output:
        return link
    items = orjson.loads(link.output)
    if any(item.get("type") == "compaction" for item in items):
        items = [item for item in items if item.get("type") != "compaction" and item.get("role") != "user"]
    return link._replace(output=orjson.dumps(items))
