"""Reads why an upstream failed, in whatever shape its server says it: nested objects, arrays, JSON inside of strings,
problem details, HTML, XML or plain text. Knows no statuses and no formats.

Of a body only its words are kept, without keys, addresses and quoted requests, because they reach the client.
"""

from __future__ import annotations

import ast
import html
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

from app import lone_surrogates, nesting, sse

#: Most bytes of a reason in UTF-8.
MAX_BYTES = 2048
#: Bytes of a body that are read. The reason stands at its beginning.
_MAX_READ = 256 * 1024
#: Bytes of JSON that are parsed: some servers repeat the whole request in it.
_MAX_JSON = 64 * 1024 * 1024
#: Characters of a text in it that are read.
_MAX_TEXT = 16 * 1024
_MAX_DEPTH = 8
_MAX_LISTED = 5

#: Members that hold a reason, by their names in small letters without separators. All of them are read, in this order.
_HOLDERS = ("error", "errors", "fault", "exception", "baseresp", "header")
_SENTENCES = ("message", "msg", "errormessage", "errormsg", "errmsg", "statusmsg", "statusmessage", "faultstring")
_ADDITIONS = (
    "detail",
    "description",
    "errordescription",
    "details",
    "fieldviolations",
    "innererror",
    "metadata",
    "raw",
)
#: Read only where nothing else says anything.
_LAST_RESORTS = ("reason", "title", "reasons", "info", "hint", "cause", "text", "response", "data", "result", "body")
#: Members that may quote the request.
_QUOTED = frozenset(
    {
        "input",
        "inputs",
        "messages",
        "prompt",
        "request",
        "requestbody",
        "ctx",
        "headers",
        "tools",
        "content",
        "contents",
    }
)
_CODES = ("code", "errorcode", "statuscode", "status", "type", "errortype", "name")
_WINDOWS = ("nctx", "maxcontextlength", "contextlength", "maxmodellen", "contextwindow", "maxinputtokens")


@dataclass(frozen=True, slots=True)
class Reason:
    """What an upstream says of a failure."""

    words: str = ""
    """For the client: one line, at most 2 KB, without keys and addresses. Empty if it says nothing."""
    code: str | None = None
    type: str | None = None
    param: str | None = None
    status: int | None = None
    """The HTTP status that the body names."""
    number: int | None = None
    """A numeric code that is no HTTP status."""
    names: frozenset[str] = frozenset()
    """All codes and types, at any depth, in small letters without separators."""
    window: int | None = None
    """The model's context in tokens, where a member names it."""

    @property
    def label(self) -> str | int | None:
        """The code for the log."""
        return self.code or self.number or self.status or self.type


def read(body: bytes) -> Reason:
    """The reason in the body of an error."""
    text = body[:_MAX_READ].decode("utf-8-sig", "replace").strip()
    value = _parsed(body) if len(body) <= _MAX_JSON else None
    if value is None and text.startswith(("data:", "event:")):
        value = next((found for found in map(_parsed, _events(text)) if found is not None), None)
    return of(text if value is None else value)


def value_of(body: bytes) -> Any:
    """The object or array in a body; None if it is something else."""
    return _parsed(body)


def of(value: object) -> Reason:
    """The reason in a parsed body, an event, or a member of one."""
    found = _Findings()
    words = _words(value, found, 0)
    return Reason(
        words=_cut(_cleaned(words)),
        code=found.code,
        type=found.type,
        param=found.param,
        status=found.status,
        number=found.number,
        names=frozenset(found.names),
        window=found.window,
    )


def limited(text: str) -> str:
    """The text with at most 2 KB in UTF-8."""
    return _cut(text)


# --- values -----------------------------------------------------------------------------------------------------


@dataclass(slots=True)
class _Findings:
    """The first code, type, parameter and status of a body, outer ones first."""

    names: set[str]
    code: str | None = None
    type: str | None = None
    param: str | None = None
    status: int | None = None
    number: int | None = None
    window: int | None = None

    def __init__(self) -> None:
        self.names = set()
        self.code = self.type = self.param = None
        self.status = self.number = self.window = None

    def note(self, members: Mapping[str, Any]) -> None:
        for name in _CODES:
            self._note_code(name, members.get(name))
        param = members.get("param")
        if self.param is None and isinstance(param, str) and param:
            self.param = param
        for name in _WINDOWS:
            if self.window is None and _is_number(members.get(name)) and members[name] > 0:
                self.window = members[name]

    def _note_code(self, name: str, value: object) -> None:
        if isinstance(value, str) and value.strip().isdecimal() and len(value) < 10:
            value = int(value)
        if isinstance(value, int) and _is_number(value):
            if 400 <= value < 600:
                self.status = self.status or value
            elif value:
                self.number = self.number or value
        elif isinstance(value, str) and value:
            self.names.add(plain_name(value))
            if name in ("type", "errortype"):
                self.type = self.type or value
            elif name in ("code", "errorcode"):
                self.code = self.code or value


def plain_name(name: str) -> str:
    """A name in small letters without separators, as servers spell one name in many ways."""
    return re.sub(r"[^a-z0-9]", "", name.lower())


def _words(value: object, found: _Findings, depth: int) -> str:
    """The words of a value, not cleaned yet."""
    if depth > _MAX_DEPTH:
        return ""
    if isinstance(value, str):
        return _words_of_text(value, found, depth)
    if isinstance(value, list):
        listed = (_words(inner, found, depth + 1) for inner in value[:_MAX_LISTED])
        return _joined(listed, "; ")
    if isinstance(value, Mapping):
        return _words_of_object(value, found, depth)
    return ""


def _words_of_object(value: Mapping[str, Any], found: _Findings, depth: int) -> str:
    members = {plain_name(name): inner for name, inner in value.items() if not name.startswith("@")}
    found.note(members)

    def said(name: str) -> str:
        inner = members.get(name)
        return _words(inner, found, depth + 1) if inner else ""

    sentence = next(filter(None, map(said, _SENTENCES)), "")
    words = _joined((*map(said, _HOLDERS), sentence, *filter(_is_sentence, map(said, _ADDITIONS))), ": ")
    words = (
        words
        or next(filter(None, map(said, (*_ADDITIONS, *_LAST_RESORTS))), "")
        or _words_of_fields(value, found, depth)
    )
    place = _place(members.get("loc") or members.get("field"))
    return f"{place}: {words}" if place and words else words


def _words_of_fields(value: Mapping[str, Any], found: _Findings, depth: int) -> str:
    """The words of an object whose members have names of their own, such as the fields that are wrong."""
    known = {*_HOLDERS, *_SENTENCES, *_ADDITIONS, *_LAST_RESORTS, *_QUOTED, *_CODES}
    said = (
        (name, _words(inner, found, depth + 1))
        for name, inner in list(value.items())[:20]
        if plain_name(name) not in known and isinstance(inner, list | Mapping)
    )
    return _joined((f"{name}: {words}" for name, words in said if words), "; ")


def _joined(pieces: Iterable[str], separator: str) -> str:
    """The pieces, without those that another one contains."""
    kept: list[str] = []
    for piece in filter(None, (piece.strip() for piece in pieces)):
        if any(piece.rstrip(".") in other for other in kept):
            continue
        kept = [other for other in kept if other.rstrip(".") not in piece]
        kept.append(piece)
    # A sentence that an explanation follows ends without its full stop.
    return separator.join((*(piece.rstrip(".:") if separator == ": " else piece for piece in kept[:-1]), *kept[-1:]))


def _place(value: object) -> str:
    """Where in the request a validation failed: `["body", "input", 0]` is `input.0`."""
    if isinstance(value, str):
        return value
    if not isinstance(value, list):
        return ""
    steps = [str(step) for step in value if isinstance(step, str | int)]
    return ".".join(steps[1:] if steps[:1] == ["body"] else steps)


def _is_sentence(words: str) -> bool:
    return bool(re.search(r"\s", words)) or not words.isascii()


def _is_number(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


# --- texts ------------------------------------------------------------------------------------------------------

#: Each stops at the next "<", so that their time grows with the text and not with its square.
_SAYING_TAG = re.compile(
    r"<(?:\w{1,40}:)?(message|faultstring|errormessage|reason|description|detail|details|error)\b[^<>]*>([^<]+)<",
    re.IGNORECASE,
)
_CODE_TAG = re.compile(r"<(?:\w{1,40}:)?(code|errorcode)\b[^<>]*>([^<]+)<", re.IGNORECASE)
_TAG = re.compile(r"<[^<>]*>")
_HTML = re.compile(r"<(?:!doctype\s+html|html|head|body|title|h1|center)\b", re.IGNORECASE)
_MARKUP = re.compile(r"<[?!a-zA-Z]")
_TITLES = ("title", "h1", "h2")
#: Elements whose content is no text.
_UNSEEN = (("<script", "</script"), ("<style", "</style"), ("<head", "</head"), ("<!--", "--"))
_TRACEBACK = "Traceback (most recent call last)"
#: The value that a validation quotes.
_QUOTED_VALUE = re.compile(r",?\s*\binput(?:_value)?=.*?(?=,\s*input_type=|\]|$)", re.DOTALL)
#: What shows that an object is a request.
_REQUEST = re.compile(r"""["'](?:messages|input|inputs|prompt|contents?|role|tools)["']\s*:""")
_LONG = 160
#: Objects in one text that are read.
_MAX_OBJECTS = 20


def _words_of_text(text: str, found: _Findings, depth: int) -> str:
    text = lone_surrogates.replace_characters(text[:_MAX_TEXT].strip())
    markup = _without_comments(text)
    if _HTML.match(markup):
        return _words_of_html(markup)
    if _MARKUP.match(markup):
        return _words_of_xml(markup, found)
    if _TRACEBACK in text:
        text = text.rstrip().rpartition("\n")[2]
    return _with_objects_read(_QUOTED_VALUE.sub("", text), found, depth)


def _without_comments(text: str) -> str:
    """The text without the comments before its first element."""
    while text.startswith("<!--"):
        text = text.partition("-->")[2].lstrip()
    return text


def _words_of_html(text: str) -> str:
    titles = (_unmarked(_content_of(text, name)) for name in _TITLES)
    return next(filter(None, titles), "") or _unmarked(_visible(text))


def _content_of(text: str, name: str) -> str:
    """The content of the first element with this name."""
    small = text.lower()
    begin = small.find(">", small.find(f"<{name}")) + 1 if f"<{name}" in small else 0
    end = small.find(f"</{name}", begin)
    return text[begin:end] if begin and end > 0 else ""


def _visible(text: str) -> str:
    for begins, ends in _UNSEEN:
        first, *others = re.split(re.escape(begins), text, flags=re.IGNORECASE)
        end = re.compile(f"{ends}[^<>]*>", re.IGNORECASE)
        text = " ".join((first, *(end.split(other, maxsplit=1)[-1] for other in others)))
    return text


def _words_of_xml(text: str, found: _Findings) -> str:
    if code := _CODE_TAG.search(text):
        found.note({"code": code[2].strip()})
    said = (_unmarked(tag[2]) for tag in _SAYING_TAG.finditer(text))
    return _joined(said, ": ") or _unmarked(text)


def _unmarked(text: str) -> str:
    return " ".join(html.unescape(_TAG.sub(" ", text)).split())


def _with_objects_read(text: str, found: _Findings, depth: int) -> str:
    """The text with the objects in it replaced by their words: clients of servers print the errors that they get."""
    pieces, at = [], 0
    for start, end in islice(_objects(text), _MAX_OBJECTS):
        segment = text[start:end]
        value = _parsed(segment)
        words = _words(value, found, depth + 1) if value is not None else ""
        if words:
            pieces += [text[at:start], words]
        elif _REQUEST.search(segment) or len(segment) > _LONG:
            pieces += [text[at:start], "{…}"]
        else:
            pieces.append(text[at:end])
        at = end
    return "".join((*pieces, text[at:]))


def _objects(text: str) -> Iterator[tuple[int, int]]:
    """Begin and end of each object or array of objects in a text. An object without an end goes to the end of it."""
    level, start, quote, at = 0, 0, "", 0
    while at < len(text):
        character = text[at]
        if level and quote:
            if character == "\\":
                at += 1
            elif character == quote:
                quote = ""
        elif level and character in "\"'" and text[at - 1] in "{[:, (b":
            quote = character
        elif character in "{[":
            if not level and (character == "{" or re.match(r"\[\s*\{", text[at : at + 8])):
                start, level = at, 1
            elif level:
                level += 1
        elif character in "}]" and level:
            level -= 1
            if not level:
                yield start, at + 1
        at += 1
    if level:
        yield start, len(text)


def _parsed(data: str | bytes) -> Any:
    """The object or array in JSON, or in Python's notation of it; None if it is something else."""
    data = data.strip()
    if data[:1] not in ("{", "[", b"{", b"["):
        return None
    try:
        value = nesting.from_upstream(data.encode("utf-8", "replace") if isinstance(data, str) else data)
    except ValueError:
        value = _literal(data) if isinstance(data, str) and data[1:2] in "'{[" and len(data) < _MAX_READ // 4 else None
    return value if isinstance(value, list | dict) else None


def _literal(text: str) -> Any:
    try:
        return ast.literal_eval(text)
    except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError):
        return None


def _events(text: str) -> Iterator[str]:
    for raw in text.replace("\r\n", "\n").encode().split(b"\n\n"):
        data = sse.parse(raw)[1]
        if data is not None:
            yield data.decode()


# --- what may not leave -----------------------------------------------------------------------------------------

_HIDDEN_PARTS: Sequence[tuple[re.Pattern[str], str]] = tuple(
    (re.compile(pattern, re.IGNORECASE), shown)
    for pattern, shown in (
        # Addresses of the upstream and of what stands behind it.
        (r"\b[a-z][a-z0-9+.-]{1,15}://[^\s\"'<>)\]}]*[^\s\"'<>)\]}.,;:!?]", "[address]"),
        (r"\bwww\.[^\s\"'<>)\]}]+[^\s\"'<>)\]}.,;:!?]", "[address]"),
        (r"(?<![\w.])(?:\d{1,3}\.){3}\d{1,3}(?::\d{1,5})?(?![\w.]*\d)", "[address]"),
        (r"\[[0-9a-f:]*:[0-9a-f:]*:[0-9a-f:.%\w]*\](?::\d{1,5})?", "[address]"),
        (r"(?<![\w.:])(?:[0-9a-f]{1,4}:){3,7}[0-9a-f]{0,4}(?![\w:])", "[address]"),
        (r"\blocalhost(?::\d{1,5})?\b", "[address]"),
        (r"\b(?:[a-z0-9](?:[a-z0-9-]*[a-z0-9])?\.)+[a-z][a-z0-9-]*[a-z]:\d{2,5}\b", "[address]"),
        (r"\b(?:[a-z0-9-]+\.)+(?:internal|local|lan|corp|svc|intra|home|localdomain)\b", "[address]"),
        (r"host=['\"]?[\w.-]+['\"]?(?:, port=\d+)?", "[address]"),
        # Keys, as their owners name or shape them.
        (r"\b(bearer|basic)\s+[\w.~+/=*-]{6,}", r"\1 ***"),
        (
            r"((?:api|access|secret|auth|subscription)[ _-]?(?:key|token)s?(?: provided| given)?|x-api-key|"
            r"authorization|password|client[ _-]?secret|token)([\"'`]?\s*(?:[:=]|\bis\b)\s*[\"'`]?)"
            r"(?!\*{3}\s*$)(?=[^\s\"'`,;]*[\d*])[^\s\"'`,;]{6,}",
            r"\1\2***",
        ),
        (r"\b(?:sk|pk|rk|gsk|xai|hf|ghp|gho|ghu|ghs|glpat|nvapi|csk|fw|tgp|r8|pplx|sess)[-_][\w*.-]{6,}", "***"),
        (r"\bAIza[\w*-]{10,}", "***"),
        (r"\b(?:AKIA|ASIA)[A-Z0-9]{12,}", "***"),
        (r"\beyJ[\w-]{8,}(?:\.[\w-]+){0,2}", "***"),
    )
)


def _cleaned(words: str) -> str:
    """The words in one line, without keys and addresses."""
    shown = (character if character.isprintable() else " " for character in words[: 4 * MAX_BYTES])
    words = " ".join("".join(shown).split())
    for pattern, instead in _HIDDEN_PARTS:
        words = pattern.sub(instead, words)
    return words


def _cut(text: str) -> str:
    data = text.encode("utf-8", "replace")
    if len(data) <= MAX_BYTES:
        return data.decode()
    return data[: MAX_BYTES - 3].decode("utf-8", "ignore") + "…"
