"""The MCP SDK is an extra of Antiphon: whether it is installed, and the words for an installation without it."""

from __future__ import annotations

from importlib.util import find_spec

_PACKAGE = "mcp"

#: The name of Antiphon on a public index may be a stranger's, so that no fix names it.
FIX = "pip install '.[tools]' in the checkout, or the path of Antiphon's wheel followed by [tools]"


def is_installed() -> bool:
    return find_spec(_PACKAGE) is not None
