"""Values of the channel table: each reader takes one as it was written, or raises the error.

Values arrive as `Scalar`, text as it stands in the file: YAML 1.1 would turn `no` into a boolean, `012` into ten and
`12:30` into 750. Knows neither the table's keys nor files, lines and variables.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from difflib import get_close_matches
from typing import Any
from urllib.parse import urlsplit

from marshmallow import ValidationError

from app.contract.limits import BUDGET, NO_LIMIT, Budget, budgets
from app.schemas.readers import (
    JSONSchema,
    Reader,
    a_list,
    a_string,
    a_text,
    caseless,
    either,
    or_null,
    reads,
    single,
)

#: Characters of a secret that signs.
SHORTEST_SECRET = 16
_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, None: 1.0}
_DURATION = re.compile(r"((?:0|[1-9][0-9]{0,11})(?:\.[0-9]{1,9})?)(ms|s|m|h)?")
_LONGEST = 7 * 24 * 3600.0
_NUMBERS = {
    int: ("a whole number", "integer", "d", re.compile(r"[-+]?(?:0|[1-9][0-9]{0,14})")),
    float: ("a number", "number", "g", re.compile(r"(?:0|[1-9][0-9]{0,11})(?:\.[0-9]{1,9})?")),
}
_FLAGS = {"true": True, "yes": True, "on": True, "false": False, "no": False, "off": False}
_HEADER_NAME = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]{1,128}")
#: Anything a URL may hold; what urllib and urllib3 could read differently is left out.
_URL = re.compile(r"https?://[A-Za-z0-9._~:/?#\[\]@!$&'()*+,;=%-]*")
_OUR_HEADERS = {
    *("accept", "accept-encoding", "connection", "content-length", "content-type", "expect", "host", "keep-alive"),
    *("te", "trailer", "transfer-encoding", "upgrade", "user-agent"),
}


@dataclass(frozen=True, slots=True)
class Scalar:
    """A single value. Its text may be a secret, so its repr hides it."""

    text: str = field(repr=False)
    plain: bool = True
    """Without quotes: only then can it be a number or a flag."""
    literal: bool = True
    """No variable was put in: only then may a message quote it."""
    unset: bool = False
    """Its variable is not set, so that the text says nothing."""


def suggestion(word: str, words: Iterable[str]) -> str:
    """`, did you mean 'api_key'?`, or nothing."""
    near = get_close_matches(word, sorted(words), n=1) if len(word) <= 64 else []
    return f", did you mean '{near[0]}'?" if near else ""


def is_glob(name: str) -> bool:
    """Brackets alone make no glob: there are models called `name[1m]`."""
    return "*" in name or "?" in name


# --- single values ----------------------------------------------------------------------------------------------


def scalar(value: Any) -> Scalar:
    if value is None:
        raise ValidationError("must have a value")
    if not isinstance(value, Scalar):
        raise ValidationError(f"must be a single value, not a {'list' if isinstance(value, list) else 'mapping'}")
    return value


@reads(single(a_text()))
def text(value: Any) -> str:
    given = scalar(value).text
    if not given:
        raise ValidationError("must not be empty")
    return given


@reads(single({"type": "string", "minLength": SHORTEST_SECRET}))
def secret(value: Any) -> str:
    given = text(value)
    if len(given) < SHORTEST_SECRET and not scalar(value).unset:
        raise ValidationError(f"must have at least {SHORTEST_SECRET} characters")
    return given


def matching(pattern: str, expected: str) -> Reader[[Any], str]:
    compiled = re.compile(pattern)

    @reads(single(a_text(pattern, minimum=0) if not compiled.match("-1") else a_text(pattern)))
    def read(value: Any) -> str:
        given = text(value)
        if not compiled.fullmatch(given):
            raise ValidationError(f"must be {expected}")
        return given

    return read


identifier = matching(
    r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}", "1 to 64 letters, digits, '.', '_' or '-', the first a letter or digit"
)
_MODEL_NAME = r"[^\s\x00-\x1f\x7f](?:[^\x00-\x1f\x7f]{0,254}[^\s\x00-\x1f\x7f])?"
model_name = matching(
    _MODEL_NAME,
    "a model's name: at most 256 characters, none of them a control character or an outer blank",
)
tool_name = matching(r"[^\x00-\x1f\x7f]{1,256}", "a tool's name, as its server lists it")
header_value = matching(r"[\x21-\x7e](?:[\x20-\x7e]*[\x21-\x7e])?", "printable ASCII without outer blanks")


def number(kind: type[int] | type[float], low: float, high: float) -> Reader[[Any], float]:
    noun, schema_type, shape, pattern = _NUMBERS[kind]

    @reads(single({"type": schema_type, "minimum": low, "maximum": high}))
    def read(value: Any) -> float:
        given = scalar(value)
        amount = kind(given.text) if given.plain and pattern.fullmatch(given.text) else None
        if amount is None or not low <= amount <= high:
            raise ValidationError(f"must be {noun} from {low:{shape}} to {high:{shape}}")
        return amount

    return read


_AMOUNT = re.compile(r"(0|[1-9][0-9]{0,5})(?:\.([0-9]{1,6}))?")


@reads(single({"type": "number", "minimum": 0, "exclusiveMaximum": 1_000_000}))
def amount(value: Any) -> int:
    """An amount of money, in micro-units."""
    given = scalar(value)
    match = _AMOUNT.fullmatch(given.text) if given.plain else None
    if match is None:
        raise ValidationError("must be an amount from 0 to 999999, with at most six decimal places")
    return int(match[1] + (match[2] or "").ljust(6, "0"))


_TOKENS = re.compile(r"([1-9][0-9]{0,8})(k?)")


@reads({"pattern": f"^(?:{_TOKENS.pattern})$"})
def tokens(name: str) -> int:
    """A number of tokens that stands as a key: `272000`, `272k`."""
    match = _TOKENS.fullmatch(name)
    if match is None:
        raise ValidationError("stands under a name that is no number of tokens, such as 272000 or 272k")
    return int(match[1]) * (1000 if match[2] else 1)


@reads(single(a_string(r"[0-9]{4}-(?:0?[1-9]|1[0-2])-(?:0?[1-9]|[12][0-9]|3[01])")))
def day(value: Any) -> int:
    """A date as 2026-03-01: the unix time at which it begins in UTC."""
    try:
        begins = datetime.strptime(scalar(value).text, "%Y-%m-%d").replace(tzinfo=UTC)
    except ValueError:
        raise ValidationError("must be a date such as 2026-03-01") from None
    return int(begins.timestamp())


def _duration_schema(longest: float) -> JSONSchema:
    """The longest duration is that of a number of seconds; a text with a unit has no schema for it."""
    text = a_string(rf"(?!0(?:\.0+)?(?:ms|s|m|h)?$){_DURATION.pattern}")
    return single({"type": "number", "exclusiveMinimum": 0, "maximum": longest}, text)


@reads(_duration_schema(_LONGEST))
def duration(value: Any) -> float:
    match = _DURATION.fullmatch(scalar(value).text)
    seconds = float(match[1]) * _UNITS[match[2]] if match else 0.0
    if not 0 < seconds <= _LONGEST:
        raise ValidationError("must be a duration: a number of seconds, or 500ms, 30s, 5m, 1h (at most seven days)")
    return seconds


_SIZE = re.compile(r"((?:0|[1-9][0-9]{0,11}))(KiB|MiB)?")
_SIZES = {None: 1, "KiB": 1 << 10, "MiB": 1 << 20}


def size(low: int, high: int) -> Reader[[Any], int]:
    """Bytes: a number, or one with KiB or MiB."""

    @reads(single({"type": "integer", "minimum": low, "maximum": high}, a_string(r"[1-9][0-9]{0,11}(?:KiB|MiB)")))
    def read(value: Any) -> int:
        match = _SIZE.fullmatch(scalar(value).text)
        amount = int(match[1]) * _SIZES[match[2]] if match else 0
        if not low <= amount <= high:
            raise ValidationError(f"must be a size from {low >> 10}KiB to {high >> 20}MiB: bytes, or 256KiB, 1MiB")
        return amount

    return read


def duration_up_to(longest: float) -> Reader[[Any], float]:
    @reads(_duration_schema(longest))
    def read(value: Any) -> float:
        seconds = duration(value)
        if seconds > longest:
            raise ValidationError(f"must be at most {longest:g}s")
        return seconds

    return read


@reads(single({"type": "boolean"}, a_string("|".join(map(caseless, _FLAGS)))))
def flag(value: Any) -> bool:
    given = scalar(value)
    meant = _FLAGS.get(given.text.lower()) if given.plain else None
    if meant is None:
        raise ValidationError("must be true or false")
    return meant


def one_of(*choices: str) -> Reader[[Any], str]:
    @reads(single({"enum": list(choices)}))
    def read(value: Any) -> str:
        given = scalar(value)
        if given.text not in choices:
            near = suggestion(given.text, choices) if given.literal else ""
            raise ValidationError(f"must be one of {', '.join(choices)}{near}")
        return given.text

    return read


_AUTHORITY = r"(?:\[[0-9A-Fa-f:.]+\]|[^/?#@\[\]:]+)(?::[0-9]{0,5})?"
_BASE_URL = rf"(?!.*/(?:responses|chat/completions)/*$)https?://{_AUTHORITY}(?:/[A-Za-z0-9._~:/\[\]@!$&'()*+,;=%-]*)?"


@reads(single(a_string(_BASE_URL)))
def base_url(value: Any) -> str:
    """`https://host[:port][/path]`, without the slash at its end."""
    url = scalar(value).text
    if not _URL.fullmatch(url):
        raise ValidationError("must be a URL that begins with http:// or https://")
    try:
        parts = urlsplit(url)
        host, _port = parts.hostname, parts.port
    except ValueError:
        raise ValidationError("must be a URL with a valid host and port") from None
    if not host:
        raise ValidationError("must be a URL with a host")
    if "@" in parts.netloc:
        raise ValidationError("must not hold a user or password; use api_key or headers")
    if "?" in url or "#" in url:
        raise ValidationError("must end with its path, without '?' or '#'; paths are appended to it")
    if parts.path.rstrip("/").endswith(("/responses", "/chat/completions")):
        raise ValidationError("must be the part before /responses or /chat/completions, such as https://host/v1")
    return url.rstrip("/")


_MEMBER = re.compile(r"(?:\*\*\.)?[A-Za-z_$][\w$-]*(?:\[\])*(?:\.(?:\*\*|[A-Za-z_$][\w$-]*(?:\[\])*))*", re.ASCII)
#: Members that the gateway itself writes and reads.
_OUR_MEMBERS = frozenset({"model", "input", "messages", "stream", "**"})
_MAX_MEMBER = 200


_WORD: JSONSchema = {"type": ["string", "boolean"]}
#: Paths to members, as a pattern and the paths that it leaves out.
_MEMBERS: JSONSchema = {"pattern": f"^(?:{_MEMBER.pattern})$", "maxLength": _MAX_MEMBER}
_NOT_OURS: JSONSchema = {"not": {"enum": sorted(_OUR_MEMBERS)}}


@reads(single({**_WORD, **_MEMBERS, **_NOT_OURS}))
def member(value: Any) -> str:
    """A path to members of a request: `temperature`, `tools[].strict`, `**.cache_control`."""
    path = text(value)
    if len(path) > _MAX_MEMBER or not _MEMBER.fullmatch(path):
        raise ValidationError("must be a member's path: names, '[]' for the elements of a list, '**' for any depth")
    if path in _OUR_MEMBERS:
        raise ValidationError("is a member that the gateway itself needs")
    return path


@reads({}, names={**_MEMBERS, "not": {"anyOf": [_NOT_OURS["not"], {"pattern": r"\*\*"}]}})
def set_member(path: str, value: Any) -> Any:
    """The value of a member that every request gets."""
    if "**" in member(Scalar(path)):
        raise ValidationError("stands under a path of any depth; name the place")
    return json_value(value)


@reads(single({**_WORD, "pattern": r"^[A-Za-z_$][A-Za-z0-9_$-]*$", **_NOT_OURS}), {**_MEMBERS, **_NOT_OURS})
def renamed_member(path: str, value: Any) -> str:
    """The new name of a member."""
    member(Scalar(path))
    name = member(value)
    if "." in name or "[" in name:
        raise ValidationError("must be a name without '.' and '[]': the member stays where it is")
    return name


def json_value(value: Any) -> Any:
    """Any value as JSON has it. Without quotes, `true`, `null` and numbers are what they look like."""
    if isinstance(value, dict):
        return {name: json_value(inner) for name, inner in value.items()}
    if isinstance(value, list):
        return [json_value(inner) for inner in value]
    if value is None:
        return None
    given = scalar(value)
    if given.plain and given.text in ("true", "false"):
        return given.text == "true"
    if given.plain and re.fullmatch(r"-?(?:0|[1-9][0-9]{0,14})", given.text):
        return int(given.text)
    if given.plain and re.fullmatch(r"-?(?:0|[1-9][0-9]{0,11})\.[0-9]{1,12}", given.text):
        return float(given.text)
    return given.text


@reads(single({"type": "integer", "minimum": 1, "maximum": 10**12}, {"enum": ["none"]}))
def limit(value: Any) -> int:
    """A limit: a whole number, or `none` for no limit."""
    if scalar(value).text == "none":
        return NO_LIMIT
    try:
        return round(number(int, 1, 10**12)(value))
    except ValidationError as error:
        raise ValidationError(f"{error.messages[0]}, or none") from None


_ONE_BUDGET = single(a_string(rf"\s*(?!0+(?:\.0+)?[kMG]?[a-z]{{3}}/){BUDGET.pattern}\s*"))


@reads(either(_ONE_BUDGET, a_list(_ONE_BUDGET)))
def budget(value: Any) -> tuple[Budget, ...]:
    """One budget or a list: `2Mtok/day`, `50usd/month`."""
    try:
        return budgets([text(one) for one in (value if isinstance(value, list) else [value])])
    except ValueError as error:
        raise ValidationError(str(error)) from None


# --- several of them --------------------------------------------------------------------------------------------


def mapping(read: Reader[[str, Any], Any]) -> Reader[[Any], dict[str, Any]]:
    """A mapping whose keys the operator chooses: `read` is given a key and its value."""
    names = {} if read.names is None else {"propertyNames": read.names}

    @reads({"type": "object", **names, "additionalProperties": read.schema})
    def read_all(value: Any) -> dict[str, Any]:
        if not isinstance(value, dict):
            raise ValidationError("must be a mapping")
        return _each(value.items(), read)

    return read_all


def under_any_name(read: Reader[[Any], Any]) -> Reader[[str, Any], Any]:
    """The values of a mapping, whatever their keys are."""
    return Reader(lambda _, value: read(value), read.schema)


def every(read: Reader[[Any], Any]) -> Reader[[Any], tuple[Any, ...]]:
    """A list, which may be empty."""

    @reads(a_list(read.schema))
    def read_all(value: Any) -> tuple[Any, ...]:
        if not isinstance(value, list):
            raise ValidationError("must be a list")
        return tuple(_each(enumerate(value), lambda _, element: read(element)).values())

    return read_all


def distinct(read: Reader[[Any], Any]) -> Reader[[Any], tuple[Any, ...]]:
    """A list, nothing in it twice."""

    @reads(a_list(read.schema, minItems=1, uniqueItems=True))
    def read_all(value: Any) -> tuple[Any, ...]:
        if not isinstance(value, list):
            raise ValidationError("must be a list")
        if not value:
            raise ValidationError("must not be an empty list; leave the key out")
        first: dict[Any, int] = {}

        def read_new(index: int, element: Any) -> None:
            if first.setdefault(read(element), index) != index:
                raise ValidationError("stands here twice")

        _each(enumerate(value), read_new)
        return tuple(first)

    return read_all


def _each(pairs: Iterable[tuple[Any, Any]], read: Callable[[Any, Any], Any]) -> dict[Any, Any]:
    """Read every entry, and collect all errors under their keys."""
    good: dict[Any, Any] = {}
    wrong: dict[Any, Any] = {}
    for key, value in pairs:
        try:
            good[key] = read(key, value)
        except ValidationError as error:
            wrong[key] = error.messages
    if wrong:
        raise ValidationError(wrong)
    return good


#: Globs keep the names that they match.
_RENAMED: JSONSchema = {
    "type": "object",
    "minProperties": 1,
    "propertyNames": {"pattern": f"^(?:{_MODEL_NAME})$"},
    "patternProperties": {r"[*?]": {"type": "null"}},
    "additionalProperties": or_null(model_name.schema),
}


@reads(either(a_list(model_name.schema, minItems=1, uniqueItems=True), _RENAMED))
def models(value: Any) -> dict[str, str]:
    """`[name, glob-*]` or `{public: upstream}`; read as public name → the upstream's name."""
    if value and isinstance(value, list):
        return {name: name for name in distinct(model_name)(value)}
    if value and isinstance(value, dict):
        return _each(value.items(), _renamed)
    raise ValidationError('must be a list of names, or a mapping of public names to upstream names; "*" for any')


def _renamed(public: str, upstream: Any) -> str:
    model_name(Scalar(public))
    if upstream is None:
        return public
    if is_glob(public):
        raise ValidationError("must be empty: what a glob matches keeps its name")
    return model_name(upstream)


_HEADER_NAMES: JSONSchema = {
    "pattern": f"^(?:{_HEADER_NAME.pattern})$",
    "not": {"pattern": f"^(?:{'|'.join(map(caseless, sorted(_OUR_HEADERS)))})$"},
}


@reads(header_value.schema, names=_HEADER_NAMES)
def header(name: str, value: Any) -> str:
    if not _HEADER_NAME.fullmatch(name):
        raise ValidationError("stands under a name that is no header's")
    if name.lower() in _OUR_HEADERS:
        raise ValidationError("is a header that the gateway sets itself")
    return header_value(value)
