"""Names the conversation of a turn, for what has to treat all its turns alike: the choice of a channel, and the cache
of an upstream.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from hashlib import blake2b
from typing import Any

import orjson

from app.channels.affinity import first_user_item
from app.contract.items import is_client_side
from app.contract.turn import Turn
from app.relay.client_thread import ThreadNames
from app.relay.compaction.context import Contexts
from app.relay.inferred_parents import identity
from app.sealing import Pseudonyms

#: The key that a client gives its conversation for the upstream's cache.
CACHE_KEY = "prompt_cache_key"


def conversation_name(turn: Turn, headers: Mapping[str, str]) -> str | None:
    """The client's session, else the root of its chain or conversation; None for a turn that shows neither. `headers`:
    those that name the client's session and thread."""
    return ThreadNames.key_of(turn.request, headers) or turn.chain.root


def beginning(request: Mapping[str, Any]) -> Sequence[Any]:
    """How a conversation began that its client keeps: the instructions and the first words of the user, without ids and
    marks, which may change from turn to turn."""
    first = first_user_item(request.get("input") or ())
    return (request.get("instructions"), identity(dict(first)) if first else None)


@dataclass(frozen=True, slots=True)
class CacheKeys:
    """Gives conversations without a key one of the gateway's own: the same in every turn and branch, in every worker,
    and after a compaction or a restart. No query is needed for it."""

    pseudonyms: Pseudonyms
    remembers_unstored: bool = False
    """Unstored responses can be continued too, as on a WebSocket."""

    def keyed(self, turn: Turn, contexts: Contexts, headers: Mapping[str, str]) -> Turn:
        """The turn with its cache key, unless the client gave one or nothing names the conversation."""
        if CACHE_KEY in turn.request:
            return turn
        name = conversation_name(turn, headers) or contexts.origin(turn) or self._own_name(turn)
        return replace(turn, cache_key=self.pseudonyms.of(turn.owner, name)) if name else turn

    def _own_name(self, turn: Turn) -> str | None:
        """The turn's id, if later turns can name it as the root. A client that sends answers keeps the conversation
        itself: how it began is the same in all its turns. A first turn that nothing can continue has no name, so that
        requests which stay alone share what their instructions have in the upstream's cache."""
        if not all(map(is_client_side, turn.input)):
            return blake2b(orjson.dumps(beginning(turn.request), default=str), digest_size=16).hexdigest()
        return turn.id if turn.store or self.remembers_unstored else None
