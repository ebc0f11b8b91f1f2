"""The sentences that clients match when a history cannot be loaded."""

from __future__ import annotations

import pytest

from app.errors import GatewayError
from app.relay.history_errors import history_errors
from app.store.errors import (
    ChainTooLong,
    ConversationMissing,
    ConversationTooLong,
    FirstConversationMissing,
    HistoryError,
    ItemMissing,
    ResponseMissing,
    ResponseNotChainable,
)

PARENT = "previous_response_id"
WORDED: list[tuple[HistoryError, int, str | None, str | None, str]] = [
    (ResponseMissing("resp_1"), 400, "previous_response_not_found", PARENT, "with id 'resp_1' not found."),
    (ResponseNotChainable("resp_1", "queued"), 400, "previous_response_not_ready", PARENT, "is still queued."),
    (ResponseNotChainable("resp_1", "in_progress"), 400, "previous_response_not_ready", PARENT, "still in progress."),
    (ResponseNotChainable("resp_1", "failed"), 400, "previous_response_failed", PARENT, "has failed and cannot be"),
    (ResponseNotChainable("resp_1", "cancelled"), 400, "previous_response_failed", PARENT, "was cancelled and"),
    (ChainTooLong("resp_1", 9), 400, "chain_too_long", PARENT, "'resp_1' has over 9 responses. Compact it first."),
    (FirstConversationMissing("resp_1", "conv_1"), 400, "previous_response_not_found", PARENT, "'conv_1' was deleted."),
    (ConversationMissing("conv_1"), 404, None, None, "Conversation with id 'conv_1' not found."),
    (ConversationTooLong("conv_1", 9), 400, "chain_too_long", "conversation", "has over 9 turns. Compact it first."),
    (ItemMissing("msg_1"), 400, "invalid_value", "after", "Item with id 'msg_1' not found."),
]


@pytest.mark.parametrize(("error", "status", "code", "param", "sentence"), WORDED, ids=lambda value: str(value)[:40])
def test_each_error_of_the_store_has_its_status_code_and_sentence(
    error: HistoryError, status: int, code: str | None, param: str | None, sentence: str
) -> None:
    with pytest.raises(GatewayError) as caught, history_errors():
        raise error
    worded = caught.value
    assert (worded.status, worded.code, worded.param) == (status, code, param)
    assert sentence in worded.message


def test_no_error_of_the_store_is_left_out() -> None:
    assert {type(error) for error, *_ in WORDED} == set(HistoryError.__subclasses__())
