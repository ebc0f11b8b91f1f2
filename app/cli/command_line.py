"""The command as the user has to type it: a checkout's `antiphon` is not on the PATH."""

from __future__ import annotations

import re
import shlex
import shutil
import sys
from functools import cache
from pathlib import Path

NAME = "antiphon"

#: `antiphon serve`, `antiphon tokens create NAME`, …: the name, followed by a command or an option.
_CALL = re.compile(rf"(?<![\w./-]){NAME}(?= (?:--?)?[a-z])")


@cache
def typed() -> str:
    """`antiphon` when it is on the PATH, else the path of the command."""
    if shutil.which(NAME):
        return NAME
    beside = Path(sys.executable).with_name(NAME)
    if not beside.is_file():
        return f"{shlex.quote(sys.executable)} -m app.cli"
    here = Path.cwd()
    return shlex.quote(str(beside.relative_to(here) if beside.is_relative_to(here) else beside))


def as_typed(text: str) -> str:
    """The text with its commands in a form that can be pasted into a shell."""
    return _CALL.sub(lambda _: typed(), text)
