"""Which texts can be the id of a response at all."""

from __future__ import annotations

import re

# Without spaces: MySQL does not compare those at the end.
_ID = re.compile(r"[0-9A-Za-z_-]{1,64}\Z")


def known_id(value: str) -> bool:
    """False for a text that cannot be the id of a response: it costs no query."""
    return _ID.match(value) is not None
