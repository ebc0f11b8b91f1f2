"""The tool servers of the channel table: checks that need more than one row, and the rows as values."""

from __future__ import annotations

import re
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from app import mcp_sdk
from app.channels.interpolation import Interpolation
from app.channels.table_files import certificates, warn_of_literal
from app.contract.tools import HostedTool, ToolServer, ToolTable, origin_of
from app.schemas.rows import shown_key
from app.schemas.table_values import Scalar, suggestion

#: Headers that hold a key, by the end of their names.
_KEYS = re.compile(r"(?:authorization|key|token|secret)$", re.IGNORECASE)


def check(values: Interpolation, written: Any) -> None:
    """Reports labels and origins that stand twice, and hosted tools of servers that are not there."""
    if not isinstance(written, dict):
        return
    labels = _check_labels(values, written.get("servers"))
    hosted = written.get("hosted")
    for type, row in hosted.items() if isinstance(hosted, dict) else ():
        server = row.get("server") if isinstance(row, dict) else None
        if isinstance(server, Scalar) and server.text and server.text not in labels:
            named = f" '{shown_key(server.text)}'{suggestion(server.text, labels)}" if server.literal else ""
            values.report(("tools", "hosted", type, "server"), f"no server has the label{named}")
    _check_origins(values, written.get("client_urls"))
    if (labels or written.get("client_urls")) and (lack := mcp_sdk.lack()):
        values.document.error(values.key_nodes()["tools",], f"tool servers cannot be called: {lack}; {mcp_sdk.FIX}")


def _check_labels(values: Interpolation, rows: Any) -> Mapping[str, int]:
    """The labels, each with the line of its first row."""
    lines: dict[str, int] = {}
    for index, row in enumerate(rows if isinstance(rows, list) else ()):
        label = row.get("label") if isinstance(row, dict) else None
        if isinstance(label, Scalar) and label.text:
            place = ("tools", "servers", index, "label")
            if label.text in lines:
                values.report(place, f"this label is taken by the tool server at line {lines[label.text]}")
            lines.setdefault(label.text, values.nodes[place].start_mark.line + 1)
    return lines


def _check_origins(values: Interpolation, rows: Any) -> None:
    known: set[str] = set()
    for index, row in enumerate(rows if isinstance(rows, list) else ()):
        given = row.get("origin") if isinstance(row, dict) else row
        found = origin_of(given.text) if isinstance(given, Scalar) else None
        if found is not None and found in known:
            values.report(("tools", "client_urls", index), "stands here twice")
        known.add(found or "")


def build(values: Interpolation, rows: Mapping[str, Any]) -> ToolTable:
    """The tool servers that are enabled and have their variables, and what they fulfil."""
    enabled = {index: row for index, row in enumerate(rows.get("servers", ())) if row.get("enabled", True)}
    waiting = {row["label"]: why for index, row in enabled.items() if (why := _lacks_variable(values, index, row))}
    servers = {index: _server(values, index, row) for index, row in enabled.items()}
    hosted = {type: HostedTool(type=type, **row) for type, row in rows.get("hosted", {}).items()}
    return ToolTable(
        servers=MappingProxyType({one.label: one for one in servers.values() if one.label not in waiting}),
        hosted=MappingProxyType(hosted),
        left_out=MappingProxyType(waiting),
        client_origins=MappingProxyType(dict(rows.get("client_urls", ()))),
    )


#: Keys of a row that are converted for a tool server, or say that there is none.
_READ_ON = frozenset({"allowed_tools", "require_approval", "timeout", "ca_file", "enabled"})


def _server(values: Interpolation, index: int, row: Mapping[str, Any]) -> ToolServer:
    _warn_of_keys(values, index, row)
    return ToolServer(
        **{name: value for name, value in row.items() if name not in _READ_ON},
        **{f"{name}_timeout": seconds for name, seconds in row.get("timeout", {}).items()},
        **({"approval": row["require_approval"]} if "require_approval" in row else {}),
        allowed=row.get("allowed_tools"),
        ca_file=certificates(values, ("tools", "servers", index), row),
    )


def _lacks_variable(values: Interpolation, index: int, row: Mapping[str, Any]) -> str:
    """Why the URL or a header waits for a variable; empty when none does. Warns of each."""
    waiting = [(place, why) for place, why in values.unset.items() if place[:3] == ("tools", "servers", index)]
    for place, why in waiting:
        values.document.warn(values.nodes[place], f"{why}; tool server '{row['label']}' is left out")
    return waiting[0][1] if waiting else ""


def _warn_of_keys(values: Interpolation, index: int, row: Mapping[str, Any]) -> None:
    for name in row.get("headers", ()):
        if _KEYS.search(name):
            warn_of_literal(values.document, values.nodes["tools", "servers", index, "headers", name])
