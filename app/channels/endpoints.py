"""What clients may ask of a model, and which channels can serve it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from app import formats
from app.contract.channel import Channel
from app.errors import FormatNotServed, InvalidRequest, unknown_chat_model, unknown_model
from app.formats import chat_completions


@dataclass(frozen=True, slots=True)
class Endpoint:
    path: str
    code: str
    """Of the refusal for a model that no channel serves here."""
    serves: Callable[[Channel], bool]
    unknown: Callable[[str, str | None], InvalidRequest]
    """The refusal of a model that no channel has, and the name that is nearest to it."""

    def not_served(self, model: str, serving: Sequence[Channel]) -> FormatNotServed:
        """The refusal; it names the endpoints that do serve the model."""
        others = [endpoint.path for endpoint in ENDPOINTS if any(map(endpoint.serves, serving))]
        hint = f" Use POST {' or '.join(others)} for it." if others else ""
        return FormatNotServed(
            f"No channel serves the model '{model}' at {self.path}.{hint}", code=self.code, param="model"
        )


def _answers_turns(channel: Channel) -> bool:
    return channel.bridge


def _takes_chats(channel: Channel) -> bool:
    """A chat goes upstream as it is: where the format's own requests go there, or the row says so."""
    if channel.base_url is None:
        return False
    return channel.chat or formats.load(channel.format).PATH == chat_completions.PATH


RESPONSES = Endpoint("/v1/responses", "responses_not_supported", _answers_turns, unknown_model)
CHAT = Endpoint(
    "/v1/chat/completions", "chat_completions_not_supported", _takes_chats, lambda model, _: unknown_chat_model(model)
)

ENDPOINTS = (RESPONSES, CHAT)
