"""What a result becomes for the client, the store and the model."""

from __future__ import annotations

from base64 import b64encode
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.contract.tools import Link
from app.tools.results import MOST_OF_PICTURES, cut, outcome_of, size

JSON = dict[str, Any]


def outcome(*blocks: JSON, max_result: int = 1000, **members: Any) -> Any:
    return outcome_of({"content": list(blocks), **members}, max_result, lambda words: words)


def text(words: str) -> JSON:
    return {"type": "text", "text": words}


def picture(length: int) -> JSON:
    return {"type": "image", "data": "A" * length, "mimeType": "image/png"}


def test_blocks_of_text_are_joined() -> None:
    assert outcome(text("one"), text("two")).output == "one\ntwo"


def test_nothing_is_the_empty_text() -> None:
    found = outcome()
    assert (found.output, found.text_for_model, found.error) == ("", "", None)


def test_structured_content_stands_for_missing_text_alone() -> None:
    content = {"answer": "é", "wide": 2**70}
    assert outcome(structuredContent=content).output == '{"answer": "é", "wide": 1180591620717411303424}'
    beside = outcome(text("42"), structuredContent=content)
    assert (beside.output, beside.structured) == ("42", content)


def test_a_picture_has_a_label_in_the_text_and_goes_to_the_model() -> None:
    data = b64encode(bytes(120 * 1024)).decode()
    found = outcome(text("see"), {"type": "image", "data": data, "mimeType": "image/png"})
    assert found.output == "see\n[image: image/png, 120 KB]"
    assert found.images == ({"type": "input_image", "image_url": f"data:image/png;base64,{data}", "detail": "auto"},)


def test_pictures_are_passed_on_whole_or_not_at_all() -> None:
    found = outcome(picture(MOST_OF_PICTURES - 4), picture(8), picture(4))
    assert [len(image["image_url"]) for image in found.images] == [MOST_OF_PICTURES - 4 + 22, 4 + 22]
    assert found.output.splitlines()[1] == "[image: image/png, 6 bytes, too large to be passed on]"


def test_links_and_embedded_resources() -> None:
    found = outcome(
        {"type": "resource_link", "uri": "https://a.example/", "name": "a", "title": "A", "description": "About a"},
        {"type": "resource_link", "uri": "https://b.example/", "name": "b"},
        {"type": "resource", "resource": {"uri": "file:///n", "text": "notes"}},
        {"type": "resource", "resource": {"uri": "file:///p", "blob": "AAAA", "mimeType": "image/gif"}},
        {"type": "resource", "resource": {"uri": "file:///z", "blob": "AAAA", "mimeType": "application/zip"}},
        {"type": "audio", "data": "AAAA", "mimeType": "audio/wav"},
    )
    assert found.output.splitlines() == [
        "A: https://a.example/",
        "About a",
        "b: https://b.example/",
        "notes",
        "[image: image/gif, 3 bytes]",
        "[file: application/zip, 3 bytes]",
        "[audio: audio/wav, 3 bytes]",
    ]
    assert found.links == (Link("https://a.example/", "A"), Link("https://b.example/", "b"))
    assert [image["image_url"] for image in found.images] == ["data:image/gif;base64,AAAA"]


def test_an_error_has_the_servers_own_blocks() -> None:
    blocks = [{"type": "text", "text": "no such page", "annotations": {"priority": 1}}, picture(4)]
    found = outcome(*blocks, isError=True)
    assert found.output is None
    assert found.error == {"type": "mcp_tool_execution_error", "content": blocks}
    assert found.text_for_model == "no such page\n[image: image/png, 3 bytes]"
    assert found.images == ()


def test_an_error_without_words_gets_some() -> None:
    found = outcome(isError=True)
    assert found.error == {"type": "mcp_tool_execution_error", "content": [text(found.text_for_model)]}
    assert found.text_for_model


@pytest.mark.parametrize("more", [{"text": "x" * 5000}, {"text": "words", "_meta": {"wide": 2**70}}])
def test_an_error_that_is_too_large_or_cannot_be_written_is_its_text(more: JSON) -> None:
    found = outcome({"type": "text", **more}, isError=True)
    assert found.error is not None
    assert found.error["content"] == [text(found.text_for_model)]
    assert len(orjson.dumps(found.error)) < 1200


def test_a_long_text_is_cut_and_says_so() -> None:
    found = outcome(text("x" * 700 * 1024), max_result=288 * 1024)
    assert found.output.endswith("x\n[cut: 412 KB of 700 KB left out]")
    assert found.output == found.text_for_model


@given(st.text(max_size=400), st.integers(min_value=64, max_value=600))
def test_a_text_is_cut_between_characters_and_within_the_limit(words: str, limit: int) -> None:
    shown = cut(words, limit)
    if len(words.encode()) <= limit:
        assert shown == words
    else:
        kept, _, note = shown.rpartition("\n")
        assert words.startswith(kept)
        assert note.startswith("[cut: ")
        assert len(shown.encode()) <= limit


@pytest.mark.parametrize(
    ("count", "shown"), [(0, "0 bytes"), (1023, "1023 bytes"), (1024, "1 KB"), (5_000_000, "4.8 MB")]
)
def test_sizes_are_for_people(count: int, shown: str) -> None:
    assert size(count) == shown
