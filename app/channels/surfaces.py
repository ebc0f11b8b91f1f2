"""The endpoints at which a model can be used, and the channels that serve each of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from operator import attrgetter

from app import formats
from app.contract.channel import Channel
from app.errors import FormatNotServed, InvalidRequest, unknown_model, unknown_passthrough_model


@dataclass(frozen=True, slots=True)
class Surface:
    path: str
    code: str
    """Error code for a model that no channel serves at this endpoint."""
    serves: Callable[[Channel], bool]
    unknown: Callable[[str, str | None], InvalidRequest]
    """The error for a model that no channel has, from its name and the nearest known name."""

    def not_served(self, model: str, serving: Sequence[Channel]) -> FormatNotServed:
        """The error names the endpoints that serve the model."""
        others = [surface.path for surface in SURFACES if any(map(surface.serves, serving))]
        hint = f" Use POST {' or '.join(others)} for it." if others else ""
        return FormatNotServed(
            f"No channel serves the model '{model}' at {self.path}.{hint}", code=self.code, param="model"
        )


def _passthrough(endpoint: formats.PassthroughEndpoint) -> Surface:
    """The surface of an endpoint that is relayed without translation. A channel serves it when its format posts to the
    same path, or when its row says so."""

    def serves(channel: Channel) -> bool:
        if channel.base_url is None:
            return False
        return endpoint.in_row(channel) or _posts_to(channel, endpoint.path)

    return Surface(f"/v1{endpoint.path}", endpoint.refusal, serves, lambda model, _: unknown_passthrough_model(model))


def _posts_to(channel: Channel, path: str) -> bool:
    """Whether the channel's format posts there, whatever the model's name."""
    return formats.load(channel.format).path("", False) == path


RESPONSES = Surface("/v1/responses", "responses_not_supported", attrgetter("bridge"), unknown_model)
PASSTHROUGH = {path: _passthrough(endpoint) for path, endpoint in formats.PASSTHROUGH.items()}

SURFACES = (RESPONSES, *PASSTHROUGH.values())
