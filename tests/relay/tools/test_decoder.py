"""The calls in an upstream's stream, as the items that show calls of tool servers.

Any split of the upstream's bytes gives the same events.

The bytes are those that a model server of each format sends for the very request that the gateway would send.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from itertools import pairwise
from typing import Any

import orjson
import pytest
import requests
from hypothesis import given
from hypothesis import strategies as st

from app import formats
from app.contract.records import Token
from app.contract.tools import Approval, HostedTool, ListedTool, ToolServer, ToolTable
from app.contract.turn import Answer, Turn
from app.formats import Decoder
from app.relay.tools.decoder import ToolDecoder
from app.relay.tools.model_calls import AnswerCalls, Fate
from app.relay.tools.toolset import Toolset, servers_named
from tests.formats.conversations import events, row, turn
from tests.upstream import STRICT, ScriptedUpstream
from tests.upstream_formats import FORMAT_SETUPS

JSON = dict[str, Any]
TEXT = {"type": "object", "properties": {"text": {"type": "string"}}, "required": ["text"]}
ECHO, ADD, WIPE = ListedTool("echo", "", TEXT), ListedTool("add", "", TEXT), ListedTool("wipe", "", TEXT)
SEARCH = ListedTool("search", "", {"type": "object", "properties": {"query": {"type": "string"}}})
TABLE = ToolTable(
    servers={
        "docs": ToolServer("docs", "https://docs/mcp", approval=Approval.of("never")),
        "careful": ToolServer("careful", "https://careful/mcp"),
    },
    hosted={"web_search": HostedTool("web_search", "docs", "search")},
)
LISTINGS = {"docs": [ADD, ECHO, SEARCH], "careful": [WIPE]}
TOKEN = Token(1, "ada", "o", "ap_", tools=("*",))
USER = {
    "type": "message",
    "role": "user",
    "content": [{"type": "input_text", "text": "weather in both towns, explain"}],
}

#: The tools of a request by what its calls come to. The model calls the first and the last one that it is offered.
OFFERS: dict[str, list[JSON]] = {
    "runs": [{"type": "mcp", "server_label": "docs", "allowed_tools": ["add", "echo"]}],
    "hosted": [{"type": "web_search"}, {"type": "mcp", "server_label": "docs", "allowed_tools": ["echo"]}],
    "asks": [
        {"type": "mcp", "server_label": "docs", "allowed_tools": ["echo"]},
        {"type": "mcp", "server_label": "careful"},
    ],
    "client": [
        {"type": "mcp", "server_label": "docs", "allowed_tools": ["echo"]},
        {"type": "function", "name": "weather", "parameters": TEXT},
    ],
}
NUMBER, PLACE = 6, 3


def toolset_of(offer: str) -> tuple[Toolset, Turn]:
    request_turn = turn(USER, tools=OFFERS[offer], stream=True)
    servers = servers_named(request_turn.request, TABLE, TOKEN)
    return Toolset.of(request_turn.request, servers, LISTINGS), request_turn


@pytest.fixture(scope="module")
def upstream() -> Any:
    with ScriptedUpstream(dialect=STRICT) as server:
        yield server


@cache
def _recorded(base_url: str, key: str, setup: str, offer: str) -> tuple[Turn, bytes]:
    toolset, request_turn = toolset_of(offer)
    given_turn = toolset.exchange_turn(request_turn, first=True)
    format_ = formats.load(FORMAT_SETUPS[setup].format)
    channel = row(format=FORMAT_SETUPS[setup].format)
    body = format_.encode(given_turn, channel, "m")
    answer = requests.post(
        base_url + format_.path("m", True),
        body,
        headers={**format_.headers(key), "Content-Type": "application/json"},
        timeout=20,
    )
    assert answer.status_code == 200, answer.text
    return given_turn, answer.content


class Read:
    """One exchange, read in pieces."""

    def __init__(
        self, setup: str, offer: str, given_turn: Turn, pieces: Sequence[bytes], left: int | None = None
    ) -> None:
        toolset, _ = toolset_of(offer)
        inner: Decoder = formats.load(FORMAT_SETUPS[setup].format).decoder(given_turn, 0)
        self.calls = AnswerCalls(toolset, "resp_1", 0, left, strangers=offer == "client")
        self.decoder = ToolDecoder(inner, self.calls, NUMBER, PLACE)
        self.out = b"".join(self.decoder.feed(piece) for piece in pieces) + self.decoder.finish()
        self.events = events(self.out)

    @property
    def answer(self) -> Answer:
        assert self.decoder.answer is not None
        return self.decoder.answer

    @property
    def shown(self) -> list[JSON]:
        return self.decoder.shown([*self.answer.output], "incomplete")


@pytest.fixture(params=FORMAT_SETUPS)
def setup(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.mark.parametrize("offer", OFFERS)
def test_any_split_of_the_upstreams_bytes_gives_the_same_events(
    upstream: ScriptedUpstream, setup: str, offer: str
) -> None:
    given_turn, body = recorded(upstream, setup, offer)
    whole = Read(setup, offer, given_turn, [body])

    @given(st.lists(st.integers(0, len(body)), max_size=12))
    def check(cuts: list[int]) -> None:
        places = [0, *sorted(cuts), len(body)]
        pieces = [body[begin:end] for begin, end in pairwise(places)]
        read = Read(setup, offer, given_turn, pieces)
        assert read.out == whole.out
        assert read.shown == whole.shown

    check()
    bytewise = Read(setup, offer, given_turn, [body[at : at + 1] for at in range(len(body))])
    assert bytewise.out == whole.out


def recorded(upstream: ScriptedUpstream, setup: str, offer: str) -> tuple[Turn, bytes]:
    upstream.reset()
    upstream.always(*FORMAT_SETUPS[setup].dialect)
    return _recorded(upstream.base_url, "key", setup, offer)


@pytest.mark.parametrize("offer", OFFERS)
def test_numbers_and_places_have_no_gap_and_items_end_as_they_began(
    upstream: ScriptedUpstream, setup: str, offer: str
) -> None:
    read = Read(setup, offer, *one(recorded(upstream, setup, offer)))
    assert [event["sequence_number"] for event in read.events] == [*range(NUMBER, NUMBER + len(read.events))]
    added = [event for event in read.events if event["type"] == "response.output_item.added"]
    assert [event["output_index"] for event in added] == [*range(PLACE, PLACE + len(added))]
    assert [event["item"]["id"] for event in added] == [item["id"] for item in read.shown]
    assert [event["item"]["type"] for event in added] == [item["type"] for item in read.shown]
    assert (read.decoder.sequence, read.decoder.output_index) == (NUMBER + len(read.events), PLACE + len(added))
    own = {call.item_id for call in read.calls.with_fate(Fate.RUN)}
    open_items = {event["item"]["id"] for event in added} - {
        event["item"]["id"] for event in read.events if event["type"] == "response.output_item.done"
    }
    # The calls that are about to run are all that is open.
    assert open_items == own


def one(recording: tuple[Turn, bytes]) -> tuple[Turn, list[bytes]]:
    return recording[0], [recording[1]]


@pytest.mark.parametrize(
    ("offer", "kinds"),
    [
        ("runs", ["mcp_call", "mcp_call"]),
        ("hosted", ["web_search_call", "mcp_call"]),
        ("asks", ["mcp_call", "mcp_approval_request"]),
        ("client", ["mcp_call", "function_call"]),
    ],
)
def test_each_call_is_shown_as_what_it_is(upstream: ScriptedUpstream, setup: str, offer: str, kinds: list[str]) -> None:
    read = Read(setup, offer, *one(recorded(upstream, setup, offer)))
    assert [item["type"] for item in read.shown if item["type"] not in ("message", "reasoning")] == kinds
    assert not [event for event in read.events if offer != "client" and "function_call" in event["type"]]
    for call in read.calls.with_fate(Fate.RUN):
        assert orjson.loads(call.arguments)
    for item in read.shown:
        if item["type"] == "mcp_approval_request":
            assert item["server_label"] == "careful"
            assert orjson.loads(item["arguments"]) == {"text": "Bergen"}


def test_calls_above_the_limit_have_no_event_and_no_item(upstream: ScriptedUpstream, setup: str) -> None:
    read = Read(setup, "runs", *one(recorded(upstream, setup, "runs")), left=1)
    assert [item["type"] for item in read.shown if item["type"] not in ("message", "reasoning")] == ["mcp_call"]
    assert [event["sequence_number"] for event in read.events] == [*range(NUMBER, NUMBER + len(read.events))]
    (refused,) = read.calls.with_fate(Fate.REFUSE)
    assert refused.words == "tool call limit reached"
    assert (read.calls.left, read.calls.offered) == (0, True)


def test_calls_of_an_answer_that_was_cut_off_are_ended_and_not_run(upstream: ScriptedUpstream, setup: str) -> None:
    given_turn, body = recorded(upstream, setup, "runs")
    read = Read(setup, "runs", given_turn, [_cut(setup, body)])
    assert read.answer.status == "incomplete"
    done = [event for event in read.events if event["type"] == "response.output_item.done"]
    assert len(done) == len([event for event in read.events if event["type"] == "response.output_item.added"])
    calls = [event["item"] for event in done if event["item"]["type"] == "mcp_call"]
    assert calls
    assert {(call["status"], call["output"], call["error"]) for call in calls} == {("incomplete", None, None)}
    assert not [
        event for event in read.events if event["type"] in ("response.mcp_call.completed", "response.mcp_call.failed")
    ]


def _cut(setup: str, body: bytes) -> bytes:
    """The same answer, ended by the limit of its length."""
    replaced = {
        "responses": [
            (b"event: response.completed", b"event: response.incomplete"),
            (b'"type":"response.completed"', b'"type":"response.incomplete"'),
        ],
        "chat_completions": [(b'"finish_reason":"tool_calls"', b'"finish_reason":"length"')],
        "messages": [(b'"stop_reason":"tool_use"', b'"stop_reason":"max_tokens"')],
    }[FORMAT_SETUPS[setup].format]
    for old, new in replaced:
        body = body.replace(old, new)
    return body
