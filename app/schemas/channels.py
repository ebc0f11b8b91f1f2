"""The rows of the channel table as an operator may write them. Knows keys and values, not files, lines or variables.

Values arrive as `Scalar`, text as it stands in the file: YAML 1.1 would turn `no` into a boolean, `012` into ten and
`12:30` into 750, so what a text means is decided here, by the key it belongs to.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from difflib import get_close_matches
from typing import Any
from urllib.parse import urlsplit

from marshmallow import EXCLUDE, Schema, ValidationError, fields, validates_schema

#: How the message about an unknown key begins; it belongs to the key, every other one to the value.
UNKNOWN_KEY = "unknown key"

#: More unknown keys of one mapping than anybody reads.
MAX_UNKNOWN = 200

#: Channels that answer by themselves and have no URL.
WITHOUT_UPSTREAM = frozenset({"demo"})

COMPACTS = ("native", "trigger", "gateway")
STRATEGIES = ("auto", "native", "summary", "trim")

_IDENTIFIER = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_MODEL = re.compile(r"[^\s\x00-\x1f\x7f](?:[^\x00-\x1f\x7f]{0,254}[^\s\x00-\x1f\x7f])?")
_WHOLE = re.compile(r"[-+]?(?:0|[1-9][0-9]{0,14})")
_NUMBER = re.compile(r"(?:0|[1-9][0-9]{0,11})(?:\.[0-9]{1,9})?")
_DURATION = re.compile(rf"({_NUMBER.pattern})(ms|s|m|h)?")
_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, None: 1.0}
_LONGEST = 7 * 24 * 3600.0
_FLAGS = {"true": True, "yes": True, "on": True, "false": False, "no": False, "off": False}
_HEADER_NAME = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]{1,128}")
_HEADER_VALUE = re.compile(r"[\x21-\x7e](?:[\x20-\x7e]*[\x21-\x7e])?")
#: Anything a URL may hold; what urllib and urllib3 could read differently is left out.
_URL = re.compile(r"[A-Za-z0-9._~:/?#\[\]@!$&'()*+,;=%-]+")
_OUR_HEADERS = {
    *("accept", "accept-encoding", "connection", "content-length", "content-type", "expect", "host", "keep-alive"),
    *("te", "trailer", "transfer-encoding", "upgrade", "user-agent"),
}


@dataclass(frozen=True, slots=True)
class Scalar:
    """A single value. Its text may be a secret, so it shows itself to nobody."""

    text: str = field(repr=False)
    plain: bool = True
    """Without quotes: only then can it be a number or a flag."""
    literal: bool = True
    """No variable was put in: only then may a message quote it."""


def suggestion(word: str, words: Any) -> str:
    """`, did you mean 'api_key'?`, or nothing."""
    near = get_close_matches(word, list(words), n=1) if len(word) <= 64 else []
    return f", did you mean '{near[0]}'?" if near else ""


def shown_key(key: str) -> str:
    """A key as a message may quote it: `{api_key:sk-…}` without its blank makes the secret a part of the key."""
    head = re.match(r"[A-Za-z0-9_.-]{0,40}", key)
    start = head[0] if head else ""
    return start if start == key else f"{start}…"


# --- what a text can mean ---------------------------------------------------------------------------------------


def text(value: Scalar) -> str:
    if not value.text:
        raise ValidationError("must not be empty")
    return value.text


def matching(pattern: re.Pattern[str], expected: str) -> Callable[[Scalar], str]:
    def read(value: Scalar) -> str:
        if not pattern.fullmatch(text(value)):
            raise ValidationError(f"must be {expected}")
        return value.text

    return read


identifier = matching(_IDENTIFIER, "1 to 64 letters, digits, '.', '_' or '-', the first a letter or digit")
model_name = matching(
    _MODEL, "a model's name: at most 256 characters, none of them a control character or an outer blank"
)
header_value = matching(_HEADER_VALUE, "printable ASCII without outer blanks")


def whole(low: int, high: int) -> Callable[[Scalar], int]:
    def read(value: Scalar) -> int:
        number = int(value.text) if value.plain and _WHOLE.fullmatch(value.text) else None
        if number is None or not low <= number <= high:
            raise ValidationError(f"must be a whole number from {low} to {high}")
        return number

    return read


def number(low: float, high: float) -> Callable[[Scalar], float]:
    def read(value: Scalar) -> float:
        amount = float(value.text) if value.plain and _NUMBER.fullmatch(value.text) else None
        if amount is None or not low <= amount <= high:
            raise ValidationError(f"must be a number from {low:g} to {high:g}")
        return amount

    return read


def seconds(value: Scalar) -> float:
    match = _DURATION.fullmatch(value.text)
    amount = float(match[1]) * _UNITS[match[2]] if match else 0.0
    if not 0 < amount <= _LONGEST:
        raise ValidationError("must be a duration: a number of seconds, or 500ms, 30s, 5m, 1h (at most seven days)")
    return amount


def flag(value: Scalar) -> bool:
    meant = _FLAGS.get(value.text.lower()) if value.plain else None
    if meant is None:
        raise ValidationError("must be true or false")
    return meant


def one_of(*choices: str) -> Callable[[Scalar], str]:
    def read(value: Scalar) -> str:
        if value.text not in choices:
            near = suggestion(value.text, choices) if value.literal else ""
            raise ValidationError(f"must be one of {', '.join(choices)}{near}")
        return value.text

    return read


def base_url(value: Scalar) -> str:
    """`https://host[:port][/path]`, without the slash at its end."""
    if not _URL.fullmatch(value.text) or not value.text.startswith(("http://", "https://")):
        raise ValidationError("must be a URL that begins with http:// or https://")
    try:
        parts = urlsplit(value.text)
        host, _port = parts.hostname, parts.port
    except ValueError:
        raise ValidationError("must be a URL with a valid host and port") from None
    if not host:
        raise ValidationError("must be a URL with a host")
    if "@" in parts.netloc:
        raise ValidationError("must not hold a user or password; use api_key or headers")
    if "?" in value.text or "#" in value.text:
        raise ValidationError("must end with its path, without '?' or '#'; paths are appended to it")
    if parts.path.rstrip("/").endswith(("/responses", "/chat/completions")):
        raise ValidationError("must be the part before /responses or /chat/completions, such as https://host/v1")
    return value.text.rstrip("/")


# --- fields -----------------------------------------------------------------------------------------------------


def _scalar(value: Any) -> Scalar:
    if value is None:
        raise ValidationError("must have a value")
    if not isinstance(value, Scalar):
        raise ValidationError(f"must be a single value, not a {'list' if isinstance(value, list) else 'mapping'}")
    return value


class Value(fields.Field[Any]):
    """One scalar, read by a function that raises what is wrong with it."""

    default_error_messages = {"null": "must have a value"}

    def __init__(self, read: Callable[[Scalar], Any], **options: Any) -> None:
        super().__init__(**options)
        self.read = read

    def _deserialize(self, value: Any, attr: str | None, data: Any, **kwargs: Any) -> Any:
        return self.read(_scalar(value))


def _each(pairs: Iterable[tuple[Any, Any]], read: Callable[[Any, Any], Any]) -> dict[Any, Any]:
    """Read every entry, and gather under its key what is wrong with any of them."""
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


class Values(Value):
    """A list of them, none twice."""

    def _deserialize(self, value: Any, attr: str | None, data: Any, **kwargs: Any) -> Any:
        if not isinstance(value, list):
            raise ValidationError("must be a list")
        seen: set[Any] = set()

        def new(_: int, element: Any) -> Any:
            read = self.read(_scalar(element))
            if read in seen:
                raise ValidationError("stands here twice")
            seen.add(read)
            return read

        return tuple(_each(enumerate(value), new).values())


class Entries(fields.Field[Mapping[str, Any]]):
    """A mapping whose keys the operator chooses: `read` is given a key and its value."""

    default_error_messages = {"null": "must have a value"}

    def __init__(self, read: Callable[[str, Any], Any], **options: Any) -> None:
        super().__init__(**options)
        self.read = read

    def _deserialize(self, value: Any, attr: str | None, data: Any, **kwargs: Any) -> Mapping[str, Any]:
        if not isinstance(value, dict):
            raise ValidationError("must be a mapping")
        return _each(value.items(), self.read)


class Models(fields.Field[Mapping[str, str]]):
    """`[name, glob-*]` or `{public: upstream}`; read as public name → the name the upstream knows."""

    default_error_messages = {"null": "must have a value"}

    def _deserialize(self, value: Any, attr: str | None, data: Any, **kwargs: Any) -> Mapping[str, str]:
        if not value or not isinstance(value, list | dict):
            raise ValidationError(
                'must be a list of names, or a mapping of public names to upstream names; "*" for any'
            )
        if isinstance(value, list):
            names = Values(model_name).deserialize(value)
            return {name: name for name in names}
        return Entries(self._renamed).deserialize(value) or {}

    @staticmethod
    def _renamed(public: str, upstream: Any) -> str:
        model_name(Scalar(public))
        if upstream is None:
            return public
        if is_glob(public):
            raise ValidationError("must be empty: what a glob matches keeps its name")
        return str(model_name(_scalar(upstream)))


def is_glob(name: str) -> bool:
    """Brackets alone make no glob: there are models called `name[1m]`."""
    return "*" in name or "?" in name


def header(name: str, value: Any) -> str:
    if not _HEADER_NAME.fullmatch(name):
        raise ValidationError("stands under a name that is no header's")
    if name.lower() in _OUR_HEADERS:
        raise ValidationError("is a header that the gateway sets itself")
    return header_value(_scalar(value))


def _unknown_key(key: str, known: frozenset[str]) -> str:
    return f"{UNKNOWN_KEY} '{shown_key(key)}'{suggestion(key, sorted(known))}"


# --- rows -------------------------------------------------------------------------------------------------------


class Row(Schema):
    """A mapping with fixed keys."""

    error_messages = {"type": "must be a mapping"}

    class Meta:
        unknown = EXCLUDE

    def on_bind_field(self, field_name: str, field_obj: fields.Field[Any]) -> None:
        field_obj.error_messages["required"] = f"missing key '{field_name}'"

    @validates_schema(pass_original=True, skip_on_field_errors=False)
    def _only_known_keys(self, data: Any, original: Any, **kwargs: Any) -> None:
        known = keys_of(self)
        unknown = [key for key in original if key not in known] if isinstance(original, dict) else []
        if unknown:
            raise ValidationError({key: [_unknown_key(key, known)] for key in unknown[:MAX_UNKNOWN]})


def keys_of(row: Row) -> frozenset[str]:
    return frozenset(bound.data_key or name for name, bound in row.fields.items())


class TimeoutRow(Row):
    connect = Value(seconds)
    first_byte = Value(seconds)
    idle = Value(seconds)
    total = Value(seconds)


class Timeout(fields.Field[Any]):
    """One duration, or a mapping of the four."""

    default_error_messages = {"null": "must have a value"}

    def _deserialize(self, value: Any, attr: str | None, data: Any, **kwargs: Any) -> Any:
        return TimeoutRow().load(value) if isinstance(value, dict) else seconds(_scalar(value))


class CooldownRow(Row):
    after = Value(whole(1, 1000))
    resting = Value(seconds, data_key="for")


class DefaultsRow(Row):
    timeout = Timeout()
    cooldown = fields.Nested(CooldownRow, error_messages={"null": "must have a value"})


class CompactionRow(Row):
    model = Value(model_name, allow_none=True)
    strategy = Value(one_of(*STRATEGIES))


class PriceRow(Row):
    input = Value(number(0, 1e6))
    cached_input = Value(number(0, 1e6))
    output = Value(number(0, 1e6))


class FactsRow(Row):
    context_window = Value(whole(1, 1_000_000_000))
    max_output_tokens = Value(whole(1, 1_000_000_000))
    price = fields.Nested(PriceRow, error_messages={"null": "must have a value"})
    compact_at = Value(number(0.05, 1))


class ChannelRow(DefaultsRow):
    name = Value(identifier, required=True)
    format = Value(text, required=True)
    base_url = Value(base_url)
    api_key = Value(text)
    api_key_file = Value(text)
    headers = Entries(header)
    ca_file = Value(text)
    models = Models(required=True)
    priority = Value(whole(-1_000_000, 1_000_000))
    weight = Value(whole(1, 1000))
    max_concurrency = Value(whole(1, 1_000_000), allow_none=True)
    family = Value(identifier)
    compact = Value(one_of(*COMPACTS))
    bridge = Value(flag)
    chat = Value(flag)
    encrypted_reasoning = Value(flag)
    hosted_tools = Value(one_of("drop", "refuse"))
    system_messages = Value(one_of("merge", "keep"))
    retry_unanswered = Value(flag)
    tags = Values(identifier)
    enabled = Value(flag)

    @validates_schema(pass_original=True, skip_on_field_errors=False)
    def _keys_fit_together(self, data: Any, original: Any, **kwargs: Any) -> None:
        wrong = {}
        if not isinstance(original, dict):
            return
        if data.get("format", "demo") not in WITHOUT_UPSTREAM and "base_url" not in original:
            wrong["base_url"] = ["missing key 'base_url': where the upstream is, such as https://host/v1"]
        if "api_key" in original and "api_key_file" in original:
            wrong["api_key_file"] = ["stands beside api_key; a channel has one key"]
        if wrong:
            raise ValidationError(wrong)


def _version(value: Scalar) -> int:
    if value.text != "1":
        raise ValidationError("must be 1: this gateway reads no other version of the table")
    return 1


class TableRow(Row):
    """The whole file."""

    version = Value(_version, required=True)
    defaults = fields.Nested(DefaultsRow, error_messages={"null": "must have a value"})
    compaction = fields.Nested(CompactionRow, error_messages={"null": "must have a value"})
    channels = fields.List(
        fields.Nested(ChannelRow, error_messages={"null": "must be a mapping"}),
        required=True,
        error_messages={"invalid": "must be a list of channels", "null": "must be a list of channels"},
    )
    models = Entries(lambda name, facts: FactsRow().load(facts))

    @validates_schema(pass_original=True, skip_on_field_errors=False)
    def _has_a_channel(self, data: Any, original: Any, **kwargs: Any) -> None:
        if isinstance(original, dict) and original.get("channels") == []:
            raise ValidationError({"channels": ["must hold at least one channel"]})


_ROWS = (TableRow, ChannelRow, DefaultsRow, TimeoutRow, CooldownRow, CompactionRow, FactsRow, PriceRow)

#: Every key of the table, for those who show a line of it.
KEYS = frozenset(key for row in _ROWS for key in keys_of(row()))
