"""What a request says about the upstream's cache of prompts."""

from __future__ import annotations

from app.contract.channel import Channel
from app.contract.turn import Turn

KEY = "prompt_cache_key"


def own_key(turn: Turn, row: Channel, *sending: str) -> dict[str, str]:
    """The member with the gateway's own key, for a row whose `cache_key` is one of `sending`. A row that has learnt to
    leave the member out gets none, so that no client reads of a change to what it never sent."""
    if turn.cache_key is None or row.cache_key not in sending or KEY in row.params.drop:
        return {}
    return {KEY: turn.cache_key}
