"""The four rule sets keep what their servers document, on small prompts."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from tests.caches.prompts import TOKEN, Part, Prompt, prompt_of
from tests.caches.rules import MINUTE, Breakpoints, LongestPrefix, LookBack, Oracle, Slots, TooManyMarks


def part(letter: str, tokens: int, marked: bool = False) -> Part:
    """So many tokens of one letter, spoken by the client."""
    return Part(letter.encode() * tokens * TOKEN, is_marked=marked, ends_input=True)


def prompt(*parts: Part) -> Prompt:
    return Prompt(parts)


def blocks(count: int, marked: Sequence[int] = (), first: str = "A") -> Prompt:
    """Blocks of 50 tokens behind one of 1,100."""
    inner = (part(chr(ord("a") + at), 50, at in marked) for at in range(count))
    return prompt(part(first, 1100), *inner)


# --- prefixes ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("shared", "cached"), [(1023, 0), (1024, 1024), (1151, 1024), (1152, 1152), (5000, 4992)])
def test_a_prefix_counts_from_1024_tokens_on_in_steps_of_128(shared: int, cached: int) -> None:
    cache = LongestPrefix()
    assert cache.read(prompt(part("a", shared)), "key", 0).cached == 0
    reading = cache.read(prompt(part("a", shared), part("b", 300)), "key", 1)
    assert (reading.tokens, reading.cached) == (shared + 300, cached)


def test_an_unused_prefix_expires_and_a_used_one_stays() -> None:
    cache, known = LongestPrefix(), prompt(part("a", 2048))
    for minutes in (0, 9, 18):
        reading = cache.read(known, "key", minutes * MINUTE)
    assert reading.cached == 2048
    assert cache.read(known, "key", 29 * MINUTE).cached == 0


def test_requests_without_a_key_meet_other_machines_where_many_begin_alike() -> None:
    known = prompt(part("a", 2048))
    keyed, unkeyed = LongestPrefix(), LongestPrefix()
    times = [at * 5.0 for at in range(12)]
    assert sum(keyed.read(known, "key", now).cached for now in times) == 11 * 2048
    assert sum(unkeyed.read(known, None, now).cached for now in times) < 9 * 2048
    alone = LongestPrefix(others=0)
    assert sum(alone.read(known, None, now).cached for now in times) == 11 * 2048
    crowd = [keyed.read(known, "crowd", 10 * MINUTE + at).cached for at in range(40)]
    assert crowd.count(0) == 3  # the first request, and the first one of each machine that it overflows to


# --- breakpoints ------------------------------------------------------------------------------------------------


def test_an_entry_matches_where_it_was_written_and_nowhere_else() -> None:
    cache = Breakpoints()
    first = cache.read(prompt(part("a", 2000)), None, 0)
    assert (first.cached, first.written) == (0, 2000)
    second = cache.read(prompt(part("a", 2000), part("b", 10)), None, 1)
    assert (second.cached, second.written) == (2000, 10)
    assert cache.read(prompt(part("a", 2010)), None, 2).cached == 0


def test_with_explicit_breakpoints_only_marks_are_written_and_read() -> None:
    cache = Breakpoints(explicit=True)
    assert cache.read(prompt(part("a", 2000)), None, 0).written == 0
    assert cache.read(prompt(part("a", 2000, True), part("b", 10)), None, 1).written == 2000
    assert cache.read(prompt(part("a", 2000), part("b", 10)), None, 2).cached == 0
    reading = cache.read(prompt(part("a", 2000, True), part("c", 500, True)), None, 3)
    assert (reading.cached, reading.written) == (2000, 500)
    assert Breakpoints.price(reading) == 0.1 * 2000 + 1.25 * 500


def test_four_breakpoints_are_written_at_most() -> None:
    cache = Breakpoints(explicit=True)
    marked = [part(letter, 1100, True) for letter in "abcdef"]
    cache.read(prompt(*marked), None, 0)
    assert [cache.read(prompt(*marked[:count]), None, 1).cached for count in (1, 2)] == [0, 1100]
    assert Breakpoints(explicit=True).read(prompt(part("a", 1023, True)), None, 0).written == 0


# --- marks ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("more", "found"), [(0, True), (19, True), (20, False)])
def test_a_mark_finds_an_entry_at_most_twenty_blocks_before_itself(more: int, found: bool) -> None:
    cache = LookBack()
    assert cache.read(blocks(1, marked=[0]), None, 0).written == 1150
    reading = cache.read(blocks(1 + more, marked=[more]), None, 1)
    assert reading.cached == (1150 if found else 0)
    assert reading.written == 1150 + 50 * more - reading.cached


def test_five_marks_are_refused_and_small_prompts_are_not_cached() -> None:
    cache = LookBack()
    with pytest.raises(TooManyMarks):
        cache.read(blocks(6, marked=range(5)), None, 0)
    small = prompt(part("a", 1023, True))
    assert [cache.read(small, None, now).cached for now in (0, 1)] == [0, 0]
    assert LookBack(least=4096).read(blocks(3, marked=[2]), None, 0).written == 0


def test_an_entry_lives_five_minutes_from_its_last_use() -> None:
    cache = LookBack()
    readings = [cache.read(blocks(1, marked=[0]), None, minutes * MINUTE).cached for minutes in (0, 4, 8, 14)]
    assert readings == [0, 1150, 1150, 0]


def test_another_choice_of_tools_keeps_what_stands_before_the_messages() -> None:
    message = {"role": "user", "content": [{"type": "text", "text": "word " * 900}]}
    system = [{"type": "text", "text": "rule " * 900, "cache_control": {"type": "ephemeral"}}]
    body = {"system": system, "messages": [message]}
    one, two = (prompt_of("/v1/messages", {**body, "tool_choice": {"type": kind}}) for kind in ("auto", "none"))
    assert two.ends[0] <= one.shared(two) < one.ends[1]
    cache = LookBack()
    cache.read(one, None, 0)
    assert cache.read(two, None, 1).cached == one.ends[0]


# --- slots ------------------------------------------------------------------------------------------------------


def test_the_slot_with_the_longest_prefix_is_taken_and_its_tail_is_lost() -> None:
    cache = Slots(count=2)
    start = part("a", 500)
    cache.read(prompt(start, part("b", 500)), None, 0)
    assert cache.read(prompt(start, part("c", 500)), None, 1).cached == 500
    assert cache.read(prompt(start, part("b", 500)), None, 2).cached == 500
    assert cache.read(prompt(start, part("b", 500)), None, 3).cached == 999


def test_unlike_prompts_take_the_slot_that_was_not_used_for_the_longest_time() -> None:
    cache = Slots(count=2)
    one, two, three = (prompt(part(letter, 500)) for letter in "abc")
    for known in (one, two, one, three):
        cache.read(known, None, 0)
    assert cache.read(one, None, 1).cached == 499
    assert cache.read(two, None, 2).cached == 0


# --- the oracle -------------------------------------------------------------------------------------------------


def test_the_oracle_finds_the_longest_prefix_of_all_that_it_has_seen() -> None:
    oracle = Oracle()
    one, two = part("a", 700), part("b", 700)
    assert oracle.read(prompt(one, two)) == 0
    assert oracle.read(prompt(one)) == 700
    assert oracle.read(prompt(two)) == 0
    assert oracle.read(prompt(one, two, part("c", 1))) == 1400
    assert oracle.read(prompt(one, part("b", 3), part("c", 9))) == 703
