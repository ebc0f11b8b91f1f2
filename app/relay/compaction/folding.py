"""How a long history is read through a small window: in passes that each carry the summary so far. Values in, values
out.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

from app.contract.items import Item
from app.contract.token_estimate import estimate_items, estimate_text
from app.relay.compaction.sealed_item import text_message

#: Most passes over one history.
MAX_PASSES = 16
#: Tokens of a model of which nothing tells the window.
DEFAULT_WINDOW = 32_768
#: Tokens that no estimate may use: estimates may be too low by that share of the window.
_MARGIN = 0.15
#: Tokens beside the text of each message.
_PER_MESSAGE = 5
#: Characters to which old outputs of tools are cut when the passes are too few for the whole history.
_SHORT_OUTPUT = 400
_LEFT_OUT = "\n[… {} characters were left out …]\n"
SO_FAR = "The summary of the conversation before the part that follows:"


@dataclass(frozen=True)
class Passage:
    """One old item as text."""

    role: str
    text: str
    is_output: bool = False
    """The output of a tool, which is cut first."""
    as_it_is: Item | None = None
    """What has no text and is sent whole: an item that only its upstream can read, or a picture."""
    is_picture: bool = False

    @cached_property
    def tokens(self) -> int:
        return (estimate_text(self.text) if self.as_it_is is None else estimate_items([self.as_it_is])) + _PER_MESSAGE

    @property
    def message(self) -> Item:
        return self.as_it_is if self.as_it_is is not None else text_message(self.role, self.text)


@dataclass(frozen=True, slots=True)
class Folded:
    """The history by passes, and the characters that were left out of it."""

    passes: Sequence[Sequence[Passage]]
    left_out: int = 0


def room(window: int, *reserved: int) -> int:
    """Tokens of history that one pass may have beside what is reserved for the instruction and the two summaries."""
    return max(256, int(window * (1 - _MARGIN)) - sum(reserved))


def fold(passages: Sequence[Passage], budget: int, passes: int = MAX_PASSES) -> Folded:
    """The history in at most so many parts of at most `budget` tokens. What does not fit is cut: first pictures above
    half of the room and the outputs of tools, oldest first, then the middle of every text."""
    shorter = passages
    # A part may end early, before a passage that does not fit, so the passes hold a little less than all of them.
    for filled in (1.0, 0.9, 0.8, 0.7, 0.5):
        total = int(budget * passes * filled)
        fewer = _with_few_pictures(passages, total, budget)
        shorter = _with_short_texts(_with_short_outputs(fewer, total), total)
        parts = _parts(shorter, budget)
        if len(parts) <= passes:
            break
    left_out = sum(len(passage.text) for passage in passages) - sum(len(passage.text) for passage in shorter)
    return Folded(parts[:passes], max(0, left_out))


def without_pictures(passages: Sequence[Passage]) -> list[Passage]:
    return [passage for passage in passages if not passage.is_picture]


def _with_few_pictures(passages: Sequence[Passage], total: int, budget: int) -> Sequence[Passage]:
    """The passages without those pictures that no pass could hold and, if there is too much of everything, without the
    oldest ones above half of the room. The texts still name them."""
    above = sum(passage.tokens for passage in passages) > total
    room_left = total // 2 if above else total
    kept: list[Passage] = []
    for passage in reversed(passages):
        if passage.is_picture:
            if passage.tokens > min(budget, room_left):
                continue
            room_left -= passage.tokens
        kept.append(passage)
    return kept[::-1]


def _with_short_outputs(passages: Sequence[Passage], total: int) -> list[Passage]:
    shorter = list(passages)
    above = sum(passage.tokens for passage in passages) - total
    for position, passage in enumerate(passages):
        if above <= 0:
            break
        if passage.is_output and len(passage.text) > _SHORT_OUTPUT:
            shorter[position] = replace(passage, text=_cut(passage.text, _SHORT_OUTPUT))
            above -= passage.tokens - shorter[position].tokens
    return shorter


def _with_short_texts(passages: Sequence[Passage], total: int) -> Sequence[Passage]:
    """Cuts every text by the same share, until all of them fit. Texts that are short anyway are dropped last, the
    oldest first."""
    for _ in range(8):
        tokens = sum(passage.tokens for passage in passages)
        if tokens <= total:
            return passages
        share = total / tokens * 0.95
        passages = [replace(passage, text=_cut(passage.text, int(len(passage.text) * share))) for passage in passages]
    newest: list[Passage] = []
    for passage in reversed(passages):
        if (total := total - passage.tokens) < 0:
            break
        newest.append(passage)
    return newest[::-1]


def _cut(text: str, size: int) -> str:
    """The beginning and the end of a text, with a note of what is missing between them."""
    note = _LEFT_OUT.format(len(text) - size)
    left = size - len(note)
    if left < 40:
        return text[:size]
    head = left * 2 // 3
    return text[:head] + note + text[len(text) - (left - head) :]


def _parts(passages: Sequence[Passage], budget: int) -> list[list[Passage]]:
    parts: list[list[Passage]] = [[]]
    left = budget
    for passage in passages:
        for piece in _pieces(passage, budget):
            if piece.tokens > left and parts[-1]:
                parts.append([])
                left = budget
            parts[-1].append(piece)
            left -= piece.tokens
    return parts


def _pieces(passage: Passage, budget: int) -> Iterator[Passage]:
    """A text that no pass could hold, in equal pieces."""
    count = -(-passage.tokens // max(1, budget - _PER_MESSAGE))
    if count <= 1 or passage.as_it_is is not None:
        yield passage
        return
    size = -(-len(passage.text) // count)
    for start in range(0, len(passage.text), size):
        yield replace(passage, text=passage.text[start : start + size])
