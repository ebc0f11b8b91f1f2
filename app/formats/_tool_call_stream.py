"""A call whose arguments are streamed, and a reader for the one string in the arguments of a custom tool."""

from __future__ import annotations

import re
from collections.abc import Iterator

import orjson

from app.contract.items import Item
from app.errors import UpstreamBroken
from app.formats._events import Emitter
from app.formats._toolbox import INPUT

#: Some servers begin a call so, and then send its arguments.
_PLACEHOLDER = "{}"


class Call:
    """A call with growing arguments. It is announced once its name is known and its arguments have begun."""

    def __init__(self) -> None:
        self.id = ""
        self.name = ""
        self.item: Item | None = None
        self.finished = False
        """The upstream has ended it."""
        self.closed = False
        """Its last event has been made."""
        self._arguments: list[str] = []
        self._is_empty_object = False
        self._unsent: list[str] = []
        self._sent: list[str] = []
        self._reader: InputReader | None = None

    def take(self, call_id: str, name: str, arguments: str) -> None:
        self.id = self.id or call_id
        # Some upstreams send the name in pieces, others repeat it with every delta of the arguments.
        if self.item is None and name != self.name:
            self.name += name
        if not self._arguments and arguments.strip() == _PLACEHOLDER:
            self._is_empty_object = True
        elif arguments:
            self._arguments.append(arguments)
            self._unsent.append(arguments)

    def require_name(self) -> None:
        if (self._arguments or self._is_empty_object) and not self.name:
            raise UpstreamBroken("The model's server sent a call without a name.")

    @property
    def begun(self) -> bool:
        """Whether its arguments have begun."""
        return bool(self._arguments)

    @property
    def has_placeholder(self) -> bool:
        """Whether its arguments are an empty object so far."""
        return self._is_empty_object and not self._arguments

    def is_like(self, name: str, arguments: str) -> bool:
        return self.name == name and ("".join(self._arguments) or _PLACEHOLDER) == (arguments or _PLACEHOLDER)

    @property
    def can_begin(self) -> bool:
        return self.item is not None or bool(self.name and (self._unsent or self._is_empty_object))

    @property
    def whole(self) -> bool:
        """Whether the arguments are a complete object."""
        if not self._arguments:
            return self._is_empty_object
        try:
            return isinstance(orjson.loads("".join(self._arguments)), dict)
        except ValueError:
            return False

    def open(self, item: Item) -> None:
        self.item = item
        if item["type"] == "custom_tool_call":
            self._reader = InputReader()

    def emit(self, emitter: Emitter) -> Iterator[bytes]:
        """The deltas of the arguments that have not been sent."""
        unsent, self._unsent = "".join(self._unsent), []
        return self._emit(emitter, self._reader.feed(unsent) if self._reader else unsent)

    def ended(self, emitter: Emitter, status: str) -> Iterator[bytes]:
        """The rest of the arguments. Clients parse them, so a completed call without arguments gets an empty object."""
        self.closed = True
        if self._reader:
            return self._emit(emitter, self._reader.rest())
        is_empty = not "".join(self._arguments).strip(" \t\r\n")
        return self._emit(emitter, "{}" if status == "completed" and is_empty else "")

    def snapshot(self, status: str = "incomplete") -> Item:
        assert self.item is not None
        if self._reader:
            return {**self.item, "input": "".join(self._sent)}
        return {**self.item, "arguments": "".join(self._sent), "status": status}

    def _emit(self, emitter: Emitter, text: str) -> Iterator[bytes]:
        assert self.item is not None
        if text:
            self._sent.append(text)
            yield emitter.argument(self.item, text)


class InputReader:
    """Reads the string in `{"input": "…"}` while it is streamed. Text that is no such object is the input itself."""

    _BEGIN = re.compile(rf'\s*\{{\s*"{INPUT}"\s*:\s*"')
    _UNIT = re.compile(
        r'[^"\\]+'
        r"|\\u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}"
        r"|\\u[0-9a-fA-F]{4}"
        r"|\\[^u]"
    )
    _LONGEST_UNIT = len(r"\ud83d\ude00")
    #: Characters before the string; more than this is not such an object.
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
        """The rest, once the arguments have ended."""
        if self._begun and not self._ended:
            return "".join(self._units(0))
        rest, self._held = self._held, ""
        # An empty object has no input, in one piece or in two.
        return "" if self._ended or rest.strip() == _PLACEHOLDER else rest

    def _units(self, needed: int) -> Iterator[str]:
        """Characters and escapes, unescaped. An escape that may become a longer one waits."""
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
