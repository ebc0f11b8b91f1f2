"""The address of this gateway, as a client on this machine uses it."""

from __future__ import annotations

EVERYWHERE = ("0.0.0.0", "[::]")  # noqa: S104 - compared, not bound


def url_of(bind: str) -> str | None:
    """`http://host:port` for a listening address; None for a unix socket."""
    if bind.startswith("unix:"):
        return None
    host, _, port = bind.rpartition(":")
    return f"http://{'127.0.0.1' if host in EVERYWHERE else host}:{port}"


def curl_of(bind: str) -> str:
    """The `curl` command up to the path of the request."""
    url = url_of(bind)
    return f"curl -N --unix-socket {bind.removeprefix('unix:')} http://localhost" if url is None else f"curl -N {url}"
