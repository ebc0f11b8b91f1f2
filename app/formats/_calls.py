"""A call while its arguments come in, and the one string that a custom tool's arguments hold."""

from __future__ import annotations

import re
from collections.abc import Iterator

import orjson

from app.errors import UpstreamBroken
from app.formats._events import Emitter
from app.formats._toolbox import INPUT
from app.turn import Item


class Call:
    """A call, its arguments growing. Told of once its name is known and its arguments have begun."""

    def __init__(self) -> None:
        self.id = ""
        self.name = ""
        self.item: Item | None = None
        self.finished = False
        """The upstream has said that there is no more of it."""
        self.closed = False
        """Its last event has been made."""
        self._arguments: list[str] = []
        self._untold: list[str] = []
        self._told: list[str] = []
        self._reader: InputReader | None = None

    def take(self, call_id: str, name: str, arguments: str) -> None:
        self.id = self.id or call_id
        # Some send the name in pieces, some repeat it with every piece of the arguments.
        if self.item is None and name != self.name:
            self.name += name
        if arguments:
            self._arguments.append(arguments)
            self._untold.append(arguments)

    def require_name(self) -> None:
        if self._arguments and not self.name:
            raise UpstreamBroken("The model's server sent a call without a name.")

    @property
    def begun(self) -> bool:
        """Some of its arguments have come."""
        return bool(self._arguments)

    @property
    def can_begin(self) -> bool:
        return self.item is not None or bool(self.name and self._untold)

    @property
    def whole(self) -> bool:
        """The arguments are an object that has come to its end."""
        try:
            return isinstance(orjson.loads("".join(self._arguments)), dict)
        except ValueError:
            return False

    def open(self, item: Item) -> None:
        self.item = item
        if item["type"] == "custom_tool_call":
            self._reader = InputReader()

    def told(self, emitter: Emitter) -> Iterator[bytes]:
        """The arguments that nobody has heard of yet."""
        untold, self._untold = "".join(self._untold), []
        return self._tell(emitter, self._reader.feed(untold) if self._reader else untold)

    def ended(self, emitter: Emitter, status: str) -> Iterator[bytes]:
        """What is still owed at the end; clients parse arguments, so that none at all are an empty object."""
        self.closed = True
        if self._reader:
            return self._tell(emitter, self._reader.rest())
        return self._tell(emitter, "{}" if status == "completed" and not self._arguments else "")

    def snapshot(self, status: str = "incomplete") -> Item:
        assert self.item is not None
        if self._reader:
            return {**self.item, "input": "".join(self._told)}
        return {**self.item, "arguments": "".join(self._told), "status": status}

    def _tell(self, emitter: Emitter, text: str) -> Iterator[bytes]:
        assert self.item is not None
        if text:
            self._told.append(text)
            yield emitter.argument(self.item, text)


class InputReader:
    """The string in `{"input": "…"}`, read while it is being written. What is no such object is the input itself."""

    _BEGIN = re.compile(rf'\s*\{{\s*"{INPUT}"\s*:\s*"')
    _UNIT = re.compile(
        r'[^"\\]+'
        r"|\\u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}"
        r"|\\u[0-9a-fA-F]{4}"
        r"|\\[^u]"
    )
    _LONGEST_UNIT = len(r"\ud83d\ude00")
    #: What stands before the string is short; more than this is something else.
    _MAX_BEGIN = 200

    def __init__(self) -> None:
        self._held = ""
        self._begun = False
        self._ended = False

    def feed(self, text: str) -> str:
        if self._ended:
            return ""
        self._held += text
        if not self._begun:
            begin = self._BEGIN.match(self._held[: self._MAX_BEGIN])
            if begin is None:
                return ""
            self._begun, self._held = True, self._held[begin.end() :]
        return "".join(self._units(self._LONGEST_UNIT))

    def rest(self) -> str:
        """What is left when nothing more comes."""
        if self._begun and not self._ended:
            return "".join(self._units(0))
        rest, self._held = self._held, ""
        return "" if self._ended else rest

    def _units(self, needed: int) -> Iterator[str]:
        """Plain characters and escapes, unescaped; an escape only when it cannot become a longer one."""
        at = 0
        while at < len(self._held):
            if self._held[at] == '"':
                self._ended = True
                break
            unit = self._UNIT.match(self._held, at)
            escaped = self._held[at] == "\\"
            if unit is None or (escaped and self._held[at + 1 : at + 2] == "u" and len(self._held) - at < needed):
                break
            yield _unescaped(unit[0]) if escaped else unit[0]
            at = unit.end()
        self._held = "" if self._ended else self._held[at:]


def _unescaped(escape: str) -> str:
    try:
        text: str = orjson.loads(f'"{escape}"')
    except ValueError:
        # Half of a surrogate pair, or an escape that JSON does not have.
        return "\ufffd" if escape.startswith("\\u") else escape
    return text
