"""The results of attempts as labels and attributes: few words, and none of an upstream's."""

from __future__ import annotations

from app import errors

#: For what has no name of the gateway's or the operator's.
OTHER = "other"


def _failure_codes() -> frozenset[str]:
    """The codes of our own errors. An upstream may send any other."""
    kinds, codes = [errors.GatewayError], set()
    while kinds:
        kind = kinds.pop()
        kinds += kind.__subclasses__()
        codes |= {kind.code, kind.type}
    return frozenset(code for code in codes if isinstance(code, str))


_FAILURES = _failure_codes()


def failure_of(code: object) -> str:
    return code if isinstance(code, str) and code in _FAILURES else OTHER
