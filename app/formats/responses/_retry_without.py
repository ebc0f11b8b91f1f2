"""Changes a turn for a retry, where an upstream of the Responses API refuses a part of the conversation.

What a model refuses of every request is a remedy; see `app.formats._remedies`. Encrypted reasoning does not say who
made it, so a client may bring some of another family. One retry goes without it, whatever the refusal's words are. The
client and the store still have it, for the family that reads it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace

import orjson

from app.contract.channel import Channel
from app.contract.items import Item
from app.contract.records import Link
from app.contract.turn import Turn
from app.errors import ContextTooLong, UpstreamError, UpstreamRefused
from app.formats._context import shortened, wants_truncation
from app.formats._remedies import remedies_for
from app.formats.responses._request import NOTE, fitted_input, replaced, without_secret

_UNREADABLE = "invalid_encrypted_content"
#: Codes of refusals that do not come from items that an upstream cannot read.
_OF_THE_CONTEXT = frozenset({"context_length_exceeded", "content_filter", "invalid_prompt"})

_COMPARISON = "comparison_response_id"
#: The upstream does not know the member itself, so that every request would be refused.
_UNKNOWN_MEMBER = re.compile(
    r"unknown param|unsupported|unrecogni|not (?:be )?(?:supported|permitted|allowed)|extra", re.I
)

_CIPHERTEXT = re.compile(r"encrypted[ _-]?(?:reasoning|content)|ciphertext|decrypt|could not be verified", re.I)
#: Settings of the request, not items of the conversation.
_SETTINGS = re.compile(
    r"\breasoning\.(?:effort|summary|generate_summary|encrypted_content|context|mode|max_tokens)\b|"
    r"\breasoning_effort\b|\binclude\b|\bgenerate reasoning summar",
    re.I,
)
_OF_ITEMS = re.compile(
    r"reasoning['\"`]?[ _](?:items?|content|text|blocks?|parts?|trace|signature)\b|type['\"`]? ['\"`]?reasoning\b|"
    r"thinking (?:items?|content|text|blocks?)\b|\bsignature\b",
    re.I,
)
_REASONING = re.compile(r"reasoning(?!_?effort)|\bthinking\b|\bthoughts?\b|chain[ _-]of[ _-]thought", re.I)
#: Sentences about an item or its type that do not say which one: xAI, llama.cpp, LM Studio.
_OF_SOME_ITEM = re.compile(
    r"\bitem\b|\bany variant\b|invalid[_ ]union|^(?:invalid|bad)(?: input| request)?\.?$|"
    r"'loc': \('body', 'input',|validation errors? for \w*(?:Iterator|Item)",
    re.I | re.M,
)
#: A path into the input, such as `input[1].content` or `input.1.content`; or an item's place alone.
_PLACE = re.compile(r"\binput(?:\[(\d+)\]|[./](\d+)\b)(?:[./](\w+))?")
#: Members that make up a reasoning item: without one of them, the rest is worth nothing.
_CORE = frozenset({"type", "id", "content", "summary", "encrypted_content"})

Change = Callable[[Item], Item | None]


def amended(turn: Turn, row: Channel, error: UpstreamError) -> Turn | None:
    """The turn without its oldest part if the context was too long, for an upstream that does not truncate it itself;
    without a response to compare with that it does not know; or without items that it cannot read."""
    if isinstance(error, ContextTooLong):
        return shortened(turn) if wants_truncation(turn.request) else None
    words = _words(error)
    if turn.comparison is not None and _COMPARISON in words and not _UNKNOWN_MEMBER.search(words):
        return replace(turn, comparison=None)
    if (change := _change(turn, row, error, words)) is None:
        return None
    links = tuple(_changed_link(link, change) for link in turn.chain.links)
    own = [*replaced(turn.input, change)]
    if links == turn.chain.links and own == list(turn.input):
        return None
    return replace(turn, chain=replace(turn.chain, links=links), input=own)


def _words(error: UpstreamError) -> str:
    refusal = error.refusal
    return error.message if refusal is None else "\n".join((error.message, refusal.words, *refusal.params))


def _change(turn: Turn, row: Channel, error: UpstreamError, words: str) -> Change | None:
    """What becomes of an item that only one family reads; None if the refusal is about something else."""
    unreadable = error.code == _UNREADABLE or (_CIPHERTEXT.search(words) and not _SETTINGS.search(words))
    refused = isinstance(error, UpstreamRefused) and error.code not in _OF_THE_CONTEXT
    if not unreadable and not refused:
        return None
    items: Sequence[Item] = orjson.loads(b"[" + b",".join(fitted_input(turn, row)) + b"]")
    of_reasoning = _concerns_reasoning(turn, row, error, words, items)
    if unreadable or (not of_reasoning and _concerns_compaction(turn, row, error, words, items)):
        if not any(item.get("encrypted_content") for item in items):
            # OpenAI finds reasoning unreadable, too, whose secret is missing.
            return _without_reasoning if any(item.get("type") == "reasoning" for item in items) else None
        return _text_only if row.reasoning_text else _nothing
    return _without_reasoning if of_reasoning else None


def _concerns_reasoning(turn: Turn, row: Channel, error: UpstreamError, words: str, items: Sequence[Item]) -> bool:
    """Whether a refusal is about the reasoning that was sent: it names its place, its id or its content. `items`: the
    input as this row gets it."""
    if _SETTINGS.search(words):
        return False
    ids = [str(item.get("id")) for item in items if item.get("type") == "reasoning"]
    if not ids:
        return False
    places = [*_places(words, items)]
    if not places and (_OF_ITEMS.search(words) or any(item_id in words for item_id in ids)):
        return True
    of_reasoning = [member for item, member in places if item.get("type") == "reasoning"]
    if any(member in _CORE or not member for member in of_reasoning):
        return True
    if places and not of_reasoning:
        return False
    # A remedy is milder: the reasoning stays, without the member that is refused.
    about = bool(of_reasoning or _REASONING.search(words) or _OF_SOME_ITEM.search(words))
    return about and not _has_remedy(turn, row, error, items)


def _concerns_compaction(turn: Turn, row: Channel, error: UpstreamError, words: str, items: Sequence[Item]) -> bool:
    """Whether a refusal may be about a compaction that was sent. Upstreams without compactions have no code for it; but
    what names another part of the request, or what a remedy mends, must not cost the conversation its history."""
    if not any(item.get("type") == "compaction" for item in items):
        return False
    places = [item for item, _ in _places(words, items)]
    if places and not any(item.get("type") == "compaction" for item in places):
        return False
    params = error.refusal.params if error.refusal else ()
    named = [name for name in params if not name.startswith(("input", "body.input"))]
    return not named and not _SETTINGS.search(words) and not _has_remedy(turn, row, error, items)


def _places(words: str, items: Sequence[Item]) -> Iterator[tuple[Item, str]]:
    """The items that a refusal names by their place, each with the member that it names."""
    for match in _PLACE.finditer(words):
        at = int(match[1] or match[2])
        if at < len(items):
            yield items[at], match[3] or ""


def _has_remedy(turn: Turn, row: Channel, error: UpstreamError, items: Sequence[Item]) -> bool:
    request: Mapping[str, object] = {**turn.request, "input": items}
    return bool(remedies_for(error, request, row))


# --- what becomes of the items ----------------------------------------------------------------------------------


def _changed_link(link: Link, change: Change) -> Link:
    if not link.opaque:
        return link
    arrays: list[Iterable[Item]] = [orjson.loads(array) for array in (link.input, link.output)]
    changed = [[*replaced(items, change)] for items in arrays]
    return link if changed == arrays else link._replace(input=orjson.dumps(changed[0]), output=orjson.dumps(changed[1]))


def _text_only(item: Item) -> Item | None:
    """Reasoning without its secret, for an upstream that takes the text; a note in the place of a compaction."""
    if item["type"] == "compaction":
        return NOTE
    return without_secret(item) if item.get("encrypted_content") else item


def _nothing(item: Item) -> Item | None:
    """No reasoning of which only a secret was of use; a note in the place of a compaction."""
    if item["type"] == "compaction":
        return NOTE
    return None if item.get("encrypted_content") else item


def _without_reasoning(item: Item) -> Item | None:
    return None if item["type"] == "reasoning" else item
