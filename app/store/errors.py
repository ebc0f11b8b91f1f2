"""What the store refuses: histories that are incomplete, unfinished or too long, and approvals that were given before.

The relay words these for the API.
"""

from __future__ import annotations

from app.errors import AntiphonError


class HistoryError(AntiphonError):
    """The root of these errors. Its text is for logs."""


class ResponseMissing(HistoryError):
    """A response, or an ancestor of it, is unknown, deleted or another owner's."""

    def __init__(self, response_id: str) -> None:
        super().__init__(f"response {response_id} is missing")
        self.response_id = response_id


class ResponseNotChainable(HistoryError):
    """A turn cannot continue from a response with this status."""

    def __init__(self, response_id: str, status: str) -> None:
        super().__init__(f"response {response_id} is {status}")
        self.response_id = response_id
        self.status = status


class ChainTooLong(HistoryError):
    """A chain has more responses than are loaded."""

    def __init__(self, response_id: str, limit: int) -> None:
        super().__init__(f"the chain of response {response_id} has over {limit} responses")
        self.response_id = response_id
        self.limit = limit


class FirstConversationMissing(HistoryError):
    """The conversation in which a chain began was deleted."""

    def __init__(self, response_id: str, conversation_id: str) -> None:
        super().__init__(f"conversation {conversation_id} of response {response_id} is missing")
        self.response_id = response_id
        self.conversation_id = conversation_id


class ConversationMissing(HistoryError):
    """A conversation is unknown, deleted or another owner's."""

    def __init__(self, conversation_id: str) -> None:
        super().__init__(f"conversation {conversation_id} is missing")
        self.conversation_id = conversation_id


class ConversationTooLong(HistoryError):
    """A conversation has more turns than are loaded."""

    def __init__(self, conversation_id: str, limit: int) -> None:
        super().__init__(f"conversation {conversation_id} has over {limit} turns")
        self.conversation_id = conversation_id
        self.limit = limit


class AlreadyAnswered(AntiphonError):
    """Another response has answered this approval request."""

    def __init__(self, request_id: str) -> None:
        super().__init__(f"approval request {request_id} was answered before")
        self.request_id = request_id


class ItemMissing(HistoryError):
    """The item behind which a page should begin is not in the conversation."""

    def __init__(self, item_id: str) -> None:
        super().__init__(f"item {item_id} is missing")
        self.item_id = item_id
