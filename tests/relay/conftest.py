"""One gateway with many channel pairs. A pair is a model with two channels of its own, so that failures in one test put
no channel of another test into cooldown.
"""

from __future__ import annotations

import socket
import time
from collections.abc import Callable, Iterator, Mapping
from copy import deepcopy
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Self, TypeVar

import orjson
import pytest
import requests

from app.settings import TRANSPORTS
from tests.gateway import Gateway
from tests.response_contract import ANY, check_stream
from tests.upstream import Answer, Exchange, ScriptedUpstream

JSON = dict[str, Any]
PAIR_COUNTS = {"long": 220, "short": 40}
#: Seconds for a condition. A busy machine needs less, and every timeout of the gateway that could cause it is longer.
PROMPTLY = 60.0
GLANCE = 0.01
LONG_TIMEOUTS = {"connect": 2, "first_byte": 40, "idle": 40, "total": 100}
#: Short only for an upstream that sends nothing.
SHORT_IDLE = {**LONG_TIMEOUTS, "idle": 1}
#: An upstream that answers never reaches them, however busy the machine is; `total` ends a head that never ends.
SHORT_TIMEOUTS = {"connect": 1, "first_byte": 1, "idle": 1, "total": 4}
TIMEOUTS = {"long": LONG_TIMEOUTS, "short": SHORT_TIMEOUTS}
FIRST_KEY, SECOND_KEY = {"api_key": "${KEY_OF_FIRST}"}, {"api_key": "${KEY_OF_SECOND}"}
#: Events of a stream up to its second delta: two lifecycle events, the item, its part, two deltas.
SOME_TEXT = 6
ERROR_ENDING = ["error", "response.failed"]
Pair = TypeVar("Pair", bound="ChannelPair")


@dataclass(frozen=True, slots=True)
class ChannelPair:
    """A model that `first` serves. After a failure `second` serves it."""

    PATH: ClassVar[str] = "/responses"

    gateway: Gateway
    first: ScriptedUpstream
    second: ScriptedUpstream
    model: str

    def on(self, model: str) -> Self:
        """The same gateway and upstreams with another model."""
        return replace(self, model=model)

    def body(self, **keys: Any) -> JSON:
        return {"model": self.model, "input": "Say something to me", **keys}

    def post(self, **keys: Any) -> requests.Response:
        return self.gateway.post(self.PATH, self.body(**keys))

    def stream(self, **keys: Any) -> requests.Response:
        return self.gateway.stream(self.body(**keys), self.PATH)

    def ask(self, streamed: bool, **keys: Any) -> requests.Response:
        return self.stream(**keys) if streamed else self.post(**keys)

    def dial(self, **keys: Any) -> socket.socket:
        return self.gateway.dial(self.body(**keys), self.PATH)

    def earn_retries(self) -> None:
        """Sends ordinary requests to the pair `steady`: retries are a share of the load."""
        for _ in range(15):
            assert self.on("steady").post().status_code == 200
        self.first.reset()

    def reset(self) -> None:
        """Removes the scripts and the recorded requests of both upstreams."""
        self.first.reset()
        self.second.reset()

    def stored(self, response_id: str) -> JSON:
        answer = self.gateway.get(f"/responses/{response_id}")
        assert answer.status_code == 200, answer.text
        return dict(answer.json())


@pytest.fixture(scope="session")
def upstreams() -> Iterator[tuple[ScriptedUpstream, ScriptedUpstream]]:
    keys = {"KEY_OF_FIRST": "canary-key-of-first", "KEY_OF_SECOND": "canary-key-of-second"}
    with pytest.MonkeyPatch.context() as patch:
        for name, key in keys.items():
            patch.setenv(name, key)
        first, second = (ScriptedUpstream(api_key=key) for key in keys.values())
        with first, second:
            yield first, second


@pytest.fixture(scope="session")
def transport(request: pytest.FixtureRequest) -> str:
    """The transport of streams. `on_both_transports` runs the tests of a module with each."""
    return getattr(request, "param", TRANSPORTS[0])


on_both_transports = pytest.mark.parametrize("transport", TRANSPORTS, indirect=True, scope="session")


@pytest.fixture(scope="session")
def shared_gateway(
    tmp_path_factory: pytest.TempPathFactory, upstreams: tuple[ScriptedUpstream, ScriptedUpstream], transport: str
) -> Iterator[Gateway]:
    """The gateway of all channel pairs. Its heartbeat is slow: a hang-up must be noticed without one."""
    with Gateway(tmp_path_factory.mktemp("gateway"), rows(*upstreams), threads=64, mover=transport) as gateway:
        yield gateway


def rows(first: ScriptedUpstream, second: ScriptedUpstream) -> list[JSON]:
    return [
        *pairs(first, second, PAIR_COUNTS),
        *pair("short-idle", first, second, timeout=SHORT_IDLE, cooldown={"after": 1000}),
        *pair("limited", first, second, timeout=LONG_TIMEOUTS, max_concurrency=1),
        first.channel(
            "limited-alone", models=["limited-alone"], timeout=dict(LONG_TIMEOUTS), max_concurrency=1, **FIRST_KEY
        ),
        first.channel("equal-first", models=["equal"], **FIRST_KEY),
        second.channel("equal-second", models=["equal"], **SECOND_KEY),
    ]


def pairs(first: ScriptedUpstream, second: ScriptedUpstream, counts: Mapping[str, int], **keys: Any) -> Iterator[JSON]:
    """The rows of channel pairs: `steady` and `resending`, which all tests share, and so many unused ones of each kind
    of timeouts.
    """
    shared: JSON = {"cooldown": {"after": 1000}, **keys}
    yield from pair("steady", first, second, timeout=LONG_TIMEOUTS, **shared)
    yield from pair("resending", first, second, timeout=SHORT_TIMEOUTS, retry_unanswered=True, **shared)
    for kind, models in unused_models(counts).items():
        for model in models:
            yield from pair(model, first, second, timeout=TIMEOUTS[kind], **keys)


def unused_models(counts: Mapping[str, int]) -> dict[str, Iterator[str]]:
    """The models of the pairs that no test has used yet, by the kind of their timeouts."""
    return {kind: iter([f"{kind}-{number}" for number in range(count)]) for kind, count in counts.items()}


def pair(model: str, first: ScriptedUpstream, second: ScriptedUpstream, **keys: Any) -> list[JSON]:
    """Two rows of the channel table for one model. `first` has the higher priority."""
    return [
        first.channel(f"{model}-first", models=[model], priority=10, **FIRST_KEY, **deepcopy(keys)),
        second.channel(f"{model}-second", models=[model], **SECOND_KEY, **deepcopy(keys)),
    ]


@pytest.fixture(scope="session")
def models(shared_gateway: Gateway) -> dict[str, Iterator[str]]:
    return unused_models(PAIR_COUNTS)


@pytest.fixture
def steady_pair(shared_gateway: Gateway, upstreams: tuple[ScriptedUpstream, ScriptedUpstream]) -> Iterator[ChannelPair]:
    """The pair for tests that cause no failures. They share it."""
    yield from restored(ChannelPair(shared_gateway, *upstreams, "steady"))


@pytest.fixture
def channel_pair(
    shared_gateway: Gateway, upstreams: tuple[ScriptedUpstream, ScriptedUpstream], models: dict[str, Iterator[str]]
) -> Iterator[ChannelPair]:
    """An unused pair with timeouts that no test reaches."""
    yield from restored(ChannelPair(shared_gateway, *upstreams, next(models["long"])))


@pytest.fixture
def short_timeouts(
    shared_gateway: Gateway, upstreams: tuple[ScriptedUpstream, ScriptedUpstream], models: dict[str, Iterator[str]]
) -> Iterator[ChannelPair]:
    """An unused pair with timeouts of a second."""
    yield from restored(ChannelPair(shared_gateway, *upstreams, next(models["short"])))


def restored(found: Pair) -> Iterator[Pair]:
    """The pair, whose upstreams have no scripts and no requests before and after the test."""
    found.reset()
    yield found
    found.reset()


def eventually(reached: Callable[[], Any], what: str, within: float = PROMPTLY) -> Any:
    """Polls until `reached` returns something true, and returns that."""
    deadline = time.monotonic() + within
    while not (found := reached()):
        assert time.monotonic() < deadline, f"waited {within} s for {what}"
        time.sleep(GLANCE)
    return found


class RequestTape:
    """A script that records the body of each answer and changes nothing."""

    def __init__(self) -> None:
        self.bodies: list[bytes] = []

    def __call__(self, exchange: Exchange, answer: Answer) -> Answer:
        self.bodies.append(answer.body)
        return answer


def blocks(raw: bytes) -> list[bytes]:
    """The events of a stream with LF line ends, as bytes, without comments."""
    return [block + b"\n\n" for block in raw.split(b"\n\n") if block and not block.startswith(b":")]


def events_of(raw: bytes) -> list[JSON]:
    """The parsed events of such a stream, without `[DONE]`."""
    data = [block.partition(b"data: ")[2].strip() for block in blocks(raw)]
    return [orjson.loads(line) for line in data if line != b"[DONE]"]


def check_failed_stream(raw: bytes, code: Any = ANY) -> list[JSON]:
    """Checks a stream that ends with `error` and `response.failed`, which agree. Returns its events."""
    events = check_stream(raw, status="failed")
    assert [event["type"] for event in events[-2:]] == ERROR_ENDING
    error, failed = events[-2]["error"], events[-1]["response"]["error"]
    assert (error["code"], error["message"]) == (failed["code"], failed["message"])
    assert code is ANY or error["code"] == code
    return events


def deltas(events: list[JSON]) -> str:
    return "".join(event["delta"] for event in events if event["type"] == "response.output_text.delta")


def text_of(response: JSON) -> str:
    return "".join(part["text"] for item in response["output"] for part in item["content"])


def sent_items(upstream: ScriptedUpstream) -> list[JSON]:
    """The input of the newest request to an upstream, as items."""
    given = upstream.bodies[-1]["input"]
    return [{"type": "message", "role": "user", "content": given}] if isinstance(given, str) else list(given)


def read_until(sock: socket.socket, mark: bytes) -> bytes:
    """The bytes that a socket receives, up to and including `mark`."""
    received = b""
    while mark not in received:
        data = sock.recv(65536)
        assert data, f"the connection ended before {mark!r}: {received[-400:]!r}"
        received += data
    return received


def response_id_in(received: bytes) -> str:
    start = received.index(b'"id":"resp_') + len(b'"id":"')
    return received[start : start + len("resp_") + 48].decode()
