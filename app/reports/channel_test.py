"""The test of a channel: a few short conversations with its upstream, as the gateway has them for its clients.

Each step shows what the upstream took and what had to be mended: remedies are found and applied as for a client's
request, and forgotten with the test.
"""

from __future__ import annotations

import base64
import math
import struct
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from time import monotonic, time
from typing import Any

import orjson

from app import formats, ids
from app.channels.affinity import Affinity
from app.channels.selection import Channels, SelectedChannel
from app.channels.watched_table import LastTable, WatchedTable
from app.contract.channel import Channel
from app.contract.items import Item, bound
from app.contract.records import Attempt, Chain, Link
from app.contract.response import Echo
from app.contract.turn import Answer, Turn
from app.errors import (
    GatewayError,
    InvalidRequest,
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
from app.relay.attempts import TurnAttempts, Unstreamed
from app.request_watch import Drain, Watch
from app.settings import Settings, read_environment

OK, MENDED, FAILED, NOT_TAKEN, NOT_RUN = "ok", "mended", "failed", "not taken", "not run"

#: The fewest output tokens that OpenAI's own models accept, and enough for a model that thinks before it answers.
_FEW, _ENOUGH = 16, 2048
_TOOL = {
    "type": "function",
    "name": "get_weather",
    "description": "Returns the temperature in a city.",
    "parameters": {
        "type": "object",
        "properties": {"city": {"type": "string"}},
        "required": ["city"],
        "additionalProperties": False,
    },
    "strict": False,
}
_ASK_FOR_CALL = "Call the tool get_weather for the weather in Paris. Then answer with the number that it returns."
_SIDE = 32

#: What the operator should do, by the kind of error; the first that matches.
_FIXES: tuple[tuple[type[GatewayError], str], ...] = (
    (UpstreamDenied, "check its api_key"),
    (UpstreamLacksModel, "check its models: the name after the ':' must be one that the upstream knows"),
    (UpstreamLimited, "wait, or request a higher limit from the upstream's operator"),
    (UpstreamUnreachable, "check its base_url and ca_file, and that the upstream's server runs"),
    (UpstreamTimeout, "check whether the upstream hangs; if it only needs longer, use --timeout"),
    (UpstreamBroken, "check its format and base_url: the server there answers in another format"),
    (UpstreamFailed, "see the log of the upstream's server"),
)


@dataclass(frozen=True, slots=True)
class Step:
    """One of the conversations. `fix`: what the operator should do when the upstream refuses it."""

    name: str
    run: Callable[[Conversation], None]
    fix: str
    optional: bool = False
    """Whether a refusal only means that the model does not take this."""


@dataclass(frozen=True, slots=True)
class StepResult:
    step: str
    label: str
    """ok, mended, failed, not taken, or not run."""
    milliseconds: int
    mended: Sequence[str] = ()
    """What the upstream did not take as a client sends it, and what replaced it."""
    cause: str = ""
    fix: str = ""

    def wire(self) -> dict[str, Any]:
        return {
            "step": self.step,
            "result": self.label,
            "ms": self.milliseconds,
            "mended": list(self.mended),
            "cause": self.cause or None,
            "fix": self.fix or None,
        }


@dataclass(frozen=True, slots=True)
class ChannelTestResult:
    """The result for one channel. `model` is None when no request was sent, for the reason in `reason`."""

    channel: Channel
    model: str | None
    steps: Sequence[StepResult] = ()
    reason: str = ""
    hint: str = ""

    @property
    def failed(self) -> StepResult | None:
        """The first step that failed."""
        return next((step for step in self.steps if step.label == FAILED), None)

    @property
    def label(self) -> str:
        if self.model is None:
            return "not asked"
        return FAILED if self.failed else OK

    @property
    def milliseconds(self) -> int:
        return sum(step.milliseconds for step in self.steps)

    @property
    def cause(self) -> str:
        return self.failed.cause if self.failed else self.reason

    @property
    def fix(self) -> str:
        return self.failed.fix if self.failed else self.hint

    def wire(self) -> dict[str, Any]:
        return {
            "channel": self.channel.name,
            "model": self.model,
            "result": self.label,
            "ms": self.milliseconds,
            "cause": self.cause or None,
            "fix": self.fix or None,
            "steps": [step.wire() for step in self.steps],
        }


def try_channels(
    settings: Settings, rows: Sequence[Channel], model: str | None, timeout: int
) -> Iterator[ChannelTestResult]:
    """One result a channel, as each arrives. `model` is None for the first model of each; `timeout` is in seconds."""
    watched = WatchedTable(settings.channels, lambda: read_environment(settings.home), formats.names())
    for row in rows:
        yield try_channel(watched, row, model, timeout)


def try_channel(
    watched: LastTable, row: Channel, model: str | None, timeout: int, limit: float = math.inf
) -> ChannelTestResult:
    """Like `try_channels`, for one row of a table that is in use. No step begins when `limit` seconds have passed."""
    with closing(_OneChannel(watched, _with_timeout(row, timeout))) as channels:
        return _try_channel(channels, row, model or next(iter(row.models), None), monotonic() + limit)


def _with_timeout(channel: Channel, timeout: int) -> Channel:
    timeouts = channel.timeouts
    bounded = {name: min(timeout, getattr(timeouts, name)) for name in ("connect", "first_byte", "idle", "total")}
    return replace(channel, timeouts=replace(timeouts, **bounded))


class _OneChannel(Channels):
    """Selects one channel for everything, whatever its state is."""

    def __init__(self, watched: LastTable, channel: Channel) -> None:
        super().__init__(watched, connections=1)
        self._channel = channel

    def select(self, model: str, *_: Any, **__: Any) -> Iterator[SelectedChannel]:
        return iter((self.selected(self._channel, model),))


def _try_channel(channels: Channels, channel: Channel, model: str | None, deadline: float) -> ChannelTestResult:
    if channel.missing_key or not channel.enabled:
        return ChannelTestResult(channel, None, reason=channel.missing_key or "it is disabled")
    if model is None:
        return ChannelTestResult(channel, None, reason="it names no model, only globs", hint="name one with --model")
    steps: list[StepResult] = []
    conversation = Conversation(channels, channel, model)
    for step in _STEPS:
        if monotonic() > deadline:
            steps.append(StepResult(step.name, NOT_RUN, 0, cause="the steps before it have taken too long"))
            continue
        steps.append(_tried(step, conversation))
        if steps[0].label == FAILED:
            # What cannot answer a word fails the other steps for the same reason.
            break
    return ChannelTestResult(channel, model, steps)


def _tried(step: Step, conversation: Conversation) -> StepResult:
    started_at = monotonic()
    conversation.mended.clear()
    label, cause, fix = OK, "", ""
    try:
        step.run(conversation)
    except GatewayError as error:
        refused = isinstance(error, UpstreamRefused | InvalidRequest)
        label = NOT_TAKEN if step.optional and refused else FAILED
        cause = _cause(error)
        fix = next((fix for kind, fix in _FIXES if isinstance(error, kind)), step.fix)
    mended = tuple(dict.fromkeys(conversation.mended))
    milliseconds = round((monotonic() - started_at) * 1000)
    if label == OK and mended:
        label = MENDED
    return StepResult(step.name, label, milliseconds, mended, cause, fix if label == FAILED else "")


def _cause(error: GatewayError) -> str:
    """The message, with what the system said of the connection, such as `errno=ECONNREFUSED`."""
    detail = error.cause if isinstance(error, UpstreamError) else ""
    return f"{error.message} ({detail})" if detail else error.message


# --- the conversations ------------------------------------------------------------------------------------------


@dataclass(slots=True)
class Conversation:
    """Turns on one channel. `mended` collects what the upstream did not take."""

    channels: Channels
    channel: Channel
    model: str
    mended: list[str] = field(default_factory=list)
    first: Link | None = None
    """The first turn, which a later step continues."""

    def ask(self, items: Sequence[Item], links: Sequence[Link] = (), **keys: Any) -> Link:
        """The turn as it would be stored. Raises GatewayError."""
        request = {"model": self.model, "input": list(items), "max_output_tokens": _ENOUGH, **keys}
        turn = Turn(
            id=ids.new("resp"),
            owner="",
            created_at=int(time()),
            model=self.model,
            request=request,
            input=items,
            echo=Echo.of(request, store=False),
            chain=Chain(tuple(links)),
            store=False,
        )
        return self._link(turn, self._answer(turn))

    def _answer(self, turn: Turn) -> Answer:
        watch = Watch(None, Drain())
        attempts = TurnAttempts(turn, self.channels, lambda turn, family: turn, _not_recorded, watch, Affinity())
        answer, attempt = attempts.first(Unstreamed(watch))
        self.mended += map(str, attempt.remedies)
        self.mended += (f"without the tool {tool}" for tool in attempt.dropped)
        if answer.status == "failed":
            raise answer.failure or UpstreamFailed("The upstream's response has failed.")
        return answer

    def _link(self, turn: Turn, answer: Answer) -> Link:
        return Link(
            id=turn.id,
            status=answer.status,
            channel=self.channel.name,
            family=self.channel.family,
            opaque=bound(item.get("type") for item in answer.output),
            input=orjson.dumps(list(turn.input)),
            output=orjson.dumps(list(answer.output)),
            input_tokens=None,
            output_tokens=None,
        )


def _not_recorded(_: Attempt) -> None:
    """The test writes no row."""


def _user(*parts: Mapping[str, Any]) -> Item:
    return {"type": "message", "role": "user", "content": list(parts)}


def _text(text: str) -> dict[str, Any]:
    return {"type": "input_text", "text": text}


def _say_something(conversation: Conversation) -> None:
    conversation.first = conversation.ask([_user(_text("ping"))], max_output_tokens=_FEW)


def _call_a_tool(conversation: Conversation) -> None:
    """A call, its output, and the answer to it."""
    question, tools = [_user(_text(_ASK_FOR_CALL))], [_TOOL]
    called = conversation.ask(question, tools=tools)
    if not (calls := _calls(called)):
        called = conversation.ask(question, tools=tools, tool_choice="required")
        if not (calls := _calls(called)):
            raise UpstreamBroken("The model answered without the call that it was asked for.")
        conversation.mended.append("set tool_choice required")
    outputs = [{"type": "function_call_output", "call_id": call["call_id"], "output": "42"} for call in calls]
    conversation.ask(outputs, [called], tools=tools)


def _calls(link: Link) -> list[Item]:
    return [item for item in orjson.loads(link.output) if item.get("type") == "function_call"]


def _go_on(conversation: Conversation) -> None:
    assert conversation.first is not None
    conversation.ask([_user(_text("And once more."))], [conversation.first], max_output_tokens=_FEW)


def _show_an_image(conversation: Conversation) -> None:
    image = {"type": "input_image", "image_url": f"data:image/png;base64,{_red_square()}", "detail": "auto"}
    conversation.ask([_user(_text("Which colour is this?"), image)], max_output_tokens=_FEW)


def _red_square() -> str:
    """A PNG of 32 by 32 pixels: some models refuse smaller ones."""
    rows = (b"\0" + b"\xff\0\0" * _SIDE) * _SIDE
    header = struct.pack(">IIBBBBB", _SIDE, _SIDE, 8, 2, 0, 0, 0)
    chunks = ((b"IHDR", header), (b"IDAT", zlib.compress(rows)), (b"IEND", b""))
    data = b"".join(
        struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body)) for kind, body in chunks
    )
    return base64.b64encode(b"\x89PNG\r\n\x1a\n" + data).decode()


_STEPS: Sequence[Step] = (
    Step("text", _say_something, "check its format, and whether the model accepts text"),
    Step("tool call", _call_a_tool, "its clients can use no tools: check whether the model and its server take them"),
    Step("second turn", _go_on, "a conversation ends after one turn: check its format and family"),
    Step("image", _show_an_image, "see the log of the upstream's server", optional=True),
)
