"""The names under which a model sees the tools of tool servers.

Every upstream takes them, no two tools of a turn share one, and a tool has the same name in every turn of a
conversation: a server that is added, wherever it stands, changes no name of the others.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from itertools import count
from typing import Any

#: What every upstream takes: Gemini wants no leading digit, OpenAI at most 64 characters.
_FIT = re.compile(r"[A-Za-z_][A-Za-z0-9_-]{0,63}")
_UNFIT = re.compile(r"[^A-Za-z0-9_-]")
_LONGEST = 64
_DIGITS = 8

#: A tool as its server knows it: the server's label and the tool's own name.
ServerTool = tuple[str, str]


def exposed(
    tools: Sequence[ServerTool],
    taken: Collection[str] = (),
    listed: Callable[[], Iterable[ServerTool]] = tuple,
) -> Mapping[ServerTool, str]:
    """A name for each tool. `taken`: names that the model knows already, such as those of the client's functions.
    `listed`: the tools that the conversation has had before, oldest first. They choose first where two want one name.
    """
    names = _named(tools, taken)
    if all(name == next(_candidates(tool)) for tool, name in names.items()):
        return names
    places = {tool: place for place, tool in enumerate(dict.fromkeys(listed()))}
    return _named(sorted(names, key=lambda tool: places.get(tool, len(places))), taken)


def _named(tools: Iterable[ServerTool], taken: Collection[str]) -> Mapping[ServerTool, str]:
    """The first come first."""
    names: dict[ServerTool, str] = {}
    used = set(taken)
    for tool in tools:
        if tool not in names:
            names[tool] = next(name for name in _candidates(tool) if name not in used)
            used.add(names[tool])
    return names


def fallback(tool: ServerTool) -> str:
    """The name of a tool that the turn does not have: its calls in the history keep one."""
    joined = "__".join(tool)
    return joined if _FIT.fullmatch(joined) else _hashed(tool)


def function_names(tools: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """The names by which a model may call the client's own tools: a tool of a namespace also without it."""
    for tool in tools:
        name = tool.get("name")
        if tool.get("type") == "namespace":
            for inner in function_names(tool.get("tools") or ()):
                yield from (inner, f"{name}__{inner}")
        elif isinstance(name, str):
            yield name


def _candidates(tool: ServerTool) -> Iterator[str]:
    if _FIT.fullmatch(tool[1]):
        yield tool[1]
    yield fallback(tool)
    yield from (_hashed(tool, str(number)) for number in count(1))


def _hashed(tool: ServerTool, salt: str = "") -> str:
    whole = "\0".join((*tool, salt)).encode(errors="surrogatepass")
    digits = hashlib.sha256(whole).hexdigest()[:_DIGITS]
    clean = _UNFIT.sub("_", "__".join(tool))
    if not _FIT.match(clean):
        clean = f"_{clean}"
    return f"{clean[: _LONGEST - _DIGITS - 1]}_{digits}"
