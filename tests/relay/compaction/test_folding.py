"""A history that is longer than the window of the model that sums it up is read in several passes."""

from __future__ import annotations

from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.relay.compaction.folding import MAX_PASSES, Passage, fold
from tests.relay.compaction.conftest import CompactionGateway, facts, requests_summary, summarising
from tests.response_contract import check_stream
from tests.upstream import Answer, Exchange, too_long

JSON = dict[str, Any]
WORDS = st.text(alphabet="ab c\n", max_size=400)
PASSAGES = st.lists(
    st.builds(Passage, st.sampled_from(["user", "assistant"]), WORDS, is_output=st.booleans()), max_size=40
)


@given(PASSAGES, st.integers(64, 4000))
def test_no_part_is_larger_than_a_pass_may_be(passages: list[Passage], budget: int) -> None:
    folded = fold(passages, budget)
    assert 1 <= len(folded.passes) <= MAX_PASSES
    assert all(sum(passage.tokens for passage in part) <= budget * 1.2 + 10 for part in folded.passes)


@given(PASSAGES)
def test_what_fits_is_read_whole_and_in_order(passages: list[Passage]) -> None:
    budget = max(64, sum(passage.tokens for passage in passages))
    folded = fold(passages, budget)
    assert "".join(passage.text for part in folded.passes for passage in part) == "".join(
        passage.text for passage in passages
    )
    assert folded.left_out == 0


def test_old_outputs_of_tools_are_cut_before_anything_else() -> None:
    said = [Passage("user", f"fact-{number} " + "word " * 100) for number in range(20)]
    outputs = [Passage("user", "line " * 2000, is_output=True) for _ in range(20)]
    passages = [passage for pair in zip(said, outputs, strict=True) for passage in pair]
    folded = fold(passages, 1500)
    read = [passage for part in folded.passes for passage in part]
    assert [passage.text for passage in read if not passage.is_output] == [passage.text for passage in said]
    assert folded.left_out > 0
    # The newest output is whole as long as the older ones make room.
    sizes = [len(passage.text) for passage in read if passage.is_output]
    assert sizes[0] < sizes[-1]


def test_the_beginning_and_the_end_of_each_text_survive() -> None:
    passages = [Passage("user", f"fact-{number} " + "word " * 2000 + f" end-{number}") for number in range(50)]
    text = "".join(passage.text for part in fold(passages, 2000).passes for passage in part)
    assert all(f"fact-{number} " in text and f" end-{number}" in text for number in range(50))
    assert "characters were left out" in text


# --- over the wire ----------------------------------------------------------------------------------------------


def within(characters: int) -> Any:
    """An upstream with such a window. It repeats the facts that it reads."""

    def script(exchange: Exchange, answer: Answer) -> Answer:
        body = exchange.request.body
        size = len(orjson.dumps(body.get("input") or body.get("messages")))
        return (too_long() if size > characters else summarising)(exchange, answer)

    return script


def long_history(characters: int) -> list[JSON]:
    """Fifty turns with a fact in each."""
    filler = "word " * (characters // 50 // 5)
    turns: list[JSON] = []
    for number in range(1, 51):
        turns.append({"role": "user", "content": f"Note fact-{number}. {filler}"})
        turns.append({"role": "assistant", "content": "Noted."})
    return turns


FORMS: dict[str, tuple[str, JSON]] = {
    "answer": ("/responses/compact", {"context_management": [{"type": "compaction", "answer": True}]}),
    "window": ("/responses/compact", {}),
    "trigger": ("/responses", {}),
    "threshold": ("/responses", {"context_management": [{"type": "compaction", "compact_threshold": 10_000}]}),
}


def request_of(form: str, characters: int) -> tuple[str, JSON]:
    """The path and the body that compact such a history by this form."""
    path, keys = FORMS[form]
    last = {"trigger": [{"type": "compaction_trigger"}], "window": []}.get(form, [{"role": "user", "content": "Go on"}])
    return path, {"model": "gpt-plain", "input": [*long_history(characters), *last], **keys}


@pytest.mark.parametrize(
    ("form", "stream"),
    # The window is never streamed.
    [(form, stream) for form in FORMS for stream in (False, True) if (form, stream) != ("window", True)],
)
def test_two_million_characters_are_compacted_through_a_small_window(
    compaction_gateway: CompactionGateway, form: str, stream: bool
) -> None:
    """32k tokens of five characters."""
    compaction_gateway.first.always(within(5 * 32_768))
    path, body = request_of(form, 2_000_000)
    answer = compaction_gateway.post(path, **body, store=False, stream=stream)
    assert answer.status_code == 200, answer.text[:500]
    output = check_stream(answer.content)[-1]["response"]["output"] if stream else answer.json()["output"]
    summaries = [body for body in compaction_gateway.first.bodies if requests_summary(body)]
    assert 8 <= len(summaries) <= MAX_PASSES + 6
    compaction = next(item for item in output if item["type"] == "compaction")
    compaction_gateway.first.always(summarising)
    compaction_gateway.create("gpt-plain", [compaction, {"role": "user", "content": "What do you know?"}], store=False)
    assert len(facts({"input": compaction_gateway.given})) >= 45


@pytest.mark.parametrize("form", FORMS)
def test_a_much_smaller_window_ends_as_well_and_says_what_was_left_out(
    compaction_gateway: CompactionGateway, form: str
) -> None:
    compaction_gateway.first.always(within(5 * 8192))
    path, body = request_of(form, 2_000_000)
    stream = form != "window"
    answer = compaction_gateway.post(path, **body, stream=stream)
    assert answer.status_code == 200, answer.text[:500]
    response = check_stream(answer.content)[-1]["response"] if stream else answer.json()
    if form == "answer":
        assert "characters left out" in compaction_gateway.gateway.command("show", response["id"])
    shown = orjson.loads(compaction_gateway.gateway.command("show", response["id"], "--json"))
    assert shown["compaction"]["left_out"] > 1_000_000
    assert shown["compaction"]["passes"] <= MAX_PASSES
