"""Tool servers as values for all layers: the rows of the table, a client's own server, a listed tool, an outcome.

A *tool server* is an MCP server that the gateway calls. The operator names it in the table under a label; a client may
also name one of its own by URL, if the operator lists the URL's origin.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from ipaddress import IPv6Address
from types import MappingProxyType
from typing import Any, NamedTuple

from app.contract.channel import Secret
from app.errors import InvalidRequest

JSON = Mapping[str, Any]

#: Hosted tools of the API that a tool of the table may fulfil, each with the other names of it.
HOSTED_TYPES: Mapping[str, str] = MappingProxyType(
    {
        "web_search": "web_search",
        "web_search_2025_08_26": "web_search",
        "web_search_preview": "web_search",
        "web_search_preview_2025_03_11": "web_search",
        "file_search": "file_search",
    }
)

#: The address of no server. Some SDKs demand a `server_url`; with this one, a label of the table is meant.
_PLACEHOLDER = "https://tools.antiphon.invalid/"


@dataclass(frozen=True, slots=True)
class ListedTool:
    """A tool as its server lists it."""

    name: str
    description: str = ""
    input_schema: JSON = field(default_factory=dict, hash=False)
    """The server's own schema, unchanged."""
    read_only: bool = False
    """`readOnlyHint`: the tool changes nothing."""
    idempotent: bool = False
    """`idempotentHint`: a repeated call changes nothing more."""


@dataclass(frozen=True, slots=True)
class ToolFilter:
    """Some tools of a server. A filter that restricts nothing matches all of them."""

    names: frozenset[str] | None = None
    read_only: bool | None = None

    def matches(self, tool: ListedTool) -> bool:
        named = self.names is None or tool.name in self.names
        return named and (self.read_only is None or tool.read_only == self.read_only)

    @classmethod
    def of(cls, value: object) -> ToolFilter | None:
        """The filter that a list of names, or an object with `tool_names` and `read_only`, means; None if it is not
        understood. Source: the API's `allowed_tools` and the members of `require_approval`."""
        if isinstance(value, Sequence) and not isinstance(value, str):
            value = {"tool_names": value}
        if not isinstance(value, Mapping):
            return None
        known = {name: inner for name, inner in value.items() if inner is not None}
        names, read_only = known.pop("tool_names", None), known.pop("read_only", None)
        if known or not isinstance(read_only, bool | None) or not _is_names(names):
            return None
        return cls(None if names is None else frozenset(names), read_only)


ALL_TOOLS = ToolFilter()


def _is_names(value: object) -> bool:
    if value is None:
        return True
    return isinstance(value, Sequence) and not isinstance(value, str) and all(isinstance(name, str) for name in value)


@dataclass(frozen=True, slots=True)
class Approval:
    """Which calls need an approval: those that a filter of `always` matches, and those that a filter of `never` does
    not match. A tool that nothing names needs one."""

    always: tuple[ToolFilter, ...] = ()
    """Any of them suffices."""
    never: tuple[ToolFilter, ...] = ()
    """All of them must match; without any, no call is exempt."""

    def needed(self, tool: ListedTool) -> bool:
        if any(one.matches(tool) for one in self.always):
            return True
        return not self.never or not all(one.matches(tool) for one in self.never)

    def stricter(self, other: Approval) -> Approval:
        """A call needs an approval when either of the two demands it."""
        never = (*self.never, *other.never) if self.never and other.never else ()
        return Approval(tuple(dict.fromkeys((*self.always, *other.always))), tuple(dict.fromkeys(never)))

    @classmethod
    def of(cls, value: object) -> Approval:
        """What `require_approval` means. A form that is not understood means `always`."""
        if value == "never":
            return NEVER
        if not isinstance(value, Mapping) or not value.keys() <= {"always", "never"}:
            return ALWAYS
        filters = {name: ToolFilter.of(inner) for name, inner in value.items() if inner is not None}
        if None in filters.values():
            return ALWAYS
        return cls(**{name: (one,) for name, one in filters.items() if one is not None})


ALWAYS = Approval()
NEVER = Approval(never=(ALL_TOOLS,))


@dataclass(frozen=True, slots=True)
class ToolServer:
    """An MCP server that the gateway calls: a row of the table, or a client's own. Neither its address nor its headers
    are in the repr."""

    label: str
    url: str = field(repr=False)
    """Where it takes Streamable HTTP."""
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    """Sent with every request to its origin."""
    allowed: ToolFilter | None = None
    """The tools that it offers; None for all."""
    approval: Approval = ALWAYS
    """What silence about `require_approval` means."""
    open_timeout: float = 10.0
    """Seconds to open a session, and to list the tools."""
    call_timeout: float = 60.0
    """Seconds that one call may take."""
    max_result: int = 256 * 1024
    """Bytes of a result; the rest is cut."""
    ca_file: str | None = None
    private: bool = True
    """Whether its address may be a private one: always for a row; for a client's own only if its origin says so."""
    protocol: str = "auto"
    """`auto`: the newest version that the server speaks; `legacy`: at once by `initialize`."""
    description: str = ""
    """For a client that gives no `server_description`."""
    from_client: bool = False
    """Named by a client: its address and headers belong to one request."""

    def __post_init__(self) -> None:
        masked = {name: Secret(value) for name, value in self.headers.items()}
        object.__setattr__(self, "url", Secret(self.url))
        object.__setattr__(self, "headers", MappingProxyType(masked))

    def __hash__(self) -> int:
        return hash((self.label, self.url))

    @property
    def key(self) -> tuple[str, tuple[tuple[str, str], ...]]:
        """What identifies the server and the rights of its caller: URL and headers."""
        return self.url, tuple(sorted(self.headers.items()))


class Link(NamedTuple):
    """A resource that a result links to."""

    uri: str
    title: str = ""


@dataclass(frozen=True, slots=True)
class ToolOutcome:
    """What a call came to: `output`, or `error`."""

    output: str | None = None
    error: JSON | None = None
    """One of the three forms of an `mcp_call`'s error."""
    text_for_model: str = ""
    """The output as the model reads it, or the error in words."""
    images: tuple[JSON, ...] = ()
    """`input_image` parts, for channels that take images."""
    structured: Any = None
    """`structuredContent`, parsed."""
    links: tuple[Link, ...] = ()
    milliseconds: int = 0
    size: int = 0
    """Bytes of the result as it arrived."""


@dataclass(frozen=True, slots=True)
class HostedTool:
    """A tool of a server that fulfils a hosted tool of the API."""

    type: str
    """A value of `HOSTED_TYPES`."""
    server: str
    """The server's label."""
    tool: str


@dataclass(frozen=True, slots=True)
class ToolTable:
    """The tool servers of the table."""

    servers: Mapping[str, ToolServer] = field(default_factory=dict)
    """By label; without those that are left out for an unset variable."""
    hosted: Mapping[str, HostedTool] = field(default_factory=dict)
    """By the type of the hosted tool."""
    left_out: Mapping[str, str] = field(default_factory=dict)
    """Labels of the servers that wait for a variable → the reason."""
    client_origins: Mapping[str, bool] = field(default_factory=dict)
    """The origins of servers that clients may name → whether their addresses may be private."""

    def __bool__(self) -> bool:
        return bool(self.servers or self.client_origins)

    def server_of(self, tool: JSON, granted: Sequence[str]) -> ToolServer | None:
        """The server that the gateway calls for an `mcp` tool of a request; None for one that only an upstream with MCP
        of its own can serve. `granted`: the token's labels and globs; a server that it may not use does not exist for
        it. Raises InvalidRequest, param `tools`."""
        label = tool["server_label"]
        url = tool.get("server_url")
        if (row := self.servers.get(label)) is not None and is_granted(label, granted):
            _check_beside_label(tool, label)
            return row
        if tool.get("connector_id") is not None or tool.get("tunnel_id") is not None:
            return None
        if url is None or url == placeholder(label):
            raise unknown_server(label)
        # The client chooses the label, so that only the origin says something; a token without any tools has none.
        private = self.client_origins.get(origin_of(url) or "") if granted else None
        if private is None:
            return None
        return replace(_CLIENTS_OWN, label=label, url=url, headers=_headers_of(tool, label), private=private)

    def upstream_servers(self, tools: Sequence[JSON], granted: Sequence[str]) -> tuple[str, ...]:
        """Labels of the `mcp` tools of a request that only an upstream with MCP of its own can serve. Raises as
        `server_of`."""
        named = [tool for tool in tools if tool.get("type") == "mcp"]
        return tuple(tool["server_label"] for tool in named if self.server_of(tool, granted) is None)

    def hosted_by(self, type: str, granted: Sequence[str]) -> tuple[HostedTool, ToolServer] | None:
        """What fulfils a hosted tool of this type, under any of its names; None if the table or the token has none."""
        hosted = self.hosted.get(HOSTED_TYPES.get(type, ""))
        if hosted is None or hosted.server not in self.servers or not is_granted(hosted.server, granted):
            return None
        return hosted, self.servers[hosted.server]


_CLIENTS_OWN = ToolServer(label="", url="", private=False, from_client=True)

#: Members of an `mcp` tool that say where a server is and how to enter it: the table has both for its labels.
_OF_THE_ROW = ("authorization", "headers", "connector_id", "tunnel_id")

#: Headers that belong to the connection or to the protocol.
_REFUSED_HEADERS = frozenset(
    {
        *("accept", "accept-encoding", "connection", "content-encoding", "content-length", "content-type", "expect"),
        *("host", "http2-settings", "keep-alive", "proxy-authenticate", "proxy-authorization", "proxy-connection"),
        *("te", "trailer", "transfer-encoding", "upgrade", "mcp-session-id", "mcp-protocol-version", "last-event-id"),
    }
)
_HEADER_NAME = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]{1,128}")
_HEADER_VALUE = re.compile(r"(?:[\x21-\x7e](?:[\x20-\x7e\t]*[\x21-\x7e])?)?")
#: What libraries could read differently is left out, such as a user, a backslash, or anything behind a bracket.
_URL = re.compile(
    r"(?P<scheme>https?)://(?:(?P<host>[A-Za-z0-9._-]+)|\[(?P<v6>[0-9A-Fa-f:.]+)\])(?::(?P<port>[0-9]{1,5}))?"
    r"(?:[/?#][A-Za-z0-9._~:/?#\[\]@!$&'()*+,;=%-]*)?",
    re.IGNORECASE,
)
_PORTS = {"http": 80, "https": 443}
_LAST_PORT = 65535


def placeholder(label: str) -> str:
    """The `server_url` that stands for a label of the table, for SDKs that demand one."""
    return _PLACEHOLDER + label


def has_address(tool: JSON) -> bool:
    """Whether an `mcp` tool says itself where its server is, so that an upstream could call it."""
    if tool.get("connector_id") is not None or tool.get("tunnel_id") is not None:
        return True
    return tool.get("server_url") not in (None, placeholder(str(tool.get("server_label"))))


def origin_of(url: str) -> str | None:
    """`https://host` or `https://host:port`, in lower case and without a default port; None for another URL, and for
    one with a user or password."""
    found = _URL.fullmatch(url)
    if found is None:
        return None
    scheme = found["scheme"].lower()
    port = int(found["port"] or _PORTS[scheme])
    try:
        host = found["host"].lower() if found["host"] else f"[{IPv6Address(found['v6']).compressed}]"
    except ValueError:
        return None
    if not 0 < port <= _LAST_PORT:
        return None
    return f"{scheme}://{host}" + ("" if port == _PORTS[scheme] else f":{port}")


def is_granted(label: str, granted: Sequence[str]) -> bool:
    return any(fnmatchcase(label, allowed) for allowed in granted)


def unknown_server(label: str) -> InvalidRequest:
    """The answer for a label that is in no row, and for one that the token may not use."""
    return _refused(label, "is unknown here; give a 'server_url', or a label of a tool server that your token may use")


def not_callable(label: str) -> InvalidRequest:
    """The answer for a server that neither the gateway nor a channel of the model may call."""
    return _refused(
        label,
        "cannot be called: no channel of this model has 'mcp: native', and the gateway itself calls only origins that "
        "the channel table lists under 'tools.client_urls', for tokens that may use tools",
    )


def _check_beside_label(tool: JSON, label: str) -> None:
    beside = [name for name in _OF_THE_ROW if tool.get(name)]
    if tool.get("server_url") not in (None, placeholder(label)):
        beside.insert(0, "server_url")
    if beside:
        raise _refused(label, f"is a tool server of this gateway; leave out {', '.join(map(repr, beside))}")


def _headers_of(tool: JSON, label: str) -> Mapping[str, str]:
    headers = dict(tool.get("headers") or {})
    for name, value in headers.items():
        if not _HEADER_NAME.fullmatch(name) or not isinstance(value, str) or not _HEADER_VALUE.fullmatch(value):
            raise _refused(label, "has a header that HTTP does not allow")
        if name.lower() in _REFUSED_HEADERS:
            raise _refused(label, f"has the header '{name}', which the gateway sets itself")
    if token := tool.get("authorization"):
        if any(name.lower() == "authorization" for name in headers):
            raise _refused(label, "has both 'authorization' and a header of that name")
        headers["Authorization"] = f"Bearer {token}"
        if not _HEADER_VALUE.fullmatch(headers["Authorization"]):
            raise _refused(label, "has an 'authorization' that no header can carry")
    return headers


def _refused(label: str, why: str) -> InvalidRequest:
    return InvalidRequest(f"MCP server '{label[:64]}' {why}.", code="invalid_value", param="tools")
