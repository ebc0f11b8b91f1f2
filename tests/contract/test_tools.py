"""Tool servers as values: filters, approval, and which server an `mcp` tool of a request means."""

from __future__ import annotations

import pytest

from app.contract.tools import (
    ALL_TOOLS,
    ALWAYS,
    NEVER,
    Approval,
    HostedTool,
    ListedTool,
    ToolFilter,
    ToolServer,
    ToolTable,
    origin_of,
    placeholder,
)
from app.errors import InvalidRequest

READS = ListedTool("search", read_only=True)
WRITES = ListedTool("delete")

DOCS = ToolServer("docs", "https://mcp.internal/secret-path", headers={"Authorization": "Bearer row-key"})
TABLE = ToolTable(
    servers={"docs": DOCS},
    hosted={"web_search": HostedTool("web_search", "docs", "search")},
    client_origins={"https://mcp.example.com": False, "http://127.0.0.1:9000": True},
)


@pytest.mark.parametrize(
    ("value", "reads", "writes"),
    [
        ("always", True, True),
        ("never", False, False),
        (None, True, True),
        ("sometimes", True, True),
        ({"never": {"tool_names": ["search"]}}, False, True),
        ({"never": {"read_only": True}}, False, True),
        ({"always": {"tool_names": ["search"]}}, True, True),
        ({"always": {"read_only": False}, "never": {}}, False, True),
        ({"always": {"tool_names": ["delete"]}, "never": {"tool_names": ["delete", "search"]}}, False, True),
        ({"never": {"tool_names": []}}, True, True),
        ({"never": ["search"]}, False, True),
        ({"never": {"tool_names": "search"}}, True, True),
        ({"never": {"readonly": True}}, True, True),
        ({"never": {"read_only": "yes"}}, True, True),
        ({"never": {"tool_names": ["search"]}, "other": {}}, True, True),
        ({"never": {"tool_names": ["search"], "read_only": None}, "always": None}, False, True),
    ],
)
def test_what_require_approval_means(value: object, reads: bool, writes: bool) -> None:
    approval = Approval.of(value)
    assert (approval.needed(READS), approval.needed(WRITES)) == (reads, writes)


FORMS = [
    "always",
    "never",
    {"never": {"tool_names": ["search"]}},
    {"never": {"read_only": False}},
    {"always": {"tool_names": ["delete"]}},
    {"always": {"tool_names": ["delete"]}, "never": {}},
]


@pytest.mark.parametrize("one", FORMS)
@pytest.mark.parametrize("other", FORMS)
@pytest.mark.parametrize("tool", [READS, WRITES])
def test_the_stricter_of_two_needs_what_either_needs(one: object, other: object, tool: ListedTool) -> None:
    first, second = Approval.of(one), Approval.of(other)
    assert first.stricter(second).needed(tool) == (first.needed(tool) or second.needed(tool))


def test_the_words_for_all_tools() -> None:
    assert (Approval.of("never"), Approval.of("always")) == (NEVER, ALWAYS)
    assert ToolFilter.of({}) == ALL_TOOLS


def test_neither_an_address_nor_a_header_is_in_a_repr() -> None:
    for secret in ("mcp.internal", "secret-path", "row-key"):
        assert secret not in repr(TABLE)
    assert "row-key" not in repr(DOCS.headers)


@pytest.mark.parametrize(
    ("url", "origin"),
    [
        ("https://MCP.example.com/a/b?c=d#e", "https://mcp.example.com"),
        ("https://mcp.example.com:443", "https://mcp.example.com"),
        ("http://mcp.example.com:443/", "http://mcp.example.com:443"),
        ("http://[::1]:80/mcp", "http://[::1]"),
        ("https://mcp.example.com.", "https://mcp.example.com."),
        ("https://user@mcp.example.com/", None),
        ("https://evil.test\\@mcp.example.com/", None),
        ("https://mcp.example.com:99999/", None),
        ("https://mcp.example.com /", None),
        ("https:///path", None),
        ("https://[::1/", None),
        ("https://[::1]:8443?a", "https://[::1]:8443"),
        ("https://[0:0::1]/", "https://[::1]"),
        ("https://[::1]8443/", None),
        ("https://[::1].evil.test/", None),
        ("https://[fe80::1%25eth0]/", None),
        ("https://[not:an:address]/", None),
        ("https://mcp.example.com:0/", None),
        ("https://mcp%2eexample.com/", None),
        ("ftp://mcp.example.com/", None),
        ("file:///etc/passwd", None),
        ("", None),
    ],
)
def test_the_origin_of_a_url(url: str, origin: str | None) -> None:
    assert origin_of(url) == origin


@pytest.mark.parametrize("url", [None, placeholder("docs")])
def test_a_label_of_the_table_means_its_row(url: str | None) -> None:
    tool = {"type": "mcp", "server_label": "docs"} | ({"server_url": url} if url else {})
    assert TABLE.server_of(tool, ["do*"]) is DOCS


@pytest.mark.parametrize(
    "more",
    [
        {"server_url": "https://elsewhere.test/mcp"},
        {"server_url": placeholder("search")},
        {"server_url": DOCS.url},
        {"authorization": "mine"},
        {"headers": {"X-Key": "mine"}},
        {"connector_id": "connector_gmail"},
        {"tunnel_id": "tunnel_1"},
    ],
)
def test_nothing_of_the_client_goes_to_a_row(more: dict[str, object]) -> None:
    with pytest.raises(InvalidRequest) as refused:
        TABLE.server_of({"type": "mcp", "server_label": "docs", **more}, ["*"])
    assert refused.value.param == "tools"
    assert f"'{next(iter(more))}'" in refused.value.message
    assert "mine" not in refused.value.message


@pytest.mark.parametrize("granted", [[], ["search", "doc"], ["DOCS"]])
@pytest.mark.parametrize("url", [None, "placeholder"])
def test_a_hidden_label_is_answered_as_an_unknown_one(granted: list[str], url: str | None) -> None:
    def answer(label: str) -> str:
        tool = {"type": "mcp", "server_label": label} | ({"server_url": placeholder(label)} if url else {})
        with pytest.raises(InvalidRequest) as refused:
            TABLE.server_of(tool, granted)
        return f"{refused.value.error()}".replace(label, "LABEL")

    assert answer("docs") == answer("none")


def test_a_clients_own_server_is_called_at_a_listed_origin() -> None:
    tool = {
        "type": "mcp",
        "server_label": "mine",
        "server_url": "https://MCP.example.com:443/mcp?key=1",
        "authorization": "token",
        "headers": {"X-Team": "blue"},
    }
    server = TABLE.server_of(tool, ["docs"])
    assert server is not None
    assert (server.label, server.url, server.from_client) == ("mine", tool["server_url"], True)
    assert server.headers == {"X-Team": "blue", "Authorization": "Bearer token"}
    assert not server.private
    assert server.approval == ALWAYS
    local = TABLE.server_of({"server_label": "x", "server_url": "http://127.0.0.1:9000/mcp"}, ["docs"])
    assert local is not None
    assert local.private


@pytest.mark.parametrize(
    "tool",
    [
        {"server_url": "https://mcp.example.com.evil.test/mcp"},
        {"server_url": "http://mcp.example.com/mcp"},
        {"server_url": "https://mcp.example.com:8443/mcp"},
        {"server_url": "https://user@mcp.example.com/mcp"},
        {"connector_id": "connector_gmail"},
        {"tunnel_id": "tunnel_1"},
    ],
)
def test_any_other_server_is_for_an_upstream_with_mcp_of_its_own(tool: dict[str, str]) -> None:
    assert TABLE.server_of({"type": "mcp", "server_label": "mine", **tool}, ["*"]) is None


def test_a_token_without_tools_has_no_server_of_its_own_either() -> None:
    assert TABLE.server_of({"server_label": "mine", "server_url": "https://mcp.example.com/mcp"}, []) is None


@pytest.mark.parametrize(
    "more",
    [
        {"headers": {"Host": "elsewhere"}},
        {"headers": {"content-LENGTH": "3"}},
        {"headers": {"Transfer-Encoding": "chunked"}},
        {"headers": {"Connection": "X-Team"}},
        {"headers": {"Mcp-Session-Id": "stolen"}},
        {"headers": {"X Team": "a"}},
        {"headers": {"X-Team": "a\r\nHost: b"}},
        {"headers": {"X-Team": 7}},
        {"headers": {"authorization": "Bearer a"}, "authorization": "b"},
        {"authorization": "a\nb"},
    ],
)
def test_headers_of_a_client_that_are_refused(more: dict[str, object]) -> None:
    tool = {"server_label": "mine", "server_url": "https://mcp.example.com/mcp", **more}
    with pytest.raises(InvalidRequest) as refused:
        TABLE.server_of(tool, ["*"])
    assert refused.value.param == "tools"


@pytest.mark.parametrize(
    ("type", "granted", "found"),
    [
        ("web_search", ["docs"], True),
        ("web_search_preview_2025_03_11", ["*"], True),
        ("web_search", [], False),
        ("file_search", ["docs"], False),
        ("code_interpreter", ["docs"], False),
    ],
)
def test_what_fulfils_a_hosted_tool(type: str, granted: list[str], found: bool) -> None:
    mapped = TABLE.hosted_by(type, granted)
    assert mapped == ((TABLE.hosted["web_search"], DOCS) if found else None)
