"""A pass that leaves the context above the threshold is not made again with every turn."""

from __future__ import annotations

from typing import Any

import pytest

from tests.relay.compaction.conftest import FILLER, CompactionGateway, conversation, kinds, requests_summary, user

JSON = dict[str, Any]
#: Less than the instructions take.
MANAGED: JSON = {"context_management": [{"type": "compaction", "compact_threshold": 1500}]}
SETTINGS: JSON = {**MANAGED, "instructions": "Be brief. " * 800}
MODELS = ["gpt-plain", "gpt-chat", "claude-9"]


def passes(gateway: CompactionGateway) -> int:
    return sum(map(requests_summary, gateway.first.bodies))


@pytest.mark.parametrize("model", MODELS)
def test_a_chain_waits_until_there_is_something_to_sum_up(compaction_gateway: CompactionGateway, model: str) -> None:
    last = compaction_gateway.create(model, "Due.", compaction_gateway.talk(model, 8), **SETTINGS)
    assert kinds(last["output"]) == ["compaction", "message"]
    made = passes(compaction_gateway)
    for _ in range(3):
        last = compaction_gateway.create(model, "Go on.", last["id"], **SETTINGS)
        assert kinds(last["output"]) == ["message"]
    assert passes(compaction_gateway) == made
    # A quarter of the threshold has come since.
    for _ in range(3):
        last = compaction_gateway.create(model, FILLER, last["id"], **SETTINGS)
    assert passes(compaction_gateway) > made


@pytest.mark.parametrize("model", MODELS)
def test_a_client_that_sends_everything_back_gets_no_second_item_either(
    compaction_gateway: CompactionGateway, model: str
) -> None:
    items = [*conversation(12), user("Due.")]
    for number in range(3):
        response = compaction_gateway.create(model, items, store=False, **MANAGED)
        assert ("compaction" in kinds(response["output"])) is (number == 0)
        items += [*response["output"], user("Go on.")]
    assert passes(compaction_gateway) == 1
