"""The channel table: its rows as values, and the loader of its file, which reports all errors together. It knows no
upstream and no database.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from difflib import get_close_matches
from fnmatch import fnmatchcase
from pathlib import Path
from types import MappingProxyType
from typing import Any

from marshmallow import ValidationError

from app.channels import tool_servers
from app.channels.interpolation import Interpolation, Place
from app.channels.table_files import certificates, key_in_file, warn_of_literal
from app.channels.yaml_document import Document, Problem, parse
from app.contract.alerts import AlertTarget
from app.contract.channel import Channel, Compaction, Cooldown, Params, Timeouts
from app.contract.limits import UNSTATED, Limits
from app.contract.model_facts import NOTHING, ModelFacts
from app.contract.money import Price
from app.contract.tools import ToolTable
from app.formats import counting, sends_mcp
from app.schemas.channels import TableRow
from app.schemas.rows import shown_key
from app.schemas.table_values import Scalar, is_glob, suggestion

_NOTHING: Mapping[str, Any] = MappingProxyType({})
#: Keys of a model's row that are no facts about the model itself.
_OTHER_FACTS = frozenset({"price"})


@dataclass(frozen=True, slots=True)
class Table:
    """The checked content of the file. It is immutable: a reload makes a new table."""

    channels: tuple[Channel, ...]
    without_key: tuple[Channel, ...] = ()
    """Channels that are left out because they have no key yet."""
    compaction: Compaction = field(default_factory=Compaction)
    warnings: tuple[Problem, ...] = ()
    digest: str = ""
    """Digest of the file's bytes, which identifies its version."""
    models: Mapping[str, Mapping[str, Any]] = field(default_factory=dict, hash=False)
    """Facts about models, by public name or glob."""
    tools: ToolTable = field(default_factory=ToolTable, hash=False)
    compacts: bool = False
    """Whether one of those facts is `compact_at`: most tables have none, and each turn of a chain looks for it."""
    alerts: AlertTarget | None = field(default=None, hash=False)
    """Where alerts are sent; None for nowhere."""
    limits: Limits = UNSTATED
    """The limits of a token that states none of its own."""
    priced: Mapping[str, Sequence[Price]] = field(default_factory=dict, hash=False)
    """The prices among those facts, by the same names."""
    price_lines: Mapping[str, int] = field(default_factory=dict, hash=False)
    """Where these stand in the file."""
    _tagged: dict[tuple[str, ...], Table] = field(default_factory=dict, init=False, repr=False, compare=False)
    """What `tagged` has made so far. Tokens have few different sets of tags."""

    def serving(self, model: str) -> list[Channel]:
        """The enabled channels that serve a model, highest priority first; equal ones in the order of the file."""
        able = [channel for channel in self.channels if channel.enabled and channel.upstream_model(model) is not None]
        return sorted(able, key=lambda channel: -channel.priority)

    def tagged(self, tags: Collection[str] | None) -> Table:
        """The table as a token sees it that may use only channels with one of these tags. Empty means every channel,
        None what the table says for all tokens."""
        wanted = self.limits.tags if tags is None else tags
        if not wanted:
            return self
        key = tuple(wanted)
        if (found := self._tagged.get(key)) is None:
            channels = tuple(one for one in self.channels if not set(wanted).isdisjoint(one.tags))
            found = self._tagged[key] = replace(self, channels=channels)
        return found

    def names(self) -> list[str]:
        """The models served under a literal name, sorted."""
        return sorted({name for channel in self.channels if channel.enabled for name in channel.models})

    def facts(self, model: str) -> ModelFacts:
        """What the table states about a model: its own row first, then the globs that match it, the longest first."""
        globs = (name for name in self.models if is_glob(name) and name != model and fnmatchcase(model, name))
        found = NOTHING
        for name in (model, *sorted(globs, key=len, reverse=True)):
            row = self.models.get(name, _NOTHING)
            found = found.or_else(ModelFacts(**{key: value for key, value in row.items() if key not in _OTHER_FACTS}))
        return found

    def prices(self, model: str) -> Sequence[Price]:
        """The dated prices of a model: its own, or those of the longest glob that matches it and has some; none if
        they are unknown."""
        return self.priced.get(self._priced_as(model), ()) if self.priced else ()

    def price_line(self, model: str) -> int | None:
        """The line of the file where the prices of a model stand; None if they are unknown."""
        return self.price_lines.get(self._priced_as(model))

    def _priced_as(self, model: str) -> str:
        """The name under which the table has the prices of a model; empty if it has none."""
        if self.priced.get(model):
            return model
        globs = (name for name in self.priced if is_glob(name) and fnmatchcase(model, name))
        return max(globs, key=len, default="")

    def nearest(self, model: str) -> str | None:
        """The known name that is most similar to an unknown one."""
        names = {name.lower(): name for name in self.names()}
        near = get_close_matches(model.lower(), names, n=1) if len(model) <= 256 else []
        return names[near[0]] if near else None


# --- loading ----------------------------------------------------------------------------------------------------


def load(path: Path, environment: Mapping[str, str], formats: Collection[str]) -> Table:
    """Loads a table. Raises ChannelsInvalid with all errors of the file."""
    document = Document(path)
    values = Interpolation(document, environment)
    written = values.value(parse(document))
    tool_servers.check(values, written.get("tools"))
    _check_variables(values)
    _check_names(values, written.get("channels"), formats)
    rows = _check(values, written)
    _check_abilities(values, rows, formats)
    document.stop_if_wrong()
    table = _build(values, rows)
    document.stop_if_wrong()
    return table


def _check_variables(values: Interpolation) -> None:
    """Reports unset variables. In an `api_key`, in the URL and the headers of a tool server, and under `alerts`, one is
    no error: the row is left out until the variable is set."""
    for place, message in values.unset.items():
        match place:
            case (
                ("channels", int(), "api_key")
                | ("tools", "servers", int(), "url" | "headers", *_)
                | ("alerts", "url" | "secret")
            ):
                continue
        values.document.error(values.nodes[place], message)


def _check_names(values: Interpolation, rows: Any, formats: Collection[str]) -> None:
    """Checks that need more than one row: the format must exist, and names must be unique."""
    taken: dict[str, int] = {}
    for index, row in enumerate(rows if isinstance(rows, list) else []):
        if not isinstance(row, dict):
            continue
        if isinstance(given := row.get("format"), Scalar) and given.text not in {"", *formats}:
            quoted = f" '{shown_key(given.text)}'{suggestion(given.text, formats)}" if given.literal else ""
            known = ", ".join(sorted(formats))
            values.report(("channels", index, "format"), f"unknown format{quoted}; the formats are {known}")
        if isinstance(name := row.get("name"), Scalar) and name.text:
            place = ("channels", index, "name")
            if name.text in taken:
                values.report(place, f"this name is taken by the channel at line {taken[name.text]}")
            taken.setdefault(name.text, values.nodes[place].start_mark.line + 1)


def _check_abilities(values: Interpolation, rows: Mapping[str, Any], formats: Collection[str]) -> None:
    """Reports keys that promise what the row's format cannot do."""
    for index, row in enumerate(rows.get("channels", ())):
        if row["format"] not in formats:
            continue
        if row.get("count_tokens") and counting(row["format"]) is None:
            able = ", ".join(sorted(name for name in formats if counting(name) is not None))
            values.report(
                ("channels", index, "count_tokens"),
                f"the format {row['format']} has no request that counts tokens; {able} have one",
            )
        if row.get("mcp") == "native" and not sends_mcp(row["format"]):
            able = ", ".join(sorted(filter(sends_mcp, formats)))
            values.report(
                ("channels", index, "mcp"),
                f"the format {row['format']} cannot name MCP servers to its upstream; {able} can",
            )


def _check(values: Interpolation, written: Any) -> Mapping[str, Any]:
    """The rows as the schema loads them. Reports its errors at their places."""
    try:
        return TableRow().load(written)  # type: ignore[no-any-return]
    except ValidationError as error:
        messages = error.messages_dict
    # Outside the `except`, or a later exception would carry the values, and their secrets, as its context.
    for place, message in _messages(messages, ()):
        values.report(place, message)
    return {}


def _messages(messages: Any, place: Place) -> Iterator[tuple[Place, str]]:
    if isinstance(messages, dict):
        for key, below in messages.items():
            yield from _messages(below, place if key == "_schema" else (*place, key))
    else:
        for message in messages:
            yield place, message


# --- from rows to channels --------------------------------------------------------------------------------------


def _build(values: Interpolation, rows: Mapping[str, Any]) -> Table:
    defaults = rows.get("defaults", _NOTHING)
    channels = [_channel(values, index, row, defaults) for index, row in enumerate(rows["channels"])]
    tools = tool_servers.build(values, rows.get("tools", _NOTHING))
    alerts = _alerts(values, rows.get("alerts"))
    priced = {name: facts["price"] for name, facts in rows.get("models", {}).items() if "price" in facts}
    return Table(
        channels=tuple(channel for channel in channels if not channel.missing_key),
        without_key=tuple(channel for channel in channels if channel.missing_key),
        compaction=Compaction(**rows.get("compaction", _NOTHING)),
        warnings=values.document.warnings(),
        digest=values.document.digest,
        models=MappingProxyType(rows.get("models", {})),
        tools=tools,
        limits=Limits(**rows["limits"]) if "limits" in rows else UNSTATED,
        alerts=alerts,
        compacts=any("compact_at" in facts for facts in rows.get("models", {}).values()),
        priced=MappingProxyType(priced),
        price_lines={name: values.nodes["models", name, "price"].start_mark.line + 1 for name in priced},
    )


def _alerts(values: Interpolation, row: Mapping[str, Any] | None) -> AlertTarget | None:
    """None without a target, and while its secret is not set: an unsigned alert would be worth nothing."""
    if row is None:
        return None
    for name in ("url", "secret"):
        place = ("alerts", name)
        if why := values.unset.get(place):
            values.document.warn(values.nodes[place], f"{why}; no alerts are sent")
            return None
    return AlertTarget(row["url"], row["secret"])


#: Keys of a row that are converted for a channel; the others are its fields as they are.
_READ_ON = frozenset({"api_key", "api_key_file", "ca_file", "models", "timeout", "cooldown", "params"})


def _channel(values: Interpolation, index: int, row: Mapping[str, Any], defaults: Mapping[str, Any]) -> Channel:
    key, why = _key(values, index, row)
    ca_file = certificates(values, ("channels", index), row)
    if why and row.get("enabled", True):
        source = values.nodes["channels", index, "api_key" if "api_key" in row else "api_key_file"]
        values.document.warn(source, f"{why}; channel '{row['name']}' is left out")
    names = row["models"]
    return Channel(
        **{name: value for name, value in row.items() if name not in _READ_ON},
        api_key=None if why else key,
        models=MappingProxyType({public: name for public, name in names.items() if not is_glob(public)}),
        globs=tuple(public for public in names if is_glob(public)),
        timeouts=_of_the_row(_timeouts(Timeouts(), defaults.get("timeout")), row.get("timeout")),
        cooldown=replace(Cooldown(), **{**defaults.get("cooldown", {}), **row.get("cooldown", {})}),
        params=Params(**row.get("params", {})),
        ca_file=ca_file,
        line=values.nodes["channels", index].start_mark.line + 1,
        missing_key=why if row.get("enabled", True) else "",
    )


def _of_the_row(base: Timeouts, given: Any) -> Timeouts:
    """A `first_byte` in the row itself also limits unstreamed answers: it says how long this server takes to begin."""
    own = given.get("first_byte") if isinstance(given, dict) else None
    return replace(_timeouts(base, given), unstreamed_first_byte=own)


def _timeouts(base: Timeouts, given: Any) -> Timeouts:
    """A single duration limits the whole exchange and no part of it more strictly."""
    if isinstance(given, float):
        return Timeouts(connect=min(base.connect, given), first_byte=given, idle=given, total=given)
    return replace(base, **(given or {}))


def _key(values: Interpolation, index: int, row: Mapping[str, Any]) -> tuple[str | None, str]:
    """The channel's key, if it needs one, and the reason when the key is missing."""
    if "api_key" in row:
        place = ("channels", index, "api_key")
        warn_of_literal(values.document, values.nodes[place])
        key, why = row["api_key"], values.unset.get(place, "")
    elif "api_key_file" in row:
        key, why = key_in_file(values.document.path.parent / row["api_key_file"])
    else:
        return None, ""
    if not why and not re.fullmatch(r"[\x21-\x7e]+", key):
        why = "the key is empty or holds characters that no header can carry"
    return key, why
