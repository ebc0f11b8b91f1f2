"""The store's errors in the words of the API. Clients match the sentences."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from types import MappingProxyType
from typing import Any

from app.errors import GatewayError, InvalidRequest, conversation_not_found, unknown_after
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

_PARENT = "previous_response_id"

_NOT_CHAINABLE = {
    "queued": ("is still queued", "previous_response_not_ready"),
    "in_progress": ("is still in progress", "previous_response_not_ready"),
    "failed": ("has failed and cannot be continued", "previous_response_failed"),
    "cancelled": ("was cancelled and cannot be continued", "previous_response_failed"),
}


def _response_missing(error: ResponseMissing) -> GatewayError:
    message = f"Previous response with id '{error.response_id}' not found."
    return InvalidRequest(message, code="previous_response_not_found", param=_PARENT)


def _not_chainable(error: ResponseNotChainable) -> GatewayError:
    sentence, code = _NOT_CHAINABLE[error.status]
    return InvalidRequest(f"Previous response with id '{error.response_id}' {sentence}.", code=code, param=_PARENT)


def _chain_too_long(error: ChainTooLong) -> GatewayError:
    return InvalidRequest(
        f"The conversation that ends with response '{error.response_id}' has over {error.limit} responses."
        " Compact it first.",
        code="chain_too_long",
        param=_PARENT,
    )


def _first_conversation_missing(error: FirstConversationMissing) -> GatewayError:
    return InvalidRequest(
        f"Previous response with id '{error.response_id}' not found:"
        f" its conversation with id '{error.conversation_id}' was deleted.",
        code="previous_response_not_found",
        param=_PARENT,
    )


def _conversation_too_long(error: ConversationTooLong) -> GatewayError:
    return InvalidRequest(
        f"The conversation with id '{error.conversation_id}' has over {error.limit} turns. Compact it first.",
        code="chain_too_long",
        param="conversation",
    )


_API_ERRORS: Mapping[type[HistoryError], Callable[[Any], GatewayError]] = MappingProxyType(
    {
        ResponseMissing: _response_missing,
        ResponseNotChainable: _not_chainable,
        ChainTooLong: _chain_too_long,
        FirstConversationMissing: _first_conversation_missing,
        ConversationMissing: lambda error: conversation_not_found(error.conversation_id),
        ConversationTooLong: _conversation_too_long,
        ItemMissing: lambda error: unknown_after(error.item_id),
    }
)


@contextmanager
def history_errors() -> Iterator[None]:
    """Turns a HistoryError inside into the GatewayError for the client."""
    try:
        yield
    except HistoryError as error:
        raise _API_ERRORS[type(error)](error) from None
