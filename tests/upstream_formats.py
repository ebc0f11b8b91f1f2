"""One gateway in front of an upstream of every format: each case is a model, its upstream, and the dialect of that.

What upstreams of different formats were sent is read here as one kind of script, so that a test need not know which
format it was translated into.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import Any

import orjson
import pytest
import requests

from app.formats import names
from tests.gateway import Gateway
from tests.response_contract import check_response, check_stream
from tests.upstream import STRICT, Script, ScriptedUpstream, sloppy

JSON = dict[str, Any]
#: A line of a request to an upstream: the role and the text; calls and outputs have the call's name or id as well.
SentLine = tuple[str, ...]


#: It needs no upstream: what holds for every model holds for this one.
DEMO: JSON = {"name": "demo", "format": "demo", "models": ["demo"]}
#: Channels for the one test that makes them rest.
DEAD_ENDS = ("denied", "limited")


@dataclass(frozen=True, slots=True)
class FormatSetup:
    """A format, what its row of the channel table says besides, and a dialect that all its answers are put into."""

    format: str
    keys: Mapping[str, Any]
    dialect: tuple[Script, ...] = ()


FORMAT_SETUPS = {
    name: setup
    for name, setup in {
        "exact": FormatSetup("responses", {"encrypted_reasoning": True}),
        "sloppy": FormatSetup("responses", {}, (sloppy(),)),
        "chat": FormatSetup("chat_completions", {}),
        "messages": FormatSetup("messages", {}),
    }.items()
    if setup.format in names()
}


class CheckedRequests(ABC):
    """Requests to a gateway whose answers keep the contract."""

    __slots__ = ()

    gateway: Gateway
    token: str | None = None
    """The gateway's own if None."""

    @abstractmethod
    def body(self, **keys: Any) -> JSON:
        """A request, changed by these members."""
        ...

    def post(self, **keys: Any) -> requests.Response:
        return self.gateway.post("/responses", self.body(**keys), token=self.token)

    def stream(self, **keys: Any) -> requests.Response:
        return self.gateway.stream(self.body(**keys), token=self.token)

    def create(self, **keys: Any) -> JSON:
        """An answer that keeps the contract."""
        answer = self.post(**keys)
        assert answer.status_code == 200, answer.text
        return check_response(answer.json())

    def events(self, **keys: Any) -> list[JSON]:
        """A stream that keeps the contract."""
        answer = self.stream(**keys)
        assert answer.status_code == 200, answer.text
        return check_stream(answer.content)

    def ask(self, streamed: bool, **keys: Any) -> JSON:
        """The response, either way."""
        return dict(self.events(**keys)[-1]["response"]) if streamed else self.create(**keys)


@dataclass(frozen=True, slots=True)
class FormatCase(CheckedRequests):
    """`model` is served by this upstream alone; `model-first` by it and, when it fails, by one of another format.
    `model-strict` refuses hosted tools. Those of DEAD_ENDS rest once they have failed.
    """

    name: str
    gateway: Gateway
    upstream: ScriptedUpstream
    dialect: tuple[Script, ...]
    model: str

    def on(self, suffix: str) -> FormatCase:
        """The same upstream under another model."""
        return replace(self, model=f"{self.name}-{suffix}")

    def body(self, **keys: Any) -> JSON:
        return {"model": self.model, "input": "hello", **keys}

    def enqueue(self, *scripts: Script) -> None:
        """The next answer, in this case's dialect, goes through these scripts."""
        self.upstream.enqueue(*self.dialect, *scripts)

    def reset(self) -> None:
        self.upstream.reset()
        self.upstream.always(*self.dialect)

    @property
    def sent_body(self) -> JSON:
        """The body of the newest request to the upstream."""
        return dict(self.upstream.bodies[-1])

    @property
    def sent_lines(self) -> list[SentLine]:
        """What that request says."""
        return lines(self.sent_body)


@pytest.fixture(scope="session")
def _format_cases(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, FormatCase]]:
    with ExitStack() as stack:
        upstreams = {name: stack.enter_context(ScriptedUpstream(dialect=STRICT)) for name in FORMAT_SETUPS}
        rows = [row for name in FORMAT_SETUPS for row in rows_of(name, upstreams)]
        gateway = stack.enter_context(Gateway(tmp_path_factory.mktemp("formats"), [DEMO, *rows]))
        yield {
            name: FormatCase(name, gateway, upstreams[name], setup.dialect, name)
            for name, setup in FORMAT_SETUPS.items()
        }


def rows_of(name: str, upstreams: Mapping[str, ScriptedUpstream]) -> list[JSON]:
    """The rows of a case in the channel table."""
    order = list(FORMAT_SETUPS)
    following = order[order.index(name) + 1 :] + order
    second = next(other for other in following if FORMAT_SETUPS[other].format != FORMAT_SETUPS[name].format)
    return [
        row_of(name, upstreams[name], models=[name, f"{name}-first"], priority=10),
        row_of(second, upstreams[second], name=f"{second}-after-{name}", models=[f"{name}-first"]),
        row_of(name, upstreams[name], name=f"{name}-strict", models=[f"{name}-strict"], hosted_tools="refuse"),
        *(row_of(name, upstreams[name], name=f"{name}-{end}", models=[f"{name}-{end}"]) for end in DEAD_ENDS),
    ]


def row_of(case: str, upstream: ScriptedUpstream, **keys: Any) -> JSON:
    """A channel to an upstream that speaks like this case. It has no cooldown: tests make it fail often."""
    setup = FORMAT_SETUPS[case]
    return upstream.channel(**{"name": case, "format": setup.format, "cooldown": {"after": 1000}, **setup.keys, **keys})


@pytest.fixture
def format_cases(_format_cases: dict[str, FormatCase]) -> Iterator[dict[str, FormatCase]]:
    """All of them, by name."""
    for format_case in _format_cases.values():
        format_case.reset()
    yield _format_cases
    for format_case in _format_cases.values():
        format_case.reset()


@pytest.fixture(params=[*DEMO["models"], *FORMAT_SETUPS])
def model(request: pytest.FixtureRequest, format_cases: dict[str, FormatCase]) -> str:
    """The model of each case, and the demo's."""
    name: str = request.param
    return name


@pytest.fixture
def served(format_cases: dict[str, FormatCase]) -> Gateway:
    """The gateway of all cases."""
    return next(iter(format_cases.values())).gateway


@pytest.fixture(params=FORMAT_SETUPS)
def format_case(request: pytest.FixtureRequest, format_cases: dict[str, FormatCase]) -> FormatCase:
    """Each in turn."""
    return format_cases[request.param]


@pytest.fixture(params=[name for name, setup in FORMAT_SETUPS.items() if setup.format != "responses"])
def bridge(request: pytest.FixtureRequest, format_cases: dict[str, FormatCase]) -> FormatCase:
    """Each case whose format is not the client's own."""
    return format_cases[request.param]


# --- requests to an upstream ------------------------------------------------------------------------------------


def lines(body: Mapping[str, Any]) -> list[SentLine]:
    """The conversation in a request body of any format: ("user", text), ("call", name, arguments), ("output", text)."""
    if "input" in body:
        return [*_instructed(body.get("instructions")), *_of_items(body["input"])]
    return [*_instructed(_joined(body.get("system") or "")), *_of_messages(body["messages"])]


def _instructed(text: str | None) -> list[SentLine]:
    return [("system", text)] if text else []


def _of_items(items: str | list[JSON]) -> list[SentLine]:
    if isinstance(items, str):
        return [("user", items)]
    return [line for item in items for line in _ITEMS[item.get("type") or "message"](item)]


def _of_messages(messages: list[JSON]) -> list[SentLine]:
    return [line for message in messages for line in _of_message(message)]


def _of_message(message: JSON) -> Iterator[SentLine]:
    """Of a chat or of Anthropic's: their blocks do not share names."""
    if message["role"] == "tool":
        yield ("output", _joined(message["content"]))
        return
    content = message.get("content") or []
    for block in [{"type": "text", "text": content}] if isinstance(content, str) else content:
        yield from _BLOCKS[block["type"]](block, message["role"])
    for call in message.get("tool_calls") or ():
        yield ("call", call["function"]["name"], call["function"]["arguments"])


def _joined(content: Any) -> str:
    if isinstance(content, str):
        return content
    return "\n".join(part["text"] for part in content if part.get("text"))


def _message_item(item: JSON) -> Iterator[SentLine]:
    content = item["content"]
    for part in [{"type": "input_text", "text": content}] if isinstance(content, str) else content:
        text = part.get("text", part.get("refusal"))
        role = "system" if item["role"] == "developer" else item["role"]
        yield (role, text) if text is not None else (role, f"<{part['type'].removeprefix('input_')}>")


def _call_item(item: JSON) -> Iterator[SentLine]:
    yield ("call", item["name"], str(item.get("arguments", item.get("input"))))


def _output_item(item: JSON) -> Iterator[SentLine]:
    yield ("output", _joined(item["output"]))


def _text_block(block: JSON, role: str) -> Iterator[SentLine]:
    yield (role, block["text"])


def _call_block(block: JSON, role: str) -> Iterator[SentLine]:
    yield ("call", block["name"], orjson.dumps(block["input"]).decode())


def _result_block(block: JSON, role: str) -> Iterator[SentLine]:
    yield ("output", _joined(block.get("content") or ""))
    if isinstance(block.get("content"), list):
        yield from (("user", "<image>") for inner in block["content"] if inner["type"] == "image")


def _nothing(*_: Any) -> Iterator[SentLine]:
    yield from ()


_ITEMS: dict[str, Callable[[JSON], Iterator[SentLine]]] = {
    "message": _message_item,
    "function_call": _call_item,
    "custom_tool_call": _call_item,
    "function_call_output": _output_item,
    "custom_tool_call_output": _output_item,
    "reasoning": _nothing,
    "additional_tools": _nothing,
}
_BLOCKS: dict[str, Callable[[JSON, str], Iterator[SentLine]]] = {
    "text": _text_block,
    "image": lambda block, role: iter([(role, "<image>")]),
    "image_url": lambda block, role: iter([(role, "<image>")]),
    "file": lambda block, role: iter([(role, "<file>")]),
    "document": lambda block, role: iter([(role, "<file>")]),
    "tool_use": _call_block,
    "tool_result": _result_block,
    "thinking": _nothing,
    "redacted_thinking": _nothing,
}
