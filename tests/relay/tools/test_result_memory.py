"""Results of tools count in the memory of their request."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.contract.tools import ToolOutcome
from app.memory import Budget, Share
from app.relay.request_context import RequestContext
from app.relay.tools.result_memory import ResultMemory

KIB = 1024
LARGE = 256 * KIB


def result(size: int) -> ToolOutcome:
    text = "x" * size
    return ToolOutcome(text, text_for_model=text, milliseconds=5, size=size)


def test_a_turn_of_many_large_results_cannot_exceed_the_budget() -> None:
    budget = Budget(64 * KIB * KIB)
    share = Share(budget)
    share.grow(60 * KIB * KIB)
    memory = ResultMemory(RequestContext("", share=share).hold_bytes)
    outcomes = [memory.held(result(LARGE)) for _ in range(7)]

    assert [outcome.error is None for outcome in outcomes] == [True] * 5 + [False] * 2
    failed = outcomes[-1]
    assert (failed.output, failed.milliseconds, failed.size) == (None, 5, LARGE)
    assert failed.error == {"type": "mcp_protocol_error", "code": -32603, "message": failed.text_for_model}
    assert budget.taken == share.size == 60 * KIB * KIB + 5 * 3 * LARGE
    # Small results still fit.
    assert memory.held(result(KIB)).error is None


@given(st.lists(st.integers(0, 40 * KIB), max_size=40))
def test_many_small_results_are_counted_together(sizes: list[int]) -> None:
    share = Share(Budget(1024 * KIB * KIB))
    memory = ResultMemory(RequestContext("", share=share).hold_bytes)
    for size in sizes:
        memory.held(result(size))
    assert 0 <= 3 * sum(sizes) - share.size < 64 * KIB


def test_images_count() -> None:
    share = Share(Budget(1024 * KIB * KIB))
    image = {"type": "input_image", "image_url": "data:image/png;base64," + "A" * LARGE}
    ResultMemory(RequestContext("", share=share).hold_bytes).held(ToolOutcome("a picture", images=(image,)))
    assert share.size > 3 * LARGE


@pytest.mark.parametrize("size", [0, LARGE])
def test_a_request_whose_memory_is_not_counted_has_all_results(size: int) -> None:
    outcome = result(size)
    assert ResultMemory(RequestContext("").hold_bytes).held(outcome) is outcome
