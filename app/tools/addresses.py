"""Which IP addresses are public: only those may a server have that a client names by URL."""

from __future__ import annotations

from collections.abc import Iterator
from ipaddress import IPv4Address, IPv6Address, IPv6Network, ip_address

#: NAT64: the last 32 bits are the IPv4 address that a translator connects to.
_NAT64 = (IPv6Network("64:ff9b::/96"), IPv6Network("64:ff9b:1::/48"))
_LAST_32 = 0xFFFFFFFF


def is_public(address: str) -> bool:
    """Whether the address, and each address inside it, can be reached by anyone: it belongs to no machine, network or
    link of ours."""
    try:
        parsed = ip_address(address.partition("%")[0])
    except ValueError:
        return False
    return all(_is_public(one) for one in (parsed, *_inside(parsed)))


def _is_public(address: IPv4Address | IPv6Address) -> bool:
    unfit = address.is_multicast or address.is_reserved or address.is_unspecified or address.is_loopback
    local = isinstance(address, IPv6Address) and address.is_site_local
    return _is_carrier(address) or not (unfit or local or not address.is_global)


def _is_carrier(address: IPv4Address | IPv6Address) -> bool:
    """Whether the address only carries another one, which is judged instead. Releases of Python disagree on whether
    such an address is global itself."""
    return isinstance(address, IPv6Address) and (
        address.ipv4_mapped is not None
        or address.sixtofour is not None
        or any(address in network for network in _NAT64)
    )


def _inside(address: IPv4Address | IPv6Address) -> Iterator[IPv4Address]:
    """The IPv4 addresses that an IPv6 address stands for."""
    if isinstance(address, IPv4Address):
        return
    if address.ipv4_mapped is not None:
        yield address.ipv4_mapped
    if address.sixtofour is not None:
        yield address.sixtofour
    if address.teredo is not None:
        yield from address.teredo
    if any(address in network for network in _NAT64):
        yield IPv4Address(int(address) & _LAST_32)
