"""Sums up a history with a model: in one pass where the window allows it, else in several that each carry the summary
so far.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from app.channels.selection import SelectedChannel
from app.contract.items import CALL_TYPES, Item
from app.contract.token_estimate import estimate_items
from app.contract.turn import Answer, Turn
from app.contract.usage import NOTHING_USED, Usage
from app.errors import BodyTooLarge, CompactionFailed, ContextTooLong, UpstreamRefused
from app.relay.attempts import MIN_WINDOW, TurnAttempt
from app.relay.compaction.folding import MAX_PASSES, SO_FAR, Passage, fold, room, without_pictures
from app.relay.compaction.plan import INSTRUCTION
from app.relay.compaction.sealed_item import text_message

#: Limits of a summary in tokens where the request sets none: a quarter of what it replaces, within these bounds. A
#: model needs room for a useful summary; a summary longer than what it replaces is not used.
_MIN_LIMIT, _MAX_LIMIT = 256, 4096
#: Most refusals of one compaction because of its length.
_MAX_REFUSALS = 6

#: Sends the input of one pass, with its limit of tokens, and returns the turn, its answer and the attempt.
Read = Callable[[Sequence[Item], int], tuple[Turn, Answer, TurnAttempt]]


@dataclass(frozen=True, slots=True)
class Summary:
    text: str
    selected: SelectedChannel
    usage: Usage
    named_window: int | None = None
    """That of the model in tokens, where a refusal has named it."""
    guessed_window: int | None = None
    """The window that the passes fitted into after a refusal that named none."""
    note: dict[str, Any] = field(default_factory=dict)
    """For the operator: the passes when there were several, and the characters that no pass could hold."""

    def teach(self) -> None:
        """Lets the channel remember what the refusals have shown of the model's window."""
        if self.named_window is not None:
            self.selected.learn_window(self.named_window)
        if self.guessed_window is not None:
            self.selected.guess_window(self.guessed_window)


def summarise(
    material: Sequence[Passage],
    replaced: int,
    instructions: str | None,
    max_tokens: int | None,
    window: int,
    read: Read,
) -> Summary:
    """`replaced`: the tokens of the items that the summary stands for. `window`: that of the model, in tokens; refusals
    make it smaller. Raises CompactionFailed, ContextTooLong when even a small part is too long, and the errors of
    `read`. A refusal of pictures is followed by a pass without.
    """
    refusals = 0
    named, guessed = None, None
    left, passes = list(material), MAX_PASSES
    instruction = text_message("user", instructions or INSTRUCTION)
    instruction_tokens = estimate_items([instruction])
    text, usage, left_out = "", NOTHING_USED, 0
    while True:
        limit = max_tokens or summary_limit(replaced, window)
        # The summary so far and the new one have the same limit.
        summaries = 2 * limit if text or _is_long(left, window) else limit
        folded = fold(left, room(window, instruction_tokens, summaries), passes)
        try:
            turn, answer, answered = read([*_so_far(text), *_messages(folded.passes[0]), instruction], limit)
        except ContextTooLong as error:
            if isinstance(error, BodyTooLarge) and len(fewer := without_pictures(left)) < len(left):
                # Pictures have many bytes and few tokens.
                left = fewer
                continue
            refusals += 1
            if error.window and error.window < window:
                window = named = error.window
            else:
                window = guessed = window // 2
            if refusals > _MAX_REFUSALS or window < MIN_WINDOW:
                raise
            continue
        except UpstreamRefused:
            fewer = without_pictures(left)
            if len(fewer) == len(left):
                raise
            left = fewer
            continue
        text = summary_of(answer)
        usage += answered.selected.priced(turn.model, answer.usage or estimated(turn.input, answer))
        left = [passage for part in folded.passes[1:] for passage in part]
        passes, left_out = passes - 1, left_out + folded.left_out
        if not left:
            break
    made = MAX_PASSES - passes
    note = {"passes": made} if made > 1 else {}
    note = {**note, "left_out": left_out} if left_out else note
    return Summary(text, answered.selected, usage, named, guessed, note)


def is_no_summary(answer: Answer) -> bool:
    """Whether an answer is no summary: it calls tools, or says nothing."""
    return not _text(answer) or any(item.get("type") in CALL_TYPES for item in answer.output)


def summary_of(answer: Answer) -> str:
    """Raises CompactionFailed for an answer without text."""
    if answer.status == "failed":
        message = (answer.error or {}).get("message") or "the model's server failed."
        raise CompactionFailed(f"The compaction failed: {message}")
    text = _text(answer)
    if not text:
        raise CompactionFailed("The compaction failed: the model's summary was empty.")
    return text


def _text(answer: Answer) -> str:
    return "".join(
        part.get("text", "")
        for item in answer.output
        if item.get("type") == "message"
        for part in item.get("content", ())
        if part.get("type") == "output_text"
    ).strip()


def estimated(input_items: Sequence[Item], answer: Answer) -> Usage:
    return Usage(input_tokens=estimate_items(input_items), output_tokens=estimate_items(answer.output), estimated=True)


def summary_limit(replaced: int, window: int) -> int:
    """A quarter of what the summary replaces, and of the window, which must hold the summary beside the history."""
    quarter = min(replaced // 4, window // 4)
    return min(_MAX_LIMIT, max(_MIN_LIMIT, quarter))


def _is_long(left: Sequence[Passage], window: int) -> bool:
    return sum(passage.tokens for passage in left) > window // 2


def _so_far(text: str) -> list[Item]:
    return [text_message("user", f"{SO_FAR}\n\n{text}")] if text else []


def _messages(part: Sequence[Passage]) -> list[Item]:
    return [passage.message for passage in part]
