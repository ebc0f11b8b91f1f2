"""Why a provider's cache did not serve a prompt: a comparison of a response with the one before it.

A cause is named only where the stored facts show it. Where they show that nothing has changed, the provider's cache has
lost the prompt, or it was never there.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any

from app.store.prompt_digests import CacheFacts, Pair, StoredPrompt
from app.store.store import Store

#: Providers cache no shorter prompt, in tokens.
MINIMUM = 1024
#: Providers count the cached tokens in steps of so many.
STEP = 128
#: Seconds for which every provider keeps a prompt that is not used. A client may ask for longer.
KEPT = 300
#: Responses whose misses are counted.
RECENT = 1000
#: The part of the earlier prompt that may be missing before a response counts as a miss without a known difference.
_TOLERANCE = 0.1


class Reason(StrEnum):
    HIT = "hit"
    FIRST = "first_request"
    NOT_REPORTED = "not_reported"
    BELOW_MINIMUM = "below_minimum"
    COMPACTED = "compacted"
    SHORTENED = "shortened"
    MODEL = "model_changed"
    CHANNEL = "channel_changed"
    FAMILY = "family_changed"
    ADAPTED = "request_adapted"
    PREFIX = "prefix_changed"
    KEY = "cache_key_changed"
    EXPIRED = "expired"
    UNKNOWN = "unknown"


#: Where nothing was there to be served, or nothing is known.
_NO_MISS = frozenset({Reason.HIT, Reason.FIRST, Reason.NOT_REPORTED, Reason.BELOW_MINIMUM})

#: The regions of a prompt, in their order.
TOOLS, INSTRUCTIONS, ITEMS = "tools", "instructions", "items"


@dataclass(frozen=True, slots=True)
class CacheReport:
    """`region` and `index` say where a changed prompt differs first: the position in `tools`, in `items` of the whole
    context, or in `instructions`, where 0 is the text and 1 the form of the answer."""

    response: str
    before: str | None
    """The response that it is compared with."""
    cached_tokens: int | None
    input_tokens: int | None
    share: float | None
    """Of the input, from 0 to 1. None if it is not known."""
    expected_tokens: int | None
    """Tokens of the earlier prompt that a cache could have served."""
    reason: Reason
    region: str | None
    index: int | None
    detail: str
    """One sentence in plain words."""

    @property
    def is_miss(self) -> bool:
        return self.reason not in _NO_MISS

    def wire(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True, slots=True)
class _Cause:
    reason: Reason
    detail: str
    region: str | None = None
    index: int | None = None


def explain(store: Store, owner: str, response_id: str) -> CacheReport | None:
    """The report on a response; None when there is no such response of the owner."""
    pair = store.prompts.pair(owner, response_id)
    return report(pair) if pair else None


def explain_turn(store: Store, owner: str, key: int, base: int | None) -> CacheReport | None:
    """The report on the response of a key, from one query. `base`: the key of the response that its prompt goes on
    from, where its digests say so."""
    pair = store.prompts.pair_of(owner, key, base)
    return report(pair) if pair else None


def explain_all(store: Store, owner: str, keys: Sequence[int]) -> Mapping[int, CacheReport]:
    """The reports on responses with these keys, by key."""
    return {key: report(pair) for key, pair in store.prompts.pairs(owner, keys).items()}


def recent_misses(store: Store, since: str) -> dict[str, dict[str, int]]:
    """The misses among the newest responses since a day (YYYY-MM-DD, UTC): by channel, how many have each reason, the
    most frequent first."""
    counts: defaultdict[str, Counter[str]] = defaultdict(Counter)
    start = int(datetime.fromisoformat(since).replace(tzinfo=UTC).timestamp())
    for pair in store.prompts.recent(start, RECENT):
        found = report(pair)
        if found.is_miss:
            counts[pair.response.channel or ""][found.reason.value] += 1
    return {channel: dict(reasons.most_common()) for channel, reasons in counts.items()}


def cache_notes(report: CacheReport | None) -> Iterator[str]:
    """The reason of a miss in a few words."""
    if report is not None and report.is_miss:
        place = f" {report.region}[{report.index}]" if report.region else ""
        yield f"cache miss: {report.reason.replace('_', ' ')}{place}"


def report(pair: Pair) -> CacheReport:
    response, before, *_ = pair
    cause = _cause(pair)
    known = cause.reason is not Reason.NOT_REPORTED
    return CacheReport(
        response=response.id,
        before=before.id if before else None,
        cached_tokens=response.cached_tokens if known else None,
        input_tokens=response.input_tokens,
        share=_share(response.cached_tokens, response.input_tokens) if known else None,
        expected_tokens=_expected(response, before) if before else None,
        reason=cause.reason,
        region=cause.region,
        index=cause.index,
        detail=cause.detail,
    )


def _share(cached: int | None, given: int | None) -> float | None:
    return round((cached or 0) / given, 4) if given else None


# --- the cause --------------------------------------------------------------------------------------------------


def _cause(pair: Pair) -> _Cause:
    response, before, *_ = pair
    if not _is_reported(response):
        return _Cause(Reason.NOT_REPORTED, "The upstream did not say how many tokens came from its cache.")
    if before is None or before.input_tokens is None:
        return _first(response)
    missing = _expected(response, before) - (response.cached_tokens or 0)
    if missing < STEP and response.cached_tokens:
        return _hit(response)
    for look in _CAUSES:
        if cause := look(pair, before):
            return cause
    if response.cached_tokens and missing < STEP + _TOLERANCE * _expected(response, before):
        return _hit(response)
    return _old(pair, before) or _unknown(response, before)


def _is_reported(response: CacheFacts) -> bool:
    """Whether the upstream said how much its cache served. A row of an earlier version does not show it."""
    if response.input_tokens is None or response.estimated:
        return False
    return bool(response.cached_tokens) or response.prompt is None or response.prompt.reports_cache


def _expected(response: CacheFacts, before: CacheFacts) -> int:
    """The tokens of the earlier prompt. With a compaction, those of its pass are among them."""
    return min(before.input_tokens or 0, response.input_tokens or 0)


def _hit(response: CacheFacts) -> _Cause:
    return _Cause(Reason.HIT, f"The cache served {response.cached_tokens or 0:,} of {response.input_tokens:,} tokens.")


def _first(response: CacheFacts) -> _Cause:
    if response.cached_tokens:
        return _hit(response)
    return _Cause(Reason.FIRST, "No earlier request of this conversation is known.")


def _short(pair: Pair, before: CacheFacts) -> _Cause | None:
    if _expected(pair.response, before) >= MINIMUM:
        return None
    size = _expected(pair.response, before)
    return _Cause(
        Reason.BELOW_MINIMUM, f"The earlier prompt has {size:,} tokens; providers cache none below {MINIMUM:,}."
    )


def _compacted(pair: Pair, before: CacheFacts) -> _Cause | None:
    if pair.response.is_compacted:
        return _Cause(
            Reason.COMPACTED, "The history was compacted for this response, so its prompt has another beginning."
        )
    if before.is_compaction:
        return _Cause(Reason.COMPACTED, "The response before it is a compaction, so the prompt has another beginning.")
    if before.is_compacted and pair.response.is_whole:
        sentence = "The history was compacted for the response before it, and the client sends its old messages again."
        return _Cause(Reason.COMPACTED, sentence)
    return None


def _shortened(pair: Pair, before: CacheFacts) -> _Cause | None:
    if not any(facts.prompt and facts.prompt.shortened for facts in (pair.response, before)):
        return None
    return _Cause(Reason.SHORTENED, "The oldest items were left out, because the context was too long for the model.")


def _other_model(pair: Pair, before: CacheFacts) -> _Cause | None:
    now, then = ((facts.model, facts.upstream_model) for facts in (pair.response, before))
    if now == then:
        return None
    names = [f"{model} ({upstream})" if upstream not in (None, model) else model for model, upstream in (now, then)]
    return _Cause(Reason.MODEL, f"The model is {names[0]}; before it was {names[1]}.")


def _other_channel(pair: Pair, before: CacheFacts) -> _Cause | None:
    response = pair.response
    if response.channel == before.channel:
        return None
    failed = [attempt for attempt in response.attempts if attempt.get("error")]
    why = ", ".join(f"{attempt['channel']} answered {attempt['error']}" for attempt in failed)
    sentence = f"The channel is {response.channel}; before it was {before.channel}"
    return _Cause(Reason.CHANNEL, f"{sentence}: {why}." if why else f"{sentence}.")


def _other_family(pair: Pair, before: CacheFacts) -> _Cause | None:
    if pair.response.family == before.family:
        return None
    return _Cause(Reason.FAMILY, f"The channel's family is {pair.response.family}; before it was {before.family}.")


def _adapted(pair: Pair, before: CacheFacts) -> _Cause | None:
    now, then = pair.response.prompt, before.prompt
    if now is None or then is None or now.key != then.key or now.adapted == then.adapted:
        return None
    return _Cause(Reason.ADAPTED, "Other parts of the request than before were left out or replaced for the upstream.")


def _other_key(pair: Pair, before: CacheFacts) -> _Cause | None:
    now, then = pair.response.prompt, before.prompt
    if now is None or then is None or now.key != then.key or now.cache_key == then.cache_key:
        return None
    return _Cause(Reason.KEY, "The cache key is another one than before; the provider may look elsewhere for it.")


def _changed(pair: Pair, before: CacheFacts) -> _Cause | None:
    """The first region that differs, and the first entry of it."""
    now, then = pair.response.prompt, before.prompt
    if now is None or then is None or now.key != then.key:
        return None
    for region, difference in _REGIONS.items():
        index = difference(now, then, before.key)
        if index is not None:
            return _Cause(Reason.PREFIX, _WORDS[region].format(index), region, index)
    return None


def _removed(pair: Pair, before: CacheFacts) -> _Cause | None:
    """An item that was deleted from the conversation after the earlier prompt."""
    if pair.removed is None:
        return None
    sentence = f"Items were deleted from the conversation, the first of them items[{pair.removed}] of the context."
    return _Cause(Reason.PREFIX, sentence, ITEMS, pair.removed)


def _old(pair: Pair, before: CacheFacts) -> _Cause | None:
    """Whether the prompt had not been used for longer than providers keep it."""
    kept = max(KEPT, before.prompt.kept if before.prompt else 0)
    unused = pair.response.created_at - (pair.last_used or before.created_at)
    if unused <= kept:
        return None
    return _Cause(Reason.EXPIRED, f"The prompt was unused for {unused:,} s; a provider keeps it for {kept:,} s.")


def _unknown(response: CacheFacts, before: CacheFacts) -> _Cause:
    if not _is_comparable(response, before):
        return _Cause(Reason.UNKNOWN, "Not enough is stored of the two prompts to compare them.")
    return _Cause(
        Reason.UNKNOWN, "The prompt begins as before, on the same channel, and recently: the upstream forgot it."
    )


def _is_comparable(response: CacheFacts, before: CacheFacts) -> bool:
    now, then = response.prompt, before.prompt
    return now is not None and then is not None and now.key == then.key


#: In the order in which one hides another.
_CAUSES: Sequence[Callable[[Pair, CacheFacts], _Cause | None]] = (
    *(_short, _compacted, _shortened, _other_model, _other_channel, _other_family, _changed, _removed, _adapted),
    _other_key,
)


# --- where two prompts differ -----------------------------------------------------------------------------------


def _in_tools(now: StoredPrompt, then: StoredPrompt, base: int) -> int | None:
    return _first_difference(now.tools, then.tools)


def _in_instructions(now: StoredPrompt, then: StoredPrompt, base: int) -> int | None:
    return _first_difference(now.instructions, then.instructions)


def _in_items(now: StoredPrompt, then: StoredPrompt, base: int) -> int | None:
    """A chain only adds items. Of a whole history, the row knows how many it has in common with its base."""
    if now.base != base or not (now.has_items and then.has_items):
        return None
    return now.first if now.first < then.length else None


def _first_difference(now: Sequence[bytes], then: Sequence[bytes]) -> int | None:
    if now == then:
        return None
    equal = (one == other for one, other in zip(now, then, strict=False))
    return next((index for index, same in enumerate(equal) if not same), min(len(now), len(then)))


_REGIONS = {TOOLS: _in_tools, INSTRUCTIONS: _in_instructions, ITEMS: _in_items}
_WORDS = {
    TOOLS: "The tools differ from the earlier ones, first at tools[{}].",
    INSTRUCTIONS: "The instructions or the form of the answer have changed.",
    ITEMS: "The items differ from the earlier ones, first at items[{}] of the context.",
}
