"""Citations of sources that hosted calls have found, wherever a text contains their URLs."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.relay.tools.citations import Sources, TextCitations
from tests.relay.tools.conftest import ASK, ToolCase, mcp
from tests.upstream import byte_by_byte

JSON = dict[str, Any]
PAGE = "https://docs.example/antiphon"
TITLES = {
    PAGE: "Antiphon",
    "https://a.no": "",
    "https://a.no/x": "X",
    "https://a.no/x,y/long": "Long",
    "ftp://a.no": "F",
}
either = pytest.mark.parametrize("streamed", [False, True], ids=["json", "sse"])


def cited(text: str, titles: dict[str, str] = TITLES) -> list[str]:
    part = TextCitations(Sources(titles)).whole({"type": "output_text", "text": text, "annotations": []})
    for one in part["annotations"]:
        assert text[one["start_index"] : one["end_index"]] == one["url"]
        assert one["title"] == (titles[one["url"]] or one["url"])
    return [one["url"] for one in part["annotations"]]


@pytest.mark.parametrize(
    ("text", "urls"),
    [
        (PAGE, [PAGE]),
        (f"See [this]({PAGE}), {PAGE}.", [PAGE, PAGE]),
        (f"é😀 {PAGE}? Yes.", [PAGE]),
        (f"{PAGE}.html {PAGE}/more {PAGE}s {PAGE}#top {PAGE}?q=1", []),
        ("https://a.no/x https://a.no https://a.no/y", ["https://a.no/x", "https://a.no"]),
        ("https://a.no:8080 https://a.no.com", []),
        ("https://a.no/x,y/long and https://a.no/x,y", ["https://a.no/x,y/long", "https://a.no/x"]),
        ("docs.example/antiphon ftp://a.no", []),
        ("", []),
    ],
)
def test_exactly_the_url_is_cited(text: str, urls: list[str]) -> None:
    assert cited(text) == urls


WORDS = st.sampled_from([*TITLES, " ", ".", ",", "/x", ",y/", "long", "é", "https://", "a.no", "?", "word "])


@given(st.lists(WORDS, max_size=30).map("".join), st.data())
def test_any_division_of_the_text_gives_the_same_citations(text: str, data: st.DataObject) -> None:
    sources = Sources(TITLES)
    whole = TextCitations(sources).whole({"type": "output_text", "text": text})["annotations"]
    cuts = sorted(data.draw(st.lists(st.integers(0, len(text)), max_size=8)))
    growing, events = TextCitations(sources), list[JSON]()
    for start, end in zip([0, *cuts], [*cuts, len(text)], strict=True):
        events += growing.feed(text[start:end])
    events += growing.finish(text)
    assert events == growing.annotations == whole
    assert growing.whole({"type": "output_text", "text": text})["annotations"] == whole


def test_the_upstreams_own_annotations_stay() -> None:
    own = {"type": "url_citation", "start_index": 0, "end_index": len(PAGE), "title": "Its own", "url": PAGE}
    text = TextCitations(Sources(TITLES))
    part = text.whole({"type": "output_text", "text": f"{PAGE} {PAGE}", "annotations": [own]})
    assert part["annotations"][0] == own
    assert [one["start_index"] for one in part["annotations"]] == [0, len(PAGE) + 1]


def test_without_sources_items_stay_the_same() -> None:
    items = [{"type": "message", "content": [{"type": "output_text", "text": PAGE}]}]
    assert Sources({}).cited(items)[0] is items[0]


@either
@pytest.mark.parametrize("split", [False, True], ids=["whole", "byte by byte"])
def test_an_answer_cites_what_its_search_found(tool_case: ToolCase, streamed: bool, split: bool) -> None:
    if split:
        tool_case.upstream.always(*tool_case.dialect, byte_by_byte())
    said = f"{ASK} See {PAGE}."
    if not streamed:
        response = tool_case.create(input=said, tools=[{"type": "web_search"}])
    else:
        events = tool_case.events(input=said, tools=[{"type": "web_search"}])
        response = events[-1]["response"]
        added = [event for event in events if event["type"] == "response.output_text.annotation.added"]
        assert [event["annotation_index"] for event in added] == [0]
        done = [event for event in events if event["type"] == "response.content_part.done"]
        assert [event["annotation"] for event in added] == done[-1]["part"]["annotations"]
    part = response["output"][-1]["content"][0]
    (citation,) = part["annotations"]
    assert part["text"][citation["start_index"] : citation["end_index"]] == citation["url"] == PAGE
    assert citation["title"] == "Antiphon"
    assert tool_case.gateway.get(f"/responses/{response['id']}").json()["output"] == response["output"]


@either
def test_an_mcp_call_is_no_source(tool_case: ToolCase, streamed: bool) -> None:
    response = tool_case.ask(streamed, input=f"{ASK} See {PAGE}.", tools=[mcp("search")])
    assert PAGE in response["output"][-1]["content"][0]["text"]
    assert response["output"][-1]["content"][0]["annotations"] == []
