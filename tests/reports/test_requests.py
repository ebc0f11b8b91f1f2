"""A request explained, and the same request as curl."""

from __future__ import annotations

import shlex
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.channels.table import Table
from app.contract.channel import Channel
from app.contract.pauses import Pause
from app.errors import UpstreamDenied, UpstreamFailed, UpstreamTimeout, UpstreamUnreachable
from app.reports.requests import (
    ADVICE,
    LARGEST,
    advice_on,
    channels_tried,
    curl_with_text,
    curl_without_text,
    tries_of,
    was_retried,
    why_these,
)
from app.store.requests import RequestRow

BASE = "https://antiphon.internal/v1"
FAILED = {"channel": "a", "ms": 200, "status": 429, "error": "rate_limit_exceeded", "said": "slow down"}
ANSWERED = {"channel": "b", "ms": 600, "status": 200, "error": None, "dropped": ["web_search"], "shortened": True}


def row(**fields: Any) -> RequestRow:
    empty = dict.fromkeys(RequestRow._fields)
    usual = {"id": "resp_1", "status": "completed", "model": "m", "streamed": 0, "stored": 1, "attempts": ()}
    return RequestRow(**{**empty, **usual, **fields})


def channel(name: str, priority: int = 0, weight: int = 1) -> Channel:
    return Channel(name=name, format="demo", models={"m": "m"}, priority=priority, weight=weight)


# --- errors


@pytest.mark.parametrize("kind", [UpstreamDenied, UpstreamFailed, UpstreamTimeout, UpstreamUnreachable])
def test_a_failure_of_an_upstream_has_its_advice(kind: Any) -> None:
    assert kind("no").name in ADVICE


def test_a_request_that_went_well_needs_none() -> None:
    assert advice_on(row()) is None


@pytest.mark.parametrize(
    ("error", "words"),
    [
        ({"code": "rate_limit_exceeded"}, "Retry-After"),
        ({"code": "invalid_value", "type": "invalid_request_error"}, "a retry would fail as well"),
        ({"code": "made_up", "type": "invalid_request_error"}, "a retry would fail as well"),
        ({"code": "unheard_of"}, "the attempts"),
        ({}, "the attempts"),
    ],
)
def test_every_error_has_something_to_do_about_it(error: dict[str, Any], words: str) -> None:
    found = advice_on(row(status="failed", error=error))
    assert found is not None
    assert words in found.remedy


# --- attempts


def test_attempts_lie_one_after_the_other_in_the_time_of_all() -> None:
    first, second = tries_of(row(attempts=(FAILED, ANSWERED), channel="b"))
    assert (first.begin, first.share, second.begin, second.share) == (0, 25, 25, 75)
    assert (first.error, first.said, second.error) == ("rate_limit_exceeded", "slow down", None)
    assert [*second.notes] == [
        "without the tools web_search",
        "without the oldest items, because the context was too long",
    ]
    assert was_retried(row(attempts=(FAILED, ANSWERED)))
    assert not was_retried(row(attempts=(ANSWERED,)))
    assert not was_retried(row(status="failed", attempts=(FAILED,)))


def test_a_single_attempt_stands_for_itself_and_a_refused_request_has_none() -> None:
    (only,) = tries_of(row(channel="a", total_ms=9))
    assert (only.channel, only.milliseconds, only.share) == ("a", 9, 100)
    assert tries_of(row(channel=None)) == []
    assert channels_tried(row(attempts=(FAILED, FAILED, ANSWERED))) == ["a", "b"]


# --- why


@pytest.mark.parametrize(
    ("fields", "sentences"),
    [
        (
            {"channel": "a"},
            [
                "m is served by a, b and c.",
                "Priority 10: a (weight 3) and b (weight 1); a was drawn for this conversation.",
            ],
        ),
        (
            {"channel": "b", "attempts": (FAILED, ANSWERED)},
            [
                "m is served by a, b and c.",
                "Priority 10: a (weight 3) and b (weight 1); a was drawn for this conversation.",
                "a failed before its first output, so that b took over.",
            ],
        ),
        (
            {"channel": "b", "parent_channel": "b"},
            [
                "m is served by a, b and c.",
                "The turn before was answered by b, so that it was tried first: its cache is there.",
            ],
        ),
        (
            {"channel": "c"},
            ["m is served by a, b and c.", "a and b would have come first, and could take no request then."],
        ),
        ({"channel": "gone"}, ["m is served by a, b and c.", "gone does not serve it any more."]),
        ({"channel": None}, ["m is served by a, b and c."]),
    ],
)
def test_a_request_says_why_it_went_there(fields: dict[str, Any], sentences: list[str]) -> None:
    table = Table(channels=(channel("a", 10, 3), channel("b", 10), channel("c")))
    found = why_these(table, row(**fields), {})
    assert [sentence for sentence in found if not sentence.startswith("c has")] == sentences


def test_pauses_of_now_and_models_that_are_gone_are_named() -> None:
    table = Table(channels=(channel("a"), channel("b")))
    pauses = {"b": Pause("b", 1_800_000_000, 1_800_000_600)}
    assert why_these(table, row(channel="a"), pauses)[-1] == "b is paused until 2027-01-15 08:10:00 UTC."
    assert why_these(table, row(model="gone"), {}) == ["No channel of the table serves gone now."]


# --- curl


def body_of(curl: str) -> dict[str, Any]:
    """What a shell would send."""
    words = shlex.split(curl.replace("\\\n", ""))
    assert words[0] == "curl"
    assert f"{BASE}/responses" in words
    assert "Authorization: Bearer $ANTIPHON_TOKEN" in words
    body: dict[str, Any] = orjson.loads(words[words.index("-d") + 1])
    return body


def test_without_text_there_are_placeholders() -> None:
    curl = curl_without_text(BASE, row(streamed=1, parent="resp_0"))
    assert body_of(curl) == {"model": "m", "stream": True, "previous_response_id": "resp_0", "input": "…"}
    assert "-N" in curl


def test_what_was_not_stored_names_no_parent() -> None:
    assert "previous_response_id" not in body_of(curl_without_text(BASE, row(parent="resp_0", stored=0)))


words = st.text(st.characters(exclude_categories=["Cs"]))


@given(words, words, st.dictionaries(words, words, max_size=3))
def test_with_text_a_shell_sends_what_was_stored(said: str, instructions: str, metadata: dict[str, str]) -> None:
    settings = {"instructions": instructions, "metadata": metadata, "temperature": None, "store": True}
    items = [{"type": "message", "role": "user", "content": said}]
    curl = curl_with_text(BASE, row(), settings, items)
    assert curl is not None
    assert body_of(curl) == {"model": "m", "instructions": instructions, "metadata": metadata, "input": items}


def test_a_request_that_is_too_large_is_not_shown() -> None:
    assert curl_with_text(BASE, row(), {}, ["x" * LARGEST]) is None
