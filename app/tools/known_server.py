"""What one process remembers of a tool server between turns: its HTTP client, its protocol and its tools."""

from __future__ import annotations

from hashlib import blake2b
from time import monotonic

import httpx2
from mcp.client.session import ClientSession
from mcp_types import DiscoverResult

from app.contract.tools import ToolServer
from app.tools import wire
from app.tools.failure import Failure
from app.tools.list_failures import ListFailures
from app.tools.listing import Listing
from app.tools.redaction import redaction

#: Seconds for which a listing is used without another look.
_FRESH = 60.0
#: Seconds after which it is no longer used. In between it is used once more, while the next one is fetched.
_USABLE = 600.0


def key_of(server: ToolServer) -> bytes:
    """A digest of all that makes a difference for its sessions: the secrets themselves are no keys of a cache."""
    url, headers = server.key
    parts = (
        server.label,
        str(url),
        *(f"{name}:{value!s}" for name, value in headers),
        f"{server.open_timeout} {server.call_timeout} {server.max_result} {server.private}",
        server.ca_file or "",
        server.protocol,
    )
    return blake2b("\0".join(parts).encode(), digest_size=16).digest()


class KnownServer:
    """Its methods run on the event loop, but for those about the listing."""

    def __init__(self, server: ToolServer) -> None:
        self.server = server
        self.redact = redaction(server)
        self.evicted = False
        self.mode = "legacy" if server.protocol == "legacy" else "auto"
        """How the next session begins: "auto", "legacy", or a version that needs no beginning."""
        self.found: DiscoverResult | None = None
        """What the server has said of itself, for that version."""
        self._http: httpx2.AsyncClient | None = None
        self._users = 0
        self._listing: Listing | None = None
        self._listed_at = 0.0
        self._failures = ListFailures()

    # The HTTP client

    def acquire(self) -> httpx2.AsyncClient:
        """The client for one more session. Making one is dear, so that all sessions share it."""
        if self._http is None:
            self._http = wire.open_client(self.server)
        self._users += 1
        return self._http

    async def release(self) -> None:
        """After the session's end. Nothing of a client's own server stays open without a session."""
        self._users -= 1
        if not self._users and (self.evicted or self.server.from_client):
            await self.close()

    async def close(self) -> None:
        http, self._http = self._http, None
        if http is not None:
            await http.aclose()

    @property
    def idle(self) -> bool:
        return not self._users

    # The protocol

    def remember(self, session: ClientSession) -> None:
        """The next session needs no probe."""
        found = session.discover_result
        version = session.protocol_version
        self.mode, self.found = (version, found) if found is not None and version else ("legacy", None)

    def forget(self) -> bool:
        """Whether another protocol than the remembered one may be tried."""
        if self.server.protocol == "legacy" or self.mode == "auto":
            return False
        self.mode, self.found = "auto", None
        return True

    # The listing

    def listed(self, listing: Listing) -> None:
        self._listing, self._listed_at = listing, monotonic()
        self._failures.clear()

    def not_listed(self, server: ToolServer, failure: Failure) -> None:
        """`server`: as the turn that asked has it from the table."""
        self._failures.note(server, failure, monotonic())

    def failure_for(self, server: ToolServer) -> Failure | None:
        """Why the server has just failed to list its tools; None when it is to be asked."""
        return self._failures.current(server, monotonic())

    @property
    def listing(self) -> Listing | None:
        """The latest one, if it is still usable."""
        return self._listing if monotonic() - self._listed_at < _USABLE else None

    @property
    def is_stale(self) -> bool:
        return monotonic() - self._listed_at >= _FRESH

    def doubt_listing(self) -> None:
        """The server has refused a call as it would refuse one for another tool: its list may have changed."""
        self._listed_at = min(self._listed_at, monotonic() - _FRESH)
