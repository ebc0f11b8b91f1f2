"""The effective settings and channel table: each value, and where it comes from. No secret is among the values."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import yaml

from app.channels.interpolation import REFERENCE, Interpolation, Place, is_free, is_hidden
from app.channels.table import Table
from app.channels.yaml_document import MASK, Document, parse
from app.contract.channel import Channel
from app.reports.channel_states import all_channels
from app.schemas.channels import ChannelRow, CompactionRow, CooldownRow, TimeoutRow
from app.schemas.rows import Row
from app.schemas.table_values import Scalar, json_value
from app.settings import ENV_FILE, Settings, variable_of

DEFAULT = "default"

#: Names of members, in the operator's own values, that hold secrets.
_SECRET_NAME = re.compile(r"api[_-]?key|secret|password|authorization|credential|(?:^|[_-])token$", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class ConfiguredValue:
    name: str
    """A variable, or the path of a key in the table: `channels.openai.weight`."""
    value: Any
    """As JSON has it; durations without a unit are seconds. A secret is masked, a variable that holds one is named."""
    origin: str
    """An option, `environment`, `.env`, a file, a line of the table, or `default`."""

    def wire(self) -> dict[str, Any]:
        return {"name": self.name, "value": self.value, "origin": self.origin}


# --- settings ---------------------------------------------------------------------------------------------------


#: A setting that another one switches on.
_IMPLIED_BY = {"metrics": "metrics_bind"}


def setting_values(
    settings: Settings, environment: Mapping[str, str], env_file: Mapping[str, str], options: Collection[str] = ()
) -> list[ConfiguredValue]:
    """`environment`: the variables of this process. `env_file`: those of `.env`. `options`: the settings that options
    of the command line gave."""

    def origin(name: str) -> str:
        if name in options:
            return f"--{name}"
        if getattr(settings, _IMPLIED_BY.get(name, ""), None):
            return f"{variable_of(_IMPLIED_BY[name])} is set"
        return _origin(variable_of(name), environment, env_file)

    return [
        ConfiguredValue(
            variable_of(field.name),
            _shown_setting(getattr(settings, field.name), is_secret=not field.repr),
            origin(field.name),
        )
        for field in dataclasses.fields(settings)
    ]


def _origin(name: str, environment: Mapping[str, str], env_file: Mapping[str, str]) -> str:
    """What comes first wins; see `read_environment`. An empty variable is none."""
    for variables, where in ((environment, "environment"), (env_file, ENV_FILE)):
        if variables.get(name, "").strip():
            return where
        if file := variables.get(f"{name}_FILE", "").strip():
            return f"{file} ({name}_FILE, {where})"
        if name in variables or f"{name}_FILE" in variables:
            return DEFAULT
    return DEFAULT


def _shown_setting(value: Any, *, is_secret: bool) -> Any:
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, bool):
        # As its variable takes it.
        return "on" if value else "off"
    if not is_secret or not value:
        return list(value) if isinstance(value, tuple) else value
    return _without_password(value) if isinstance(value, str) and "://" in value else MASK


def _without_password(url: str) -> str:
    parts = urlsplit(url)
    user, at, host = parts.netloc.rpartition("@")
    name, colon, _ = user.partition(":")
    password, query = colon and f":{MASK}", parts.query and f"?{MASK}"
    return f"{parts.scheme}://{name}{password}{at}{host}{parts.path}{query}"


# --- the channel table ------------------------------------------------------------------------------------------


def row_values(table: Table, path: Path, environment: Mapping[str, str]) -> list[ConfiguredValue]:
    """The values of the file, from which `table` was loaded, then the defaults of what it does not state."""
    document = Document(path)
    values = Interpolation(document, environment)
    read = values.value(parse(document))
    written = list(_Written(path.name, values, read).below((), read))
    return [*written, *_defaults({value.name: value.origin for value in written}, table)]


class _Written:
    """The values as they stand in the file."""

    def __init__(self, file: str, values: Interpolation, read: Any) -> None:
        self._file = file
        self._values = values
        self._read = read

    def below(self, place: Place, value: Any) -> Iterator[ConfiguredValue]:
        """A list of single values is one value."""
        if isinstance(value, dict) and value:
            for key, inner in value.items():
                yield from self.below((*place, key), inner)
        elif isinstance(value, list) and any(isinstance(element, dict | list) for element in value):
            for index, inner in enumerate(value):
                yield from self.below((*place, index), inner)
        else:
            line = self._values.nodes[place].start_mark.line + 1
            yield ConfiguredValue(self._name(place), self._shown(place, value), f"{self._file}:{line}")

    def _shown(self, place: Place, value: Any) -> Any:
        if isinstance(value, list):
            return [self._shown((*place, index), element) for index, element in enumerate(value)]
        if not isinstance(value, Scalar):
            return value
        if is_hidden(place) or _is_secret_member(place):
            return _reference(self._values.nodes[place])
        if is_free(place) and not value.literal:
            return self._values.nodes[place].value
        return json_value(value)

    def _name(self, place: Place) -> str:
        """Rows have their names in place of their numbers."""
        names, at = [], self._read
        for part in place:
            at = at[part]
            names.append(_row_name(part, at) if isinstance(part, int) else part)
        return ".".join(names)


def _row_name(index: int, row: Any) -> str:
    named = (row.get("name") or row.get("label")) if isinstance(row, dict) else None
    return named.text if isinstance(named, Scalar) else str(index)


def _is_secret_member(place: Place) -> bool:
    return is_free(place) and any(isinstance(part, str) and _SECRET_NAME.search(part) for part in place[4:])


def _reference(node: yaml.Node) -> str:
    """A secret as it may be shown: the variable that holds it, or nothing of it."""
    found = REFERENCE.fullmatch(node.value)
    return f"${{{found['name']}}}" if found and found["name"] else MASK


def _defaults(written: Mapping[str, str], table: Table) -> Iterator[ConfiguredValue]:
    for channel in all_channels(table):
        yield from _channel_defaults(written, channel)
    yield from _unwritten(written, "compaction", CompactionRow, table.compaction)


def _channel_defaults(written: Mapping[str, str], channel: Channel) -> Iterator[ConfiguredValue]:
    row = f"channels.{channel.name}"
    yield from _unwritten(written, row, ChannelRow, channel)
    for group, kind, values in (
        ("timeout", TimeoutRow, channel.timeouts),
        ("cooldown", CooldownRow, channel.cooldown),
    ):
        yield from _unwritten(written, f"{row}.{group}", kind, values, ("defaults." + group, f"{row}.{group}"))


def _unwritten(
    written: Mapping[str, str], row: str, kind: type[Row], values: Any, sources: Collection[str] = ()
) -> Iterator[ConfiguredValue]:
    """The keys of a row that the file does not have there and that have a value. `sources`: rows that state them for
    this one, or one value for all of its keys; the last one wins."""
    for name, bound in kind().fields.items():
        key = bound.data_key or name
        value = getattr(values, name, None)
        if is_hidden((key,)) or f"{row}.{key}" in written or not isinstance(value, str | int | float) or value == "":
            continue
        if any(other.startswith(f"{row}.{key}.") for other in written):
            continue
        stated = [written[at] for source in sources for at in (f"{source}.{key}", source) if at in written]
        yield ConfiguredValue(f"{row}.{key}", value, stated[-1] if stated else DEFAULT)
