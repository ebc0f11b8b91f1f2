"""Contexts that become too long in a later exchange of a turn with tools."""

from __future__ import annotations

from typing import Any

import orjson
import pytest

from app.contract.tool_history import CallResult
from app.relay.tools.rounds import SHORT, Round, with_cut_results
from tests.relay.conftest import check_failed_stream
from tests.relay.tools.conftest import ASK, ToolCase, kinds_of, mcp
from tests.relay.tools.test_rounds import forgetful
from tests.response_contract import check_error
from tests.tool_servers.tools import REPORT
from tests.upstream import Answer, Exchange, Script, too_long
from tests.upstream_formats import lines

JSON = dict[str, Any]
FILLER = " and there was much more about it" * 1000
DUE = [{"type": "compaction", "compact_threshold": 1_000_000}]
either = pytest.mark.parametrize("streamed", [False, True], ids=["json", "sse"])
allowed = pytest.mark.parametrize(
    "keys", [{"truncation": "auto"}, {"context_management": DUE}], ids=["truncation", "context_management"]
)


def narrow(limit: int, mark: bytes = b"") -> Script:
    """A model whose window ends here, for requests that have this mark."""

    def script(exchange: Exchange, answer: Answer) -> Answer:
        body = orjson.dumps(exchange.request.body)
        return too_long()(exchange, answer) if len(body) > limit and mark in body else answer

    return script


def outputs(body: JSON) -> list[str]:
    return [str(line[1]) for line in lines(body) if line[0] == "output"]


@either
@allowed
def test_the_history_gets_shorter_and_the_turn_goes_on(tool_case: ToolCase, streamed: bool, keys: JSON) -> None:
    first = tool_case.ask(streamed, input=f"Hello{FILLER}")
    tool_case.upstream.always(*tool_case.dialect, narrow(len(FILLER), b"Oslo"))
    before = len(tool_case.server.calls)
    second = tool_case.ask(streamed, previous_response_id=first["id"], **keys)

    # The compaction could stand nowhere: it would cover what this turn has said.
    assert kinds_of(second) == ["mcp_call", "message"]
    assert len(tool_case.server.calls) == before + 1
    assert outputs(tool_case.bodies[-1]) == ["Oslo"]
    assert FILLER not in str(tool_case.bodies[-1])
    assert tool_case.gateway.get(f"/responses/{second['id']}").json()["output"] == second["output"]
    # The next turn knows the call.
    tool_case.upstream.reset()
    third = tool_case.ask(streamed, previous_response_id=second["id"], input="And now?", **keys)
    assert kinds_of(third) == ["message"]
    assert outputs(tool_case.bodies[-1]) == ["Oslo"]


@either
def test_a_stateless_client_gets_a_shorter_history_as_well(tool_case: ToolCase, streamed: bool) -> None:
    history = [{"role": "user", "content": f"Hello{FILLER}"}, {"role": "assistant", "content": "Hi."}]
    tool_case.upstream.always(*tool_case.dialect, narrow(len(FILLER), b"Oslo"))
    response = tool_case.ask(
        streamed, store=False, input=[*history, {"role": "user", "content": ASK}], context_management=DUE
    )
    assert kinds_of(response) == ["mcp_list_tools", "mcp_call", "message"]
    assert FILLER not in str(tool_case.bodies[-1])


@either
@allowed
def test_the_oldest_results_of_the_turn_are_cut(tool_case: ToolCase, streamed: bool, keys: JSON) -> None:
    tool_case.upstream.always(forgetful(), *tool_case.dialect, narrow(len(REPORT) * 2))
    response = tool_case.ask(streamed, tools=[mcp("report")], max_tool_calls=3, **keys)

    assert kinds_of(response) == ["mcp_list_tools", *["mcp_call"] * 3, "message"]
    # The client gets all of every result.
    assert {item["output"] for item in response["output"] if item["type"] == "mcp_call"} == {REPORT}
    first, second, third = outputs(tool_case.bodies[-1])
    assert third == REPORT
    for cut in (first, second):
        assert cut.startswith(REPORT[:SHORT])
        assert "the context was too long" in cut[SHORT:]
    shown = orjson.loads(tool_case.gateway.command("show", response["id"], "--json"))
    assert "cut tool results" in shown["attempts"][-1]["adapted"]


@either
def test_a_single_result_that_is_too_long_is_cut(tool_case: ToolCase, streamed: bool) -> None:
    tool_case.upstream.always(*tool_case.dialect, narrow(len(REPORT) // 2))
    response = tool_case.ask(streamed, tools=[mcp("report")], truncation="auto")
    assert kinds_of(response) == ["mcp_list_tools", "mcp_call", "message"]
    assert len(outputs(tool_case.bodies[-1])[0]) < len(REPORT) // 2


def test_the_turn_fails_where_the_request_allows_nothing_of_that(tool_case: ToolCase) -> None:
    tool_case.upstream.always(*tool_case.dialect, narrow(len(REPORT)))
    check_error(tool_case.post(tools=[mcp("report")]), 400, "context_length_exceeded", "input")
    answer = tool_case.stream(tools=[mcp("report")])
    check_failed_stream(answer.content, "context_length_exceeded")


@either
def test_the_turn_fails_when_nothing_is_left_to_cut(tool_case: ToolCase, streamed: bool) -> None:
    tool_case.upstream.always(*tool_case.dialect, narrow(0, b"report"), narrow(0, b"line"))
    if streamed:
        check_error(tool_case.stream(tools=[mcp("report")], truncation="auto"), 400, "context_length_exceeded")
    else:
        check_error(tool_case.post(tools=[mcp("report")], truncation="auto"), 400, "context_length_exceeded")


# --- which results are cut ----------------------------------------------------------------------------------------


def call(number: int, output: str) -> JSON:
    return {"type": "mcp_call", "id": f"mcp_{number}", "name": "look", "server_label": "docs", "output": output}


def one_round(number: int, output: str, **keys: Any) -> Round:
    return Round([call(number, output)], results={f"mcp_{number}": CallResult(output, **keys)})


def sizes(rounds: list[Round] | None) -> list[int]:
    assert rounds is not None
    return [len(item["output"]) for one in rounds for item in one.items]


def test_results_shrink_oldest_first_until_nothing_is_long() -> None:
    rounds: list[Round] | None = [one_round(number, "x" * 100_000) for number in range(3)]
    passes = 0
    while rounds is not None:
        before, rounds, passes = rounds, with_cut_results(rounds), passes + 1
        if rounds is not None:
            assert sum(sizes(rounds)) < sum(sizes(before))
            assert passes > 1 or sizes(rounds)[-1] == 100_000
    assert max(sizes(before)) <= 2 * SHORT
    assert passes < 8


def test_images_go_with_the_text() -> None:
    image = {"type": "input_image", "image_url": "data:image/png;base64,AAAA"}
    rounds = with_cut_results([one_round(0, "short", images=(image,)), one_round(1, "short")])
    assert rounds is not None
    assert rounds[0].results["mcp_0"] == CallResult("short")
    assert with_cut_results(rounds) is None


def test_short_results_stay() -> None:
    assert with_cut_results([]) is None
    assert with_cut_results([one_round(0, "short"), Round([{"type": "message", "role": "assistant"}])]) is None
