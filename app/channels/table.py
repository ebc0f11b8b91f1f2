"""The channel table: reads channels.yaml, says everything that is wrong with it at once, and reads it again when it
changes. Knows no upstream and no database, and never shows a secret.
"""

from __future__ import annotations

import hashlib
import logging
import os
import re
import stat
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field
from difflib import get_close_matches
from fnmatch import fnmatchcase
from pathlib import Path
from types import MappingProxyType
from typing import Any, NoReturn

import yaml
from marshmallow import ValidationError

from app.errors import ConfigurationError
from app.schemas.channels import KEYS, UNKNOWN_KEY, Scalar, TableRow, is_glob, shown_key, suggestion

MAX_BYTES = 4 << 20
MAX_KEY_FILE = 64 << 10
MAX_NODES = 100_000
MAX_DEPTH = 16
MAX_PROBLEMS = 200
MAX_SHOWN = 2000

_MASK = "***"
_NOTHING: Mapping[str, Any] = MappingProxyType({})


# --- what is read -----------------------------------------------------------------------------------------------


class Secret(str):
    """Text that does not show itself in a repr."""

    __slots__ = ()

    def __repr__(self) -> str:
        return _MASK


@dataclass(frozen=True, slots=True)
class Timeouts:
    """Seconds: to connect, to the first byte of an answer, between two bytes, for the whole exchange."""

    connect: float = 5.0
    first_byte: float = 90.0
    idle: float = 120.0
    total: float = 900.0


@dataclass(frozen=True, slots=True)
class Cooldown:
    """A channel rests for `seconds` after so many failures in a row."""

    after: int = 5
    seconds: float = 30.0


@dataclass(frozen=True, slots=True)
class Channel:
    """A row of the table: an upstream, what it serves and what it may be asked."""

    name: str
    format: str
    base_url: str | None = None
    api_key: str | None = None
    headers: Mapping[str, str] = field(default_factory=dict, hash=False)
    models: Mapping[str, str] = field(default_factory=dict, hash=False)
    """Public name → the name the upstream knows; literal names only."""
    globs: tuple[str, ...] = ()
    priority: int = 0
    """Higher first."""
    weight: int = 1
    """Share among channels of the same priority."""
    max_concurrency: int | None = None
    timeouts: Timeouts = Timeouts()
    cooldown: Cooldown = Cooldown()
    family: str = ""
    """Channels of one family can read each other's opaque items; the channel's own name unless given."""
    compact: str = "gateway"
    """`native`: the upstream has /responses/compact; `trigger`: it takes compaction_trigger; `gateway`: we compact."""
    bridge: bool = True
    """False: not for /v1/responses."""
    chat: bool = False
    """The base URL also answers /chat/completions."""
    encrypted_reasoning: bool = False
    """The upstream understands `include: [reasoning.encrypted_content]`."""
    hosted_tools: str = "drop"
    system_messages: str = "merge"
    retry_unanswered: bool = False
    """A request that was accepted and never answered may be sent to another channel."""
    ca_file: str | None = None
    tags: tuple[str, ...] = ()
    enabled: bool = True
    line: int = 0
    """Where the row begins in the file."""

    def __post_init__(self) -> None:
        if not self.family:
            object.__setattr__(self, "family", self.name)
        if self.api_key is not None:
            object.__setattr__(self, "api_key", Secret(self.api_key))
        masked = {name: Secret(value) for name, value in self.headers.items()}
        object.__setattr__(self, "headers", MappingProxyType(masked))

    def upstream_model(self, model: str) -> str | None:
        """What the upstream calls this model; None when the channel does not serve it."""
        literal = self.models.get(model)
        if literal is not None:
            return literal
        return model if any(fnmatchcase(model, glob) for glob in self.globs) else None


@dataclass(frozen=True, slots=True)
class Compaction:
    """How the gateway compacts; no model means the model of the conversation."""

    model: str | None = None
    strategy: str = "auto"


@dataclass(frozen=True, slots=True)
class Problem:
    """Something wrong at one place of the file. `text` is that line with every secret masked."""

    path: str
    line: int
    column: int
    message: str
    text: str = ""
    caret: int = 0
    """Where in `text` the place is; masking moves it."""

    def __str__(self) -> str:
        return f"{self.path}:{self.line}:{self.column}: {self.message}"

    def render(self) -> str:
        """The sentence, the line, and a caret under the place."""
        if not self.text.strip():
            return str(self)
        start = max(0, self.caret - 100)
        shown = self.text[start : start + 160].rstrip()
        return f"{self}\n{shown}\n{' ' * (self.caret - start)}^"


class ChannelsInvalid(ConfigurationError):
    """The table cannot be used. `problems` are all that was found, by line."""

    def __init__(self, problems: Collection[Problem]) -> None:
        self.problems = tuple(problems)
        rendered = "\n".join(problem.render() for problem in self.problems)
        super().__init__(rendered, fix="mend the file, then run: antiphon check")


@dataclass(frozen=True, slots=True)
class Table:
    """Everything the file says, checked. Never changed: a reload makes a new one."""

    channels: tuple[Channel, ...]
    compaction: Compaction = Compaction()
    warnings: tuple[Problem, ...] = ()
    path: Path | None = None
    digest: str = ""
    """Of the file's bytes, to tell versions apart."""
    models: Mapping[str, Mapping[str, Any]] = field(default_factory=dict, hash=False)
    """Facts about models by public name: context_window, max_output_tokens, price, compact_at."""
    _ranked: tuple[Channel, ...] = field(init=False, repr=False, compare=False)
    _names: tuple[str, ...] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        enabled = [channel for channel in self.channels if channel.enabled]
        object.__setattr__(self, "_ranked", tuple(sorted(enabled, key=lambda channel: -channel.priority)))
        object.__setattr__(self, "_names", tuple(sorted({name for channel in enabled for name in channel.models})))

    def serving(self, model: str) -> list[Channel]:
        """Enabled channels that serve a model, highest priority first, equals in the file's order."""
        return [channel for channel in self._ranked if channel.upstream_model(model) is not None]

    def names(self) -> list[str]:
        """The models served under a literal name, sorted."""
        return list(self._names)

    def nearest(self, model: str) -> str | None:
        """The name somebody may have meant."""
        near = get_close_matches(model, self._names, n=1) if len(model) <= 256 else []
        return near[0] if near else None


# --- loading ----------------------------------------------------------------------------------------------------


def load(path: Path, environment: Mapping[str, str], formats: Collection[str]) -> Table:
    """Read a table whole, or raise `ChannelsInvalid` with everything that is wrong with it."""
    document = _Document(path)
    root = _parse(document)
    reading = _Reading(document, environment)
    written = reading.value(root, (), shown=True)
    _check_names(reading, written, formats)
    rows = _check(reading, written)
    document.stop_if_wrong()
    table = _build(document, reading, rows)
    document.stop_if_wrong()
    return table


@dataclass(slots=True)
class _Node:
    """A value where it stands; lines and columns count from 0. Children of a mapping are keys and values in turn."""

    kind: str
    line: int
    column: int
    end_line: int = 0
    end_column: int = 0
    text: str = ""
    plain: bool = False
    children: list[_Node] = field(default_factory=list)
    shown: bool = False
    """Its text may be shown in a problem's line."""


class _Document:
    """The file: its lines, the scalars in them, and what was found wrong."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.scalars: list[_Node] = []
        self._lines: list[str] = []
        self._errors: dict[tuple[int, int, str], None] = {}
        self._warnings: list[tuple[int, int, str]] = []
        self._parsed = False
        raw, self.mode = self._read()
        self.digest = hashlib.sha256(raw).hexdigest()[:12]
        self.source = self._decode(raw)
        # The breaks that YAML 1.1 knows, or lines would be counted differently than the parser does.
        self._lines = re.split("\r\n|[\n\r\x85\u2028\u2029]", self.source)

    def _read(self) -> tuple[bytes, int]:
        try:
            status = self.path.stat()
            if not stat.S_ISREG(status.st_mode):
                self.fail(0, 0, "is not a file")
            with self.path.open("rb") as file:
                raw = file.read(MAX_BYTES + 1)
        except (OSError, ValueError) as error:
            self.fail(0, 0, f"cannot be read: {getattr(error, 'strerror', None) or 'not a usable path'}")
        if len(raw) > MAX_BYTES:
            self.fail(0, 0, f"is larger than {MAX_BYTES >> 20} MiB")
        return raw, status.st_mode

    def _decode(self, raw: bytes) -> str:
        try:
            return raw.decode("utf-8-sig")
        except UnicodeDecodeError as error:
            line = raw.count(b"\n", 0, error.start)
            return self.fail(line, error.start - raw.rfind(b"\n", 0, error.start) - 1, "is not UTF-8 from here on")

    def error(self, line: int, column: int, message: str) -> None:
        if len(self._errors) < MAX_PROBLEMS:
            self._errors[line, column, message] = None

    def warn(self, node: _Node, message: str) -> None:
        self._warnings.append((node.line, node.column, message))

    def fail(self, line: int, column: int, message: str) -> NoReturn:
        self.error(line, column, message)
        raise self._invalid()

    def stop_if_wrong(self) -> None:
        if self._errors:
            raise self._invalid()

    def _invalid(self) -> ChannelsInvalid:
        return ChannelsInvalid([self._problem(*note) for note in sorted(self._errors)])

    def line(self, number: int) -> str:
        return self._lines[number] if number < len(self._lines) else ""

    def parsed(self) -> None:
        self._parsed = True

    def warnings(self) -> tuple[Problem, ...]:
        return tuple(self._problem(*note) for note in sorted(self._warnings))

    def _problem(self, line: int, column: int, message: str) -> Problem:
        if line >= len(self._lines) > 0:
            line, column = len(self._lines) - 1, len(self._lines[-1])
        raw = self.line(line)
        if len(raw) > MAX_SHOWN:
            return Problem(str(self.path), line + 1, column + 1, message)
        text, caret = self._masked(raw, line, column) if self._parsed else _blind(raw, column)
        return Problem(str(self.path), line + 1, column + 1, message, text.replace("\t", " "), caret)

    def _masked(self, raw: str, line: int, column: int) -> tuple[str, int]:
        """The line with nothing but indicators, known keys and harmless values, and where the column has gone."""
        out, at, caret = "", 0, -1
        for start, end, node in self._scalars_of(line, len(raw)):
            if caret < 0 and column <= start:
                caret = len(out) + len(_indicators(raw[at:column]))
            out += _indicators(raw[at:start]) + (raw[start:end] if node.shown else _MASK)
            at = end
        if caret < 0:
            caret = len(out) + len(_indicators(raw[at:column]))
        return out + _indicators(raw[at:]), caret

    def _scalars_of(self, line: int, length: int) -> Iterator[tuple[int, int, _Node]]:
        first = bisect_left(self.scalars, line, key=lambda node: node.line)
        last = bisect_right(self.scalars, line, key=lambda node: node.line)
        for node in self.scalars[max(0, first - 1) : last]:
            if node.end_line >= line:
                start = node.column if node.line == line else 0
                yield start, node.end_column if node.end_line == line else length, node


def _indicators(gap: str) -> str:
    """What stands between two values: punctuation, but no comment and nothing that could be a word."""
    return re.sub(r"[^\s:,{}\[\]?-]+", _MASK, re.sub(r"(^|\s)#.*", "", gap))


def _blind(raw: str, column: int) -> tuple[str, int]:
    """A line of a file that could not be parsed: its first word if it is a key of ours, nothing else."""
    match = re.match(r"([\s-]*)(\w*)(\s*:)?(.*)", raw, re.DOTALL)
    if match is None:
        return "", 0
    head = match[1] + (match[2] + (match[3] or "") if match[2] in KEYS else "")
    text = f"{head.rstrip()} {_MASK}" if raw[len(head) :].strip() and head.strip() else head or ""
    return (text, min(column, len(text))) if text.strip() else ("", 0)


# --- YAML -------------------------------------------------------------------------------------------------------

_Loader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)

#: What YAML allows in a file; the parsers disagree on how they report the rest.
_UNPRINTABLE = re.compile("[^\t\n\r\x20-\x7e\x85\xa0-\ud7ff\ue000-\ufefe\uff00-\ufffd\U00010000-\U0010ffff]")


def _parse(document: _Document) -> _Node:
    """The tree of the file's one document. Built from events, so that no nesting and no alias can hurt."""
    _refuse_unprintable(document)
    try:
        root = _tree(document)
    except yaml.MarkedYAMLError as error:
        line, column = _cause(error)
        document.fail(line, column, _sentence(document, error, line, column))
    except yaml.YAMLError:
        document.fail(0, 0, "is not YAML")
    document.parsed()
    if root is None or (root.kind == "scalar" and root.plain and root.text in _NULLS):
        document.fail(0, 0, "the file is empty; it needs `version: 1` and `channels:`")
    if root.kind != "mapping":
        document.fail(root.line, root.column, "must be a mapping with `version: 1` and `channels:`")
    return root


def _mark(mark: Any) -> tuple[int, int]:
    return (mark.line, mark.column) if mark else (0, 0)


def _refuse_unprintable(document: _Document) -> None:
    found = _UNPRINTABLE.search(document.source)
    if found:
        before = re.split("\r\n|[\n\r\x85\u2028\u2029]", document.source[: found.start()])
        document.fail(len(before) - 1, len(before[-1]), f"a character that YAML does not allow: U+{ord(found[0]):04X}")


def _cause(error: yaml.MarkedYAMLError) -> tuple[int, int]:
    """A key without its colon is noticed a line too late, and a lone '*' a character."""
    late = "expected ':'" in (error.problem or "") or "alias" in (error.context or "")
    return _mark((late and error.context_mark) or error.problem_mark or error.context_mark)


def _sentence(document: _Document, error: yaml.MarkedYAMLError, line: int, column: int) -> str:
    raw = document.line(line)
    here = raw[column : column + 1]
    if here == "\t":
        return "not YAML: a tab cannot indent, use blanks"
    if "alias" in (error.context or ""):
        return "not YAML: a name that begins with '*' must be quoted: \"*\""
    if here in {"@", "`", "%"}:
        return f"not YAML: a value that begins with '{here}' must be quoted"
    if "${" in raw and "flow" in (error.context or ""):
        return 'not YAML: a reference between { } or [ ] must be quoted: "${NAME}"'
    hint = "; is the indentation right?" if "block" in (error.context or "") else ""
    return f"not YAML: {_without_quotes(error.problem or error.context or 'no idea why')}{hint}"


def _without_quotes(sentence: str) -> str:
    """The parser written in Python quotes what it found, which may be a secret."""
    return re.sub(
        r"(['\"])(.*?)\1", lambda match: match[0] if len(match[2]) < 2 or match[2][0] == "<" else _MASK, sentence
    )


def _tree(document: _Document) -> _Node | None:
    root: _Node | None = None
    open_nodes: list[_Node] = []
    count = 0
    for event in yaml.parse(document.source, Loader=_Loader):
        start, end = _mark(event.start_mark), _mark(event.end_mark)
        if isinstance(event, yaml.DocumentStartEvent) and root is not None:
            document.error(*start, "a second document; the table is one")
            break
        if isinstance(event, yaml.CollectionEndEvent):
            open_nodes.pop()
        if not isinstance(event, yaml.NodeEvent):
            continue
        node = _node(document, event)
        node.end_line, node.end_column = end
        count += 1
        if count > MAX_NODES or len(open_nodes) >= MAX_DEPTH:
            document.fail(*start, f"more than {MAX_NODES} values, or nested deeper than {MAX_DEPTH}")
        if open_nodes:
            open_nodes[-1].children.append(node)
        else:
            root = node
        if isinstance(event, yaml.CollectionStartEvent):
            open_nodes.append(node)
        else:
            document.scalars.append(node)
    return root


def _node(document: _Document, event: yaml.NodeEvent) -> _Node:
    line, column = _mark(event.start_mark)
    if isinstance(event, yaml.AliasEvent):
        document.error(line, column, "aliases are not supported; a name that begins with '*' must be quoted")
        return _Node("broken", line, column)
    if event.anchor is not None:
        document.error(line, column, "anchors are not supported; a value that begins with '&' must be quoted")
    if getattr(event, "tag", None) is not None:
        document.error(line, column, "tags are not supported; a value that begins with '!' must be quoted")
    if isinstance(event, yaml.ScalarEvent):
        return _Node("scalar", line, column, text=event.value, plain=not event.style)
    return _Node("mapping" if isinstance(event, yaml.MappingStartEvent) else "list", line, column)


# --- from nodes to what the schema takes ------------------------------------------------------------------------

Place = tuple[str | int, ...]

_NULLS = frozenset({"", "~", "null", "Null", "NULL"})
_HIDDEN = frozenset({"api_key", "api_key_file", "headers"})
#: Keys below which the operator chooses the keys.
_FREE = frozenset({"models", "headers"})
#: Keys with nothing but rows below them: a word right there is one that has lost its key.
_ROWS = frozenset({"channels", "defaults"})
# A default holds no brace: an unclosed one would be sought again and again to the end of the text.
_REFERENCE = re.compile(r"(\$\$\{)|\$\{([A-Za-z_][A-Za-z0-9_]*)(?::-([^{}]*))?\}|(\$\{)")


class _Reading:
    """Turns nodes into plain values with the variables put in, and remembers where each came from."""

    def __init__(self, document: _Document, environment: Mapping[str, str]) -> None:
        self.document = document
        self.nodes: dict[Place, _Node] = {}
        self.keys: dict[Place, _Node] = {}
        self.unset_keys: dict[Place, str] = {}
        """Channels' api_key whose variable is missing: no error, that channel waits."""
        self._broken: set[Place] = set()
        self._environment = environment

    def value(self, node: _Node, place: Place, *, shown: bool) -> Any:
        self.nodes[place] = node
        if node.kind == "mapping":
            return self._mapping(node, place, shown=shown)
        if node.kind == "list":
            return [self.value(child, (*place, index), shown=shown) for index, child in enumerate(node.children)]
        if node.kind == "broken":
            self._broken.add(place)
            return Scalar("")
        nearest = next((part for part in reversed(place) if isinstance(part, str)), "channels")
        node.shown = shown and nearest not in _ROWS and not (nearest == "base_url" and re.search("[@?#]", node.text))
        return None if node.plain and node.text in _NULLS else self._scalar(node, place)

    def _mapping(self, node: _Node, place: Place, *, shown: bool) -> dict[str, Any]:
        read: dict[str, Any] = {}
        free = bool(place) and place[-1] in _FREE
        for key, child in zip(node.children[::2], node.children[1::2], strict=True):
            if not self._usable(key, read):
                continue
            below = (*place, key.text)
            self.keys[below] = key
            key.shown = shown and (free or shown_key(key.text) == key.text)
            if free or key.text in KEYS:
                read[key.text] = self.value(child, below, shown=shown and key.text not in _HIDDEN)
            else:
                # What stands under a key nobody knows may be anything, even a secret: it stays unread and unshown.
                read[key.text] = None
        return read

    def _usable(self, key: _Node, read: Mapping[str, Any]) -> bool:
        if key.kind != "scalar" or not key.text:
            wrong = "a key must be a plain word"
        elif key.text == "<<" and key.plain:
            wrong = "merge keys are not supported; use defaults:"
        elif key.text in read:
            wrong = f"the key '{shown_key(key.text)}' stands here twice"
        else:
            return True
        self.document.error(key.line, key.column, wrong)
        return False

    def _scalar(self, node: _Node, place: Place) -> Scalar:
        if "${" not in node.text:
            return Scalar(node.text, node.plain)
        missing: list[str] = []

        def put_in(match: re.Match[str]) -> str:
            escaped, name, default, malformed = match.groups()
            if escaped:
                return "${"
            if malformed:
                self._refuse(node, place, "'${' begins a reference: ${NAME} or ${NAME:-default}; '$${' is a plain '${'")
                return ""
            found = self._environment.get(name, "")
            if not found and default is None and (is_key(place) or name not in self._environment):
                missing.append(name)
            return found or default or ""

        text = _REFERENCE.sub(put_in, node.text)
        for name in missing:
            self._unset(node, place, name)
        if missing and is_key(place):
            return Scalar(_MASK)
        return Scalar(text, node.plain, literal=False)

    def _unset(self, node: _Node, place: Place, name: str) -> None:
        if is_key(place):
            self.unset_keys[place] = name
            self._broken.add(place)
        else:
            self._refuse(node, place, f"the variable {name} is not set, in the environment or in .env")

    def _refuse(self, node: _Node, place: Place, message: str) -> None:
        self._broken.add(place)
        self.document.error(node.line, node.column, message)

    def complain(self, place: Place, message: str) -> None:
        """An unknown key is shown at the key, a bad value at the value, a missing key at its row."""
        unknown = message.startswith(UNKNOWN_KEY)
        if place in self._broken and not unknown:
            return
        at = self.keys.get(place) if unknown else self.nodes.get(place)
        while at is None:
            place = place[:-1]
            at = self.nodes.get(place)
        self.document.error(at.line, at.column, message)


def is_key(place: Place) -> bool:
    return len(place) == 3 and place[0] == "channels" and place[2] == "api_key"


def _check(reading: _Reading, written: Any) -> Mapping[str, Any]:
    """What the schema makes of it; its complaints go to their places."""
    try:
        return TableRow().load(written)  # type: ignore[no-any-return]
    except ValidationError as error:
        messages = error.messages_dict
    # Outside the except, so that no exception drags the values along as its context.
    for place, message in _messages(messages, ()):
        reading.complain(place, message)
    return {}


def _messages(messages: Any, place: Place) -> Iterator[tuple[Place, str]]:
    if isinstance(messages, dict):
        for key, below in messages.items():
            yield from _messages(below, place if key == "_schema" else (*place, key))
    else:
        for message in messages:
            yield place, message


def _check_names(reading: _Reading, written: Any, formats: Collection[str]) -> None:
    """What one row cannot know: the formats there are, and the names of the other rows."""
    rows = written.get("channels")
    taken: dict[str, int] = {}
    for index, row in enumerate(rows if isinstance(rows, list) else []):
        if isinstance(row, dict):
            _check_format(reading, ("channels", index, "format"), row.get("format"), formats)
            _check_name(reading, ("channels", index, "name"), row.get("name"), taken)


def _check_format(reading: _Reading, place: Place, value: Any, formats: Collection[str]) -> None:
    if not isinstance(value, Scalar) or not value.text or value.text in formats:
        return
    known = ", ".join(sorted(formats))
    quoted = f" '{shown_key(value.text)}'{suggestion(value.text, formats)}" if value.literal else ""
    reading.complain(place, f"unknown format{quoted}; there are {known}")


def _check_name(reading: _Reading, place: Place, value: Any, taken: dict[str, int]) -> None:
    if not isinstance(value, Scalar) or not value.text:
        return
    if value.text in taken:
        reading.complain(place, f"this name is taken by the channel at line {taken[value.text]}")
    taken.setdefault(value.text, reading.nodes[place].line + 1)


# --- from rows to channels --------------------------------------------------------------------------------------


def _build(document: _Document, reading: _Reading, rows: Mapping[str, Any]) -> Table:
    defaults = rows.get("defaults", _NOTHING)
    channels = []
    for index, row in enumerate(rows["channels"]):
        key = _key(reading, index, row)
        ca_file = _ca_file(reading, index, row)
        if key is not None:
            channels.append(_channel(row, defaults, key, ca_file, line=reading.nodes["channels", index].line + 1))
    return Table(
        channels=tuple(channels),
        compaction=Compaction(**rows.get("compaction", _NOTHING)),
        warnings=document.warnings(),
        path=document.path,
        digest=document.digest,
        models=MappingProxyType(dict(rows.get("models", _NOTHING))),
    )


#: Keys of a row that are a channel's fields as they are.
_AS_WRITTEN = (
    *("name", "format", "base_url", "headers", "priority", "weight", "max_concurrency", "family", "compact", "bridge"),
    *("chat", "encrypted_reasoning", "hosted_tools", "system_messages", "retry_unanswered", "tags", "enabled"),
)


def _channel(row: Mapping[str, Any], defaults: Mapping[str, Any], key: str, ca_file: str | None, line: int) -> Channel:
    names = row["models"]
    return Channel(
        **{name: value for name, value in row.items() if name in _AS_WRITTEN},
        api_key=key or None,
        models=MappingProxyType({public: name for public, name in names.items() if not is_glob(public)}),
        globs=tuple(public for public in names if is_glob(public)),
        timeouts=_timeouts(_timeouts(Timeouts(), defaults.get("timeout")), row.get("timeout")),
        cooldown=_cooldown(_cooldown(Cooldown(), defaults.get("cooldown")), row.get("cooldown")),
        ca_file=ca_file,
        line=line,
    )


def _timeouts(base: Timeouts, given: Any) -> Timeouts:
    """One duration bounds the whole exchange, and the answer may be silent for all of it."""
    if given is None:
        return base
    if isinstance(given, float):
        return Timeouts(connect=min(base.connect, given), first_byte=given, idle=given, total=given)
    return Timeouts(
        **{name: given.get(name, getattr(base, name)) for name in ("connect", "first_byte", "idle", "total")}
    )


def _cooldown(base: Cooldown, given: Mapping[str, Any] | None) -> Cooldown:
    given = given or _NOTHING
    return Cooldown(after=given.get("after", base.after), seconds=given.get("resting", base.seconds))


_SENDABLE = re.compile(r"[\x21-\x7e]+")


def _key(reading: _Reading, index: int, row: Mapping[str, Any]) -> str | None:
    """The channel's key, "" when it needs none, None when the channel has to wait for it."""
    source = "api_key" if "api_key" in row else "api_key_file"
    node = reading.nodes.get(("channels", index, source))
    if node is None:
        return ""
    key, why = _key_of(reading, index, row, source, node)
    if not why and not _SENDABLE.fullmatch(key):
        why = "the key is empty or holds characters that no header can carry"
    if not why:
        return key
    if not row.get("enabled", True):
        return ""
    reading.document.warn(node, f"{why}; channel '{row['name']}' is left out")
    return None


def _key_of(reading: _Reading, index: int, row: Mapping[str, Any], source: str, node: _Node) -> tuple[str, str]:
    """The key, and why there is none."""
    if source == "api_key_file":
        return _key_in_file(reading.document.path.parent / row["api_key_file"])
    _warn_of_literal(reading.document, node)
    name = reading.unset_keys.get(("channels", index, source))
    return ("", f"the variable {name} is not set, in the environment or in .env") if name else (row["api_key"], "")


def _key_in_file(path: Path) -> tuple[str, str]:
    try:
        return _contents(path).decode("ascii").strip(), ""
    except OSError as error:
        return "", f"api_key_file cannot be read: {error.strerror or 'not a file'}"
    except ValueError:
        return "", "api_key_file does not hold a key"


def _contents(path: Path) -> bytes:
    """A small regular file; anything else (a pipe, a device) could keep us waiting."""
    if not stat.S_ISREG(path.stat().st_mode):
        raise OSError("not a file")
    with path.open("rb") as file:
        return file.read(MAX_KEY_FILE)


def _warn_of_literal(document: _Document, node: _Node) -> None:
    references = [match for match in _REFERENCE.finditer(node.text) if match[2]]
    if references and not any(match[3] for match in references):
        return
    document.warn(node, "the key itself stands in this file; put it into the environment and write ${NAME} here")
    if document.mode & stat.S_IROTH:
        document.warn(node, "and everybody on this machine can read this file: chmod o-r")


def _ca_file(reading: _Reading, index: int, row: Mapping[str, Any]) -> str | None:
    if "ca_file" not in row:
        return None
    path = reading.document.path.parent / row["ca_file"]
    try:
        _contents(path)
    except (OSError, ValueError):
        reading.complain(("channels", index, "ca_file"), "is not a file that can be read")
    return str(path)


# --- watching ---------------------------------------------------------------------------------------------------


def stamp_of(path: Path) -> Path:
    """The file that is touched to have the table read again although it has not changed (a new key in .env)."""
    return path.with_name(path.name + ".reload")


class WatchedTable:
    """The table as it is now. `poll` is for one caller, about once a second; readers take `current` and keep it."""

    def __init__(
        self,
        path: Path,
        environment: Callable[[], Mapping[str, str]],
        formats: Collection[str],
        log: logging.Logger,
        stamp: Path | None = None,
    ) -> None:
        self.path = path
        self.rejected: str | None = None
        """Why the file as it is now is not in use; None when it is."""
        self._environment = environment
        self._formats = formats
        self._log = log
        self._stamp = stamp or stamp_of(path)
        # Looked at before reading: a change in between is seen by the next poll.
        self._seen = self._look()
        self._current = load(path, environment(), formats)
        self._warn()

    @property
    def current(self) -> Table:
        return self._current

    def poll(self) -> None:
        """Read the file again if it or its stamp has changed; a bad one changes nothing and says why, once."""
        seen = self._look()
        if seen == self._seen:
            return
        self._seen = seen
        try:
            table = load(self.path, self._environment(), self._formats)
        except ChannelsInvalid as error:
            self._reject(error.message)
        except (OSError, UnicodeError) as error:
            self._reject(f"the environment cannot be read: {type(error).__name__}")
        else:
            self._accept(table)

    def _look(self) -> tuple[Any, ...]:
        return _signature(self.path), _signature(self._stamp)

    def _reject(self, why: str) -> None:
        self.rejected = why
        self._log.error("channels: the new table is not used, the old one stays:\n%s", why)

    def _accept(self, table: Table) -> None:
        old, self._current, self.rejected = self._current, table, None
        self._log.info("channels: read again, version %s: %s", table.digest, _difference(old, table))
        self._warn()

    def _warn(self) -> None:
        for warning in self._current.warnings:
            self._log.warning("channels: %s", warning)


def _signature(path: Path) -> tuple[int, ...] | None:
    try:
        status = os.stat(path)
    except (OSError, ValueError):
        return None
    return status.st_mtime_ns, status.st_ctime_ns, status.st_size, status.st_ino, status.st_dev


def _difference(old: Table, new: Table) -> str:
    """`+added -gone ~changed`, by the channels' names."""
    before = {channel.name: channel for channel in old.channels}
    after = {channel.name: channel for channel in new.channels}
    signs = [
        *(f"+{name}" for name in after if name not in before),
        *(f"-{name}" for name in before if name not in after),
        *(f"~{name}" for name in after if name in before and before[name] != after[name]),
    ]
    return " ".join(signs) or "no channel has changed"
