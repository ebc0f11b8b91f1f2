"""The address of this gateway, as a client on this machine uses it."""

from __future__ import annotations

from urllib.parse import urlsplit

from app.errors import ConfigurationError
from app.settings import Settings

EVERYWHERE = ("0.0.0.0", "[::]")  # noqa: S104 - compared, not bound


def url_of(bind: str) -> str | None:
    """`http://host:port` for a listening address; None for a unix socket."""
    if bind.startswith("unix:"):
        return None
    host, _, port = bind.rpartition(":")
    return f"http://{'127.0.0.1' if host in EVERYWHERE else host}:{port}"


def url_of_console(settings: Settings) -> str:
    """Where a browser finds the console: by the public URL if there is one."""
    base = settings.url.removesuffix("/v1").rstrip("/") or url_of(settings.bind)
    if base is None:
        raise ConfigurationError(
            "the gateway listens on a unix socket, and its public URL is not known", "set ANTIPHON_URL"
        )
    return f"{base}/console"


def can_sign_in(console: str) -> bool:
    """Whether the console shows pages at this URL: over http it does so on this machine alone."""
    parts = urlsplit(console)
    return parts.scheme == "https" or is_local(parts.hostname or "")


def is_local(host: str) -> bool:
    return host in ("localhost", "::1") or host.startswith("127.")


def curl_of(bind: str) -> str:
    """The `curl` command up to the path of the request."""
    url = url_of(bind)
    return f"curl -N --unix-socket {bind.removeprefix('unix:')} http://localhost" if url is None else f"curl -N {url}"
