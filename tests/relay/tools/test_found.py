"""The time that a turn with tools may take, and what a hosted tool is said to have found."""

from __future__ import annotations

import pytest

from app.contract.tools import ToolOutcome
from app.errors import CompactionFailed, TurnTimedOut
from app.relay.tools.found import found_files, found_sources
from app.request_watch import Drain, Watch

A, B = "https://a.example", "https://b.example"


def test_of_nested_limits_the_earlier_one_holds() -> None:
    watch = Watch(None, Drain())
    with watch.limited(0, TurnTimedOut("The turn is over.")):
        with watch.limited(100, CompactionFailed("too slow")), pytest.raises(TurnTimedOut):
            watch.tick()
        with pytest.raises(TurnTimedOut):
            watch.tick()
    watch.tick()


def test_the_end_of_an_inner_limit_leaves_the_outer_one() -> None:
    watch = Watch(None, Drain())
    with watch.limited(100, TurnTimedOut("The turn is over.")):
        with watch.limited(0, CompactionFailed("too slow")), pytest.raises(CompactionFailed):
            watch.tick()
        watch.tick()
        assert watch.pause() > 0


@pytest.mark.parametrize(
    ("outcome", "urls"),
    [
        (ToolOutcome("found https://a.example in prose"), []),
        (ToolOutcome(f'[{{"url": "{A}"}}, {{"link": "{B}"}}]'), [A, B]),
        (ToolOutcome(f'{{"data": [{{"uri": "{A}"}}, {{"uri": "{A}"}}]}}'), [A]),
        (ToolOutcome("x", structured={"results": [{"url": "https://s.example"}]}), ["https://s.example"]),
        (ToolOutcome('{"results": "none"}'), []),
        (ToolOutcome("[1, 2]"), []),
        (ToolOutcome("{half"), []),
        (None, []),
    ],
)
def test_sources_are_what_a_result_really_holds(outcome: ToolOutcome | None, urls: list[str]) -> None:
    assert [source["url"] for source in found_sources(outcome)] == urls


def test_every_member_of_a_file_result_is_there() -> None:
    whole = {"text": "some words", "score": 0.5, "attributes": {"a": 1}, "url": "https://x.example/doc.pdf"}
    found = {"items": [whole, {"snippet": "bare"}]}
    assert found_files(ToolOutcome("x", structured=found)) == [
        {
            "attributes": {"a": 1},
            "file_id": "https://x.example/doc.pdf",
            "filename": "doc.pdf",
            "score": 0.5,
            "text": "some words",
        },
        {"attributes": {}, "file_id": "", "filename": "", "score": 0, "text": "bare"},
    ]
