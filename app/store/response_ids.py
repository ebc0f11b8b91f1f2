"""The syntax of response ids."""

from __future__ import annotations

import re

# Without spaces: MySQL does not compare those at the end.
_ID = re.compile(r"[0-9A-Za-z_-]{1,64}\Z")


def known_id(value: str) -> bool:
    """Whether the text can be the id of a response. If not, no query is needed."""
    return _ID.match(value) is not None
