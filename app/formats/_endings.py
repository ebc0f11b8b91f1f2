"""What the reasons mean with which upstreams end an answer: one table for all dialects."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from app.contract.turn import Answer, Turn
from app.contract.usage import Usage
from app.errors import UpstreamFailed
from app.formats._output import Output

#: `Decoder.path` of a format that is not the contract's own.
TRANSLATED = "translated"

CUT = "max_output_tokens"
FILTERED = "content_filter"


@dataclass(frozen=True, slots=True)
class Ending:
    """How an answer ended."""

    status: str
    reason: str | None = None
    """Of an incomplete answer, as the contract words it."""

    def answer(self, output: Output, usage: Usage | None, identity: Mapping[str, Any]) -> Answer:
        return Answer(
            status=self.status,
            output=list(output.items),
            usage=usage,
            incomplete_details={"reason": self.reason} if self.reason else None,
            path=TRANSLATED,
            **identity,
        )


COMPLETED = Ending("completed")
_CUT, _FILTERED, _FAILED = Ending("incomplete", CUT), Ending("incomplete", FILTERED), Ending("failed")

#: Reasons, in lower case with underscores, and the ending that they mean. The first row that fits decides. A whole
#: answer is known by its whole reason only, so that no unknown reason passes for one.
_ENDINGS: Sequence[tuple[re.Pattern[str], Ending]] = tuple(
    (re.compile(words), ending)
    for words, ending in (
        # OpenAI and the servers of open models; Anthropic; Gemini; Cohere; Bedrock; TGI; watsonx; Ollama.
        (
            r"(?:stop|end|finish|complete|normal|success|ok)|stopped|ended|finished|completed|done|"
            r"end_turn|end_?of_?(?:turn|text|sequence|stream|message)|eot|eom|eos|(?:eos|stop|end)_token|"
            r"stop(?:ped)?_(?:sequence|string|str|word|eos)|tools?|(?:tool|function)_(?:calls?|use)|pause_turn",
            COMPLETED,
        ),
        # Of the content: it comes before the others, because "error_toxic" is no error of the server.
        (
            r".*(?:filter|safety|sensitiv|moderat|guardrail|toxic|refus|blocklist|blocked|prohibit|recitation|spii|pii|"
            r"policy|violat|flagged|jailbreak|model_armor|copyright).*|language",
            _FILTERED,
        ),
        # Of the server.
        (
            r".*(?:insufficient|malformed|invalid|unexpected|missing_|too_many|too_large|unavailable|rate_limit|timeout|"
            r"timed_out|overload).*",
            _FAILED,
        ),
        # Of the length.
        (r".*(?:length|limit|max|token|truncat|context|window|budget|repetition|cut_?off).*|incomplete", _CUT),
    )
)
_SPELLING = re.compile(r"[\s.-]+")
_PREFIX = re.compile(r"(?:finish|stop)_?reason_")
#: Words that servers write where they have no reason yet.
_NONE = frozenset({"", "null", "none", "unspecified", "not_finished", "in_progress"})


def reason_of(value: object) -> str | None:
    """The reason for the end of an answer; None if there is none yet. SGLang's own API sends it as an object."""
    if isinstance(value, dict):
        value = value.get("type") or value.get("reason")
    if isinstance(value, list) and value:
        value = value[-1]
    return value if isinstance(value, str) and _plain(value) not in _NONE else None


def ending_of(reason: str) -> Ending:
    """The ending that a reason means; an unknown one is a failure, never silently a stop."""
    plain = _plain(reason)
    return next((ending for words, ending in _ENDINGS if words.fullmatch(plain)), _FAILED)


def ending(reason: str) -> Ending:
    """The same for an answer that has not failed. Raises UpstreamFailed."""
    found = ending_of(reason)
    if found is _FAILED:
        raise UpstreamFailed(
            f"The model's server broke off the answer, with the reason '{reason[:64]}'.", code="server_error"
        )
    return found


def unexplained(usage: Usage | None, turn: Turn) -> Ending:
    """The ending of an answer without a reason: cut off if it has reached `max_output_tokens`."""
    return _CUT if is_full(usage, turn) else COMPLETED


def is_full(usage: Usage | None, turn: Turn) -> bool:
    limit = turn.request.get("max_output_tokens")
    return limit is not None and usage is not None and usage.output_tokens >= limit


def _plain(reason: str) -> str:
    return _PREFIX.sub("", _SPELLING.sub("_", reason.strip().lower()))
