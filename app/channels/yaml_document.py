"""The channel table as a YAML file: its size limits, its nodes, and each problem with its line and a caret. It does not
know which keys hold secrets: it masks everything that its caller has not unmasked.
"""

from __future__ import annotations

import hashlib
import re
import stat
from collections import defaultdict
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import yaml

from app.errors import ConfigurationError

MAX_BYTES = 4 << 20
MAX_NODES = 100_000
MAX_DEPTH = 16
MAX_PROBLEMS = 200
MAX_SHOWN = 200

MASK = "***"

#: The line breaks of YAML 1.1, so that line numbers agree with the parser's.
_BREAK = re.compile("\r\n|[\n\r\x85\u2028\u2029]")


@dataclass(frozen=True, slots=True)
class Problem:
    """An error or a warning at one place of the file. `text` is the line with every secret masked."""

    path: str
    line: int
    column: int
    message: str
    text: str = ""
    caret: int = 0
    """Column of the place in `text`, where masking may have moved it."""

    def __str__(self) -> str:
        return f"{self.path}:{self.line}:{self.column}: {self.message}"

    def render(self) -> str:
        """The message, the line, and a caret under the place."""
        return f"{self}\n{self.text}\n{' ' * self.caret}^" if self.text else str(self)


class ChannelsInvalid(ConfigurationError):
    """The table cannot be used. `problems` are all errors, by line."""

    def __init__(self, problems: Collection[Problem]) -> None:
        self.problems = tuple(problems)
        rendered = "\n".join(problem.render() for problem in self.problems)
        super().__init__(rendered, fix="correct the file, then run: antiphon check")


class Document:
    """The file: its lines, their unmasked parts, and the problems found."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lines: list[str] = []
        self._shown: defaultdict[int, list[tuple[int, int]]] = defaultdict(list)
        self._errors: set[tuple[int, int, str]] = set()
        self._warnings: set[tuple[int, int, str]] = set()
        raw, self.mode = self._read()
        self.digest = hashlib.sha256(raw).hexdigest()[:12]
        self.source = self._decode(raw)
        self._lines = _BREAK.split(self.source)

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
            return self.fail(*_end(raw[: error.start].decode("utf-8-sig")), "is not UTF-8 from here on")

    def line(self, number: int) -> str:
        return self._lines[number] if number < len(self._lines) else ""

    def unmask(self, node: yaml.Node) -> None:
        """Marks this value as no secret. Everything else stays masked."""
        if node.start_mark.line == node.end_mark.line:
            self._shown[node.start_mark.line].append((node.start_mark.column, node.end_mark.column))

    def error(self, at: yaml.Node | yaml.Event, message: str) -> None:
        self._error(*_place(at.start_mark), message)

    def warn(self, at: yaml.Node, message: str) -> None:
        self._warnings.add((*_place(at.start_mark), message))

    def fail(self, line: int, column: int, message: str) -> NoReturn:
        self._error(line, column, message)
        raise ChannelsInvalid(self._problems(self._errors))

    def _error(self, line: int, column: int, message: str) -> None:
        if len(self._errors) < MAX_PROBLEMS:
            self._errors.add((line, column, message))

    def stop_if_wrong(self) -> None:
        if self._errors:
            raise ChannelsInvalid(self._problems(self._errors))

    def warnings(self) -> tuple[Problem, ...]:
        return self._problems(self._warnings)

    def _problems(self, found: set[tuple[int, int, str]]) -> tuple[Problem, ...]:
        return tuple(self._problem(*each) for each in sorted(found))

    def _problem(self, line: int, column: int, message: str) -> Problem:
        if line >= len(self._lines) > 0:
            line, column = len(self._lines) - 1, len(self._lines[-1])
        text, caret = "", 0
        if self._shown.get(line) and len(self.line(line)) <= MAX_SHOWN:
            before, after = self._masked(line, 0, column), self._masked(line, column, MAX_SHOWN)
            text, caret = (before + after).replace("\t", " "), len(before)
        return Problem(str(self.path), line + 1, column + 1, message, text, caret)

    def _masked(self, line: int, start: int, end: int) -> str:
        raw, out = self.line(line)[:end], ""
        for first, last in self._shown[line]:
            if start <= first and last <= end:
                out += _mask(raw[start:first]) + raw[first:last]
                start = last
        return out + _mask(raw[start:])


def _mask(gap: str) -> str:
    """The text between two unmasked values: punctuation stays, comments are removed, any word is masked."""
    return re.sub(r"[^\s:,{}\[\]?-](.*[^\s,])?", MASK, re.sub(r"(^|\s)#.*", "", gap))


def _end(text: str) -> tuple[int, int]:
    lines = _BREAK.split(text)
    return len(lines) - 1, len(lines[-1])


def _place(mark: Any) -> tuple[int, int]:
    return (mark.line, mark.column) if mark else (0, 0)


# --- YAML -------------------------------------------------------------------------------------------------------

_Loader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)

#: What YAML allows in a file; the parsers disagree on how they report the rest.
_UNPRINTABLE = re.compile("[^\t\n\r\x20-\x7e\x85\xa0-\ud7ff\ue000-\ufefe\uff00-\ufffd\U00010000-\U0010ffff]")
_NULLS = frozenset({"", "~", "null", "Null", "NULL"})


def parse(document: Document) -> yaml.MappingNode:
    """The tree of the file's one document. Its events are checked first, because deep nesting and aliases could use up
    the memory."""
    if found := _UNPRINTABLE.search(document.source):
        at = _end(document.source[: found.start()])
        document.fail(*at, f"a character that YAML does not allow: U+{ord(found[0]):04X}")
    try:
        _check_events(document)
        root = yaml.compose(document.source, Loader=_Loader)
    except yaml.MarkedYAMLError as error:
        line, column = _cause(error)
        document.fail(line, column, _sentence(document.line(line), column, error))
    except yaml.YAMLError:
        document.fail(0, 0, "is not YAML")
    if root is None or is_null(root):
        document.fail(0, 0, "the file is empty; it needs `version: 1` and `channels:`")
    if not isinstance(root, yaml.MappingNode):
        document.fail(*_place(root.start_mark), "must be a mapping with `version: 1` and `channels:`")
    return root


def is_null(node: yaml.Node) -> bool:
    return isinstance(node, yaml.ScalarNode) and not node.style and node.value in _NULLS


def _check_events(document: Document) -> None:
    documents = nodes = depth = aliases = 0
    for event in yaml.parse(document.source, Loader=_Loader):
        at = _place(event.start_mark)
        documents += isinstance(event, yaml.DocumentStartEvent)
        nodes += isinstance(event, yaml.NodeEvent)
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        if documents > 1:
            document.fail(*at, "a second document; the table must be the only one")
        if nodes > MAX_NODES or depth > MAX_DEPTH:
            document.fail(*at, f"more than {MAX_NODES} values, or nested deeper than {MAX_DEPTH}")
        if isinstance(event, yaml.AliasEvent):
            aliases += 1
            document.error(event, "aliases are not supported; a name that begins with '*' must be quoted")
        elif getattr(event, "anchor", None) is not None:
            document.error(event, "anchors are not supported; a value that begins with '&' must be quoted")
        if getattr(event, "tag", None) is not None:
            document.error(event, "tags are not supported; a value that begins with '!' must be quoted")
    if aliases:
        document.stop_if_wrong()


def _cause(error: yaml.MarkedYAMLError) -> tuple[int, int]:
    """The place of the error. The parser reports a key without its colon a line late, and a lone '*' a character."""
    late = "expected ':'" in (error.problem or "") or "alias" in (error.context or "")
    return _place((late and error.context_mark) or error.problem_mark or error.context_mark)


def _sentence(raw: str, column: int, error: yaml.MarkedYAMLError) -> str:
    here, context = raw[column : column + 1], error.context or ""
    if here == "\t":
        return "not YAML: a tab cannot indent, use spaces"
    if "alias" in context:
        return "not YAML: a name that begins with '*' must be quoted: \"*\""
    if here in {"@", "`", "%"}:
        return f"not YAML: a value that begins with '{here}' must be quoted"
    if "${" in raw and "flow" in context:
        return 'not YAML: a reference between { } or [ ] must be quoted: "${NAME}"'
    hint = "; is the indentation right?" if "block" in context else ""
    return f"not YAML: {_without_quotes(error.problem or context or 'unknown reason')}{hint}"


def _without_quotes(sentence: str) -> str:
    """Masks quoted text: PyYAML's pure Python parser quotes what it found, which may be a secret."""
    return re.sub(
        r"(['\"])(.*?)\1", lambda match: match[0] if len(match[2]) < 2 or match[2][0] == "<" else MASK, sentence
    )
