"""The origin that is compared with the operator's list is the one that the HTTP client connects to."""

from __future__ import annotations

from ipaddress import IPv6Address

import httpx2
from hypothesis import example, given
from hypothesis import strategies as st

from app.contract.tools import origin_of

_PORTS = {"http": 80, "https": 443}
_PIECES = st.sampled_from(
    [
        *("http://", "https://", "HTTP://", "//", "/", "\\", "@", ":", "#", "?", "[", "]", "::1", ".", "..", "%"),
        *("%2f", "%00", "%40", "0x7f.1", "2130706433", "127.0.0.1", "localhost", "mcp.example.com", "evil.test"),
        *("80", "443", "08080", "65536", " ", "\t", "\n", "\r", "\0", "é", "ß", "。", "a", "-", "_", "~", "!", "$"),
        *("&", "'", "(", ";"),
    ]
)


@given(st.lists(_PIECES, max_size=9).map("".join), st.sampled_from(["", "http://", "https://"]))
@example("evil.test#@mcp.example.com/", "https://")
@example("mcp.example.com:443@evil.test/", "https://")
@example("mcp.example.com\\@evil.test/", "https://")
@example("[::1]:80/mcp", "http://")
@example("127.0.0.1:08080/", "http://")
@example("[::1]8080/", "http://")
@example("[::127.0.0.1]/", "http://")
@example("[::1]'[]", "https://")
def test_the_origin_is_the_one_that_is_connected_to(rest: str, scheme: str) -> None:
    url = scheme + rest
    origin = origin_of(url)
    if origin is None:
        return
    try:
        parsed = httpx2.URL(url)
    except httpx2.InvalidURL:
        return
    shown = f"[{IPv6Address(parsed.host).compressed}]" if ":" in parsed.host else parsed.host
    port = parsed.port or _PORTS[parsed.scheme]
    listed = origin if origin.rpartition(":")[2].isdecimal() else f"{origin}:{_PORTS[parsed.scheme]}"
    assert listed == f"{parsed.scheme}://{shown}:{port}"


@given(st.lists(_PIECES, max_size=9).map("".join))
def test_any_text_has_an_origin_or_none(text: str) -> None:
    origin = origin_of(text)
    assert origin is None or origin_of(origin) == origin
