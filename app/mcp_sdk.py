"""The MCP SDK is an extra of Antiphon: whether it is installed, and the words for an installation without it."""

from __future__ import annotations

import re
from importlib.metadata import PackageNotFoundError, version

_PACKAGE = "mcp"
#: As the extra `tools` in setup.cfg has it: the first version, and the first that is not supported.
_FIRST, _BEYOND = (2, 3), (3,)

#: The name of Antiphon on a public index may be a stranger's, so that no fix names it.
FIX = "pip install '.[tools]' in the checkout, or the path of Antiphon's wheel followed by [tools]"


def lack() -> str:
    """Why the SDK cannot be used; empty when it can."""
    try:
        found = version(_PACKAGE)
    except PackageNotFoundError:
        return "the MCP SDK is not installed"
    if not _FIRST <= tuple(map(int, re.findall(r"\d+", found)[:2])) < _BEYOND:
        wanted = f"{_shown(_FIRST)} or newer, below {_shown(_BEYOND)}"
        return f"the MCP SDK has version {found}, and this Antiphon needs {wanted}"
    return ""


def _shown(numbers: tuple[int, ...]) -> str:
    return ".".join(map(str, numbers))
