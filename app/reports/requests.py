"""One request explained: how it ended and what to do about it, why it went to its channels, and the same request as
curl."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import orjson

from app.channels.table import Table
from app.contract.channel import Channel
from app.contract.pauses import Pause
from app.store.requests import RequestRow

#: Stands for the token in every curl.
TOKEN = "$ANTIPHON_TOKEN"  # noqa: S105 - the name of a variable
#: Bytes of a request that are shown as curl.
LARGEST = 200_000
#: Members of a stored request that are none of a client's.
_NOT_SENT = frozenset({"input", "store"})


@dataclass(frozen=True, slots=True)
class Advice:
    meaning: str
    remedy: str


_LIMIT = Advice(
    "A limit of the upstream, or of the token, was reached.",
    "The client may try again after Retry-After. If it happens often, add a row with the same model to the channel "
    "table, or raise the limit of the token.",
)
_UPSTREAM = "antiphon channels test NAME shows what the upstream answers."

#: What an error means and what to do about it, by its code.
ADVICE: Mapping[str, Advice] = {
    "rate_limit_exceeded": _LIMIT,
    "insufficient_quota": Advice(
        "A budget is used up: the token's, or the account's at the upstream.",
        "Raise the token's budget, or pay at the upstream.",
    ),
    "server_is_overloaded": Advice(
        "All channels of the model were full, paused, in cooldown, or loading their model.",
        "Try again after Retry-After. The page of channels says which; raise max_concurrency or add a row.",
    ),
    "context_length_exceeded": Advice(
        "The context is longer than the model's window.",
        "Compact the conversation, send truncation: auto, or set compact_at for the model in the channel table.",
    ),
    "upstream_unavailable": Advice("The upstream could not be reached.", f"Check that its server runs. {_UPSTREAM}"),
    "upstream_timeout": Advice(
        "The upstream did not answer in time.",
        "Check whether it hangs. If it only needs longer, raise timeout.first_byte or timeout.total in its row.",
    ),
    "upstream_idle_timeout": Advice(
        "The upstream stopped in the middle of its answer.",
        "Check whether it hangs. If it only needs longer, raise timeout.idle in its row.",
    ),
    "upstream_denied": Advice("The upstream refuses the key of the channel.", "Set another api_key in its row."),
    "upstream_protocol_error": Advice(
        "The upstream answered in a form that its format does not have.",
        f"Check format and base_url of its row. {_UPSTREAM}",
    ),
    "upstream_error": Advice("The upstream failed.", f"See the log of its server. {_UPSTREAM}"),
    "model_not_found": Advice(
        "No channel serves the model, or the token may not use it.",
        "antiphon models lists the models; the page of people shows which the token may use.",
    ),
    "compaction_failed": Advice(
        "The pass that makes the summary failed, and nothing has changed.",
        "Send the request again, or name another compaction.model in the channel table.",
    ),
    "turn_timeout": Advice(
        "The exchanges and the calls of tools took too long together.", "Ask for less at once, or check the tools."
    ),
    "http_error": Advice("A tool server did not list its tools.", "antiphon tools list shows why."),
    "server_shutting_down": Advice("The server was stopped or restarted.", "Send the request again."),
    "worker_lost": Advice("The worker died before the response had ended.", "Send the request again."),
    "storage_unavailable": Advice("The database did not answer.", "antiphon doctor says why."),
    "too_large_to_store": Advice(
        "The response was larger than the database takes in one statement.",
        "Raise max_allowed_packet of the database, or send store: false.",
    ),
    "previous_response_not_found": Advice(
        "The response to go on from is unknown to this owner, or was deleted.",
        "Begin a new conversation, or send the whole history.",
    ),
}
_REFUSED = Advice("The request itself was refused.", "Mend what the message names; a retry would fail as well.")
_UNKNOWN = Advice("", "If it happens again, look at the attempts and at the log of the gateway.")


def advice_on(row: RequestRow) -> Advice | None:
    """None for a request that has not failed."""
    if row.error is None:
        return None
    code, kind = str(row.error.get("code") or ""), str(row.error.get("type") or "")
    refused = kind == "invalid_request_error" or code.startswith(("invalid_", "missing_", "unsupported_"))
    return ADVICE.get(code) or (_REFUSED if refused else _UNKNOWN)


@dataclass(frozen=True, slots=True)
class Try:
    """One attempt, and where it lies in the time of all."""

    channel: str
    error: str | None
    status: int | None
    milliseconds: int
    said: str
    """The upstream's words; empty if there are none."""
    notes: Sequence[str]
    """What the channel did not get as the client sent it."""
    begin: float
    """Percent of the time of all attempts, as is `share`."""
    share: float


def tries_of(row: RequestRow) -> list[Try]:
    """The attempts of a request. One that went well at once stands for itself."""
    attempts: Sequence[Mapping[str, Any]] = row.attempts
    if not attempts and row.channel is not None:
        attempts = [{"channel": row.channel, "ms": row.total_ms or 0, "status": 200, "error": None}]
    whole = sum(attempt.get("ms") or 0 for attempt in attempts) or 1
    tries, before = [], 0
    for attempt in attempts:
        milliseconds = attempt.get("ms") or 0
        begin, share = 100 * before / whole, 100 * milliseconds / whole
        before += milliseconds
        tries.append(
            Try(
                channel=str(attempt["channel"]),
                error=attempt.get("error"),
                status=attempt.get("status"),
                milliseconds=milliseconds,
                said=str(attempt.get("said") or ""),
                notes=tuple(_notes(attempt)),
                begin=round(begin, 1),
                share=round(share, 1),
            )
        )
    return tries


def _notes(attempt: Mapping[str, Any]) -> Iterator[str]:
    if attempt.get("dropped"):
        yield f"without the tools {', '.join(attempt['dropped'])}"
    if attempt.get("adapted"):
        yield f"adapted: {', '.join(attempt['adapted'])}"
    if attempt.get("shortened"):
        yield "without the oldest items, because the context was too long"


def channels_tried(row: RequestRow) -> list[str]:
    """Each channel once, in the order of the attempts."""
    return list(dict.fromkeys(one.channel for one in tries_of(row)))


def was_retried(row: RequestRow) -> bool:
    """Whether it was answered by a second attempt or a later one."""
    return row.status == "completed" and any(attempt.get("error") for attempt in row.attempts)


# --- why these channels -----------------------------------------------------------------------------------------


def why_these(table: Table, row: RequestRow, pause_of: Mapping[str, Pause]) -> list[str]:
    """One sentence each, by the table of now. `pause_of`: the pauses of now."""
    return list(_reasons(table, row, pause_of))


def _reasons(table: Table, row: RequestRow, pause_of: Mapping[str, Pause]) -> Iterator[str]:
    serving, tried = table.serving(row.model), channels_tried(row)
    if not serving:
        yield f"No channel of the table serves {row.model} now."
        return
    yield f"{row.model} is served by {_listed([channel.name for channel in serving])}."
    if row.parent_channel is not None and tried and row.parent_channel == tried[0] and len(serving) > 1:
        yield f"The turn before was answered by {row.parent_channel}, so that it was tried first: its cache is there."
    elif tried:
        yield from _by_priority(serving, tried[0])
    for earlier, later in pairwise(tried):
        yield f"{earlier} failed before its first output, so that {later} took over."
    for channel in serving:
        if channel.name in pause_of and channel.name not in tried:
            yield f"{channel.name} is {pause_of[channel.name]}."


def _by_priority(serving: Sequence[Channel], first: str) -> Iterator[str]:
    chosen = next((channel for channel in serving if channel.name == first), None)
    if chosen is None:
        yield f"{first} does not serve it any more."
        return
    equals = [channel for channel in serving if channel.priority == chosen.priority]
    higher = [channel.name for channel in serving if channel.priority > chosen.priority]
    if higher:
        yield f"{_listed(higher)} would have come first, and could take no request then."
    if len(equals) > 1:
        weights = _listed([f"{channel.name} (weight {channel.weight})" for channel in equals])
        yield f"Priority {chosen.priority}: {weights}; {first} was drawn for this conversation."
    elif len(serving) > 1:
        yield f"{first} has priority {chosen.priority}."


def _listed(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


# --- as curl ----------------------------------------------------------------------------------------------------


def curl_without_text(base: str, row: RequestRow) -> str:
    """The request with a placeholder for what it said. `base`: the URL of the API, ending in /v1."""
    body: dict[str, Any] = {"model": row.model}
    if row.streamed:
        body["stream"] = True
    if row.parent is not None and row.has_content:
        body["previous_response_id"] = row.parent
    body["input"] = "…"
    return _curl(base, body, streamed=bool(row.streamed))


def curl_with_text(base: str, row: RequestRow, settings: Mapping[str, Any], input: Sequence[Any]) -> str | None:
    """The request as it is stored: what clients send by header and the credentials of tools are not among it. None for
    one that is too large to be copied."""
    body: dict[str, Any] = {"model": row.model}
    body |= {name: value for name, value in settings.items() if name not in _NOT_SENT and value is not None}
    if row.streamed:
        body["stream"] = True
    if row.parent is not None and "previous_response_id" not in body and "conversation" not in body:
        body["previous_response_id"] = row.parent
    body["input"] = list(input)
    text = _curl(base, body, streamed=bool(row.streamed))
    return text if len(text) <= LARGEST else None


def _curl(base: str, body: Mapping[str, Any], *, streamed: bool) -> str:
    return " \\\n".join(
        [
            f"curl {'-N ' if streamed else ''}{shlex.quote(f'{base}/responses')}",
            f'  -H "Authorization: Bearer {TOKEN}"',
            '  -H "Content-Type: application/json"',
            f"  -d {shlex.quote(orjson.dumps(body).decode())}",
        ]
    )
