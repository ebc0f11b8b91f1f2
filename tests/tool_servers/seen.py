"""One HTTP request as a tool server received it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import orjson


@dataclass(frozen=True, slots=True)
class Seen:
    method: str
    """HTTP's."""
    path: str
    headers: Mapping[str, str]
    """With names in lower case."""
    body: bytes
    peer: tuple[str, int]
    """The client's end of the connection: requests of one connection share it."""

    @property
    def message(self) -> dict[str, Any]:
        """The JSON-RPC message; empty when the body is none."""
        try:
            found = orjson.loads(self.body)
        except orjson.JSONDecodeError:
            return {}
        return found if isinstance(found, dict) else {}

    @property
    def rpc(self) -> str:
        """JSON-RPC's method, such as "tools/call"; HTTP's when there is no message."""
        return str(self.message.get("method", self.method))
