"""The memory of the results that one turn collects: they count in the request's part of the worker's budget."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from app.contract.tools import ToolOutcome
from app.errors import Overloaded, PayloadTooLarge

#: A result is in the output, in the body for the model and in the row.
_COPIES = 3
#: Bytes that are counted at once.
_COUNTED = 64 * 1024
#: JSON-RPC's code of an internal error.
_INTERNAL_ERROR = -32603
_NO_ROOM = "The result was left out: the gateway has no memory for it now."


class ResultMemory:
    def __init__(self, hold: Callable[[int], None]) -> None:
        """`hold`: counts this many bytes more. Raises PayloadTooLarge and Overloaded."""
        self._hold = hold
        self._uncounted = 0

    def held(self, outcome: ToolOutcome) -> ToolOutcome:
        """The outcome, once its memory is counted; without room for it, the failure that stands for it."""
        self._uncounted += _size(outcome)
        if self._uncounted < _COUNTED:
            return outcome
        try:
            self._hold(self._uncounted)
        except (PayloadTooLarge, Overloaded):
            return _left_out(outcome)
        finally:
            self._uncounted = 0
        return outcome


def _size(outcome: ToolOutcome) -> int:
    text = len(outcome.text_for_model.encode(errors="surrogatepass"))
    return _COPIES * (text + sum(len(str(image.get("image_url"))) for image in outcome.images))


def _left_out(outcome: ToolOutcome) -> ToolOutcome:
    error = {"type": "mcp_protocol_error", "code": _INTERNAL_ERROR, "message": _NO_ROOM}
    return replace(outcome, output=None, error=error, text_for_model=_NO_ROOM, images=(), structured=None, links=())
