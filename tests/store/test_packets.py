from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pymysql.converters import escape_string

from app.errors import TooLargeToStore
from app.store import packets

PACKET = 200_000


def size(value: str) -> int:
    """Bytes of a value as the driver writes it."""
    return len(escape_string(value).encode())


@given(st.text(min_size=1, max_size=20), st.integers(1, 20_000))
def test_the_size_is_what_the_driver_sends(text: str, times: int) -> None:
    value = text * times
    whole = size(value) if len(value) > 16_384 else 0
    assert packets.fits(PACKET, value) == (whole <= PACKET - packets.MARGIN)
    assert packets.fits(PACKET, value.encode()) or whole + len(value.encode()) > PACKET - packets.MARGIN


def test_bodies_of_one_statement_count_together() -> None:
    body = b"x" * 100_000
    assert packets.fits(PACKET, body)
    assert not packets.fits(PACKET, body, body)


def test_what_does_not_fit_is_an_error_that_names_the_limit() -> None:
    packets.check(None, [b"x" * 10**6])
    packets.check(PACKET, [1, None, "x"])
    with pytest.raises(TooLargeToStore, match=r"1,000,000 bytes.*200,000.*max_allowed_packet"):
        packets.check(PACKET, [1, b"x" * 10**6])
