"""The test of a channel: a request of a few tokens, sent to the upstream as the gateway sends a client's."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from time import monotonic, time
from typing import Any

from app import formats, ids
from app.channels.selection import Channels
from app.channels.watched_table import WatchedTable
from app.contract.channel import Channel
from app.contract.response import Echo
from app.contract.turn import Turn
from app.errors import (
    GatewayError,
    UpstreamBroken,
    UpstreamDenied,
    UpstreamError,
    UpstreamFailed,
    UpstreamLacksModel,
    UpstreamLimited,
    UpstreamRefused,
    UpstreamTimeout,
    UpstreamUnreachable,
)
from app.relay.attempts import unstreamed_answer
from app.settings import Settings, read_environment

_PROMPT = "ping"
#: The fewest output tokens that OpenAI's own models accept.
_MAX_OUTPUT_TOKENS = 16

#: What the operator should do, by the kind of error; the first that matches.
_FIXES: tuple[tuple[type[GatewayError], str], ...] = (
    (UpstreamDenied, "check its api_key"),
    (UpstreamLacksModel, "check its models: the name after the ':' must be one that the upstream knows"),
    (UpstreamLimited, "wait, or request a higher limit from the upstream's operator"),
    (UpstreamUnreachable, "check its base_url and ca_file, and that the upstream's server runs"),
    (UpstreamTimeout, "check whether the upstream hangs; if it only needs longer, use --timeout"),
    (UpstreamBroken, "check its format and base_url: the server there answers in another format"),
    (UpstreamFailed, "see the log of the upstream's server"),
    (UpstreamRefused, "check its format, and whether the model accepts text"),
)


@dataclass(frozen=True, slots=True)
class ChannelTestResult:
    """The result for one channel. `model` is None when no request was sent, for the reason in `cause`."""

    channel: Channel
    model: str | None
    milliseconds: int = 0
    cause: str = ""
    fix: str = ""

    @property
    def label(self) -> str:
        if self.model is None:
            return "not asked"
        return "failed" if self.cause else "ok"

    def wire(self) -> dict[str, Any]:
        return {
            "channel": self.channel.name,
            "model": self.model,
            "result": self.label,
            "ms": self.milliseconds,
            "cause": self.cause or None,
            "fix": self.fix or None,
        }


def try_channels(
    settings: Settings, rows: Sequence[Channel], model: str | None, timeout: int
) -> Iterator[ChannelTestResult]:
    """One result a channel, as each arrives. `model` is None for the first model of each; `timeout` is in seconds."""
    watched = WatchedTable(settings.channels, lambda: read_environment(settings.home), formats.names())
    with closing(Channels(watched, connections=1)) as channels:
        for channel in rows:
            yield _try_channel(channels, _with_timeout(channel, timeout), model)


def _with_timeout(channel: Channel, timeout: int) -> Channel:
    timeouts = channel.timeouts
    bounded = {name: min(timeout, getattr(timeouts, name)) for name in ("connect", "first_byte", "idle", "total")}
    return replace(channel, timeouts=replace(timeouts, **bounded))


def _try_channel(channels: Channels, channel: Channel, model: str | None) -> ChannelTestResult:
    model = model or next(iter(channel.models), None)
    if channel.missing_key or not channel.enabled:
        return ChannelTestResult(channel, None, cause=channel.missing_key or "it is disabled")
    if model is None:
        return ChannelTestResult(channel, None, cause="it names no model, only globs", fix="name one with --model")
    started_at = monotonic()
    cause, fix = "", ""
    try:
        with channels.selected(channel, model) as selected:
            answer = unstreamed_answer(_turn(model), selected, None)
            if answer.status == "failed":
                raise UpstreamFailed((answer.error or {}).get("message") or "The upstream's response has failed.")
    except GatewayError as error:
        cause, fix = _cause(error), next((fix for kind, fix in _FIXES if isinstance(error, kind)), "")
    return ChannelTestResult(channel, model, round((monotonic() - started_at) * 1000), cause, fix)


def _cause(error: GatewayError) -> str:
    """The message, with what the system said of the connection, such as `errno=ECONNREFUSED`."""
    detail = error.cause if isinstance(error, UpstreamError) else ""
    return f"{error.message} ({detail})" if detail else error.message


def _turn(model: str) -> Turn:
    message = {"type": "message", "role": "user", "content": [{"type": "input_text", "text": _PROMPT}]}
    request = {"model": model, "input": [message], "max_output_tokens": _MAX_OUTPUT_TOKENS}
    return Turn(
        id=ids.new("resp"),
        owner="",
        created_at=int(time()),
        model=model,
        request=request,
        input=[message],
        echo=Echo.of(request, store=False),
        store=False,
    )
