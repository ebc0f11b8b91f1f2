"""The section `tools` of the channel table."""

import re

import pytest

from app import mcp_sdk
from app.channels.yaml_document import ChannelsInvalid
from app.contract.tools import ALWAYS, NEVER, Approval, HostedTool, ToolFilter, ToolServer
from tests.channels.tables import CANARY, DEMO, REPOSITORY


def table_of(text):
    return DEMO + "tools:\n" + "".join(f"  {line}\n" for line in text.strip("\n").splitlines())


def server(more=""):
    return table_of(f"servers:\n  - {{label: docs, url: 'http://mcp.test/mcp'{more}}}")


def complaints(read, text, **environment):
    with pytest.raises(ChannelsInvalid) as caught:
        read(text, **environment)
    return [str(problem).split("channels.yaml:", 1)[1] for problem in caught.value.problems]


# --- what a good section says -----------------------------------------------------------------------------------


def test_a_table_without_the_section_has_no_tools(read):
    assert not read(DEMO).tools


@pytest.mark.parametrize("text", ["servers: []", "client_urls: []", "hosted: {}", "{servers: [], client_urls: []}"])
def test_an_empty_section_has_no_tools(read, text):
    assert not read(table_of(text)).tools


def test_a_short_row_gets_every_default(read):
    tools = read(server()).tools
    assert tools.servers == {"docs": ToolServer(label="docs", url="http://mcp.test/mcp")}
    docs = tools.servers["docs"]
    assert (docs.approval, docs.allowed, docs.max_result) == (ALWAYS, None, 256 * 1024)
    assert (docs.open_timeout, docs.call_timeout, docs.protocol, docs.private) == (10, 60, "auto", True)


def test_a_full_section_is_read_as_written(read, tmp_path):
    (tmp_path / "ca.pem").write_text("-")
    tools = read(
        table_of("""
servers:
  - label: docs
    url: https://mcp.test:8443/mcp?key=${KEY}
    headers: {Authorization: "Bearer ${KEY}", X-Team: blue}
    description: ours
    allowed_tools: {tool_names: [search, "über alles"], read_only: yes}
    require_approval: {always: [delete], never: {read_only: true}}
    timeout: {open: 5s, call: 30s}
    max_result: 1MiB
    ca_file: ca.pem
    protocol: legacy
    enabled: true
  - {label: off, url: "http://off.test/", enabled: false}
  - {label: quick, url: "http://quick.test/mcp", timeout: 2s, require_approval: never, allowed_tools: [a]}
hosted:
  web_search: {server: docs, tool: search}
  file_search: {server: quick, tool: a}
client_urls:
  - HTTPS://MCP.Example.com:443/
  - {origin: "http://[::1]:8000", private: true}
"""),
        KEY="k",
    ).tools
    assert list(tools.servers) == ["docs", "quick"]
    assert tools.servers["docs"] == ToolServer(
        label="docs",
        url="https://mcp.test:8443/mcp?key=k",
        headers={"Authorization": "Bearer k", "X-Team": "blue"},
        description="ours",
        allowed=ToolFilter(frozenset({"search", "über alles"}), True),
        approval=Approval((ToolFilter(frozenset({"delete"})),), (ToolFilter(read_only=True),)),
        open_timeout=5,
        call_timeout=30,
        max_result=1 << 20,
        ca_file=str(tmp_path / "ca.pem"),
        protocol="legacy",
    )
    quick = tools.servers["quick"]
    assert (quick.call_timeout, quick.open_timeout, quick.approval) == (2, 10, NEVER)
    assert quick.allowed == ToolFilter(frozenset({"a"}))
    assert tools.hosted == {
        "web_search": HostedTool("web_search", "docs", "search"),
        "file_search": HostedTool("file_search", "quick", "a"),
    }
    assert tools.client_origins == {"https://mcp.example.com": False, "http://[::1]:8000": True}


@pytest.mark.parametrize(
    "row",
    [
        "url: 'https://mcp.test/${NONE}'",
        "url: http://mcp.test/, headers: {X-Key: '${NONE}', Authorization: '${GIVEN}'}",
    ],
)
def test_a_server_without_its_variable_is_left_out_with_a_warning(read, row):
    table = read(
        table_of(f"servers:\n  - {{label: docs, {row}}}\nhosted:\n  web_search: {{server: docs, tool: s}}"), GIVEN="k"
    )
    assert table.tools.servers == {}
    (warning,) = table.warnings
    assert warning.line == 6
    assert re.search(r"variable NONE is not set.*tool server 'docs' is left out", warning.message)
    assert table.tools.hosted_by("web_search", ["*"]) is None


def test_a_disabled_server_waits_for_no_variable(read):
    table = read(server(", headers: {X-Key: '${NONE}'}, enabled: false"))
    assert (table.tools.servers, table.warnings) == ({}, ())


@pytest.mark.parametrize(("name", "warned"), [("Authorization", 1), ("X-Api-Key", 1), ("X-Team", 0)])
def test_a_literal_key_is_a_warning_that_does_not_show_it(read, name, warned):
    table = read(server(f", headers: {{{name}: {CANARY}}}"))
    assert len(table.warnings) == warned
    assert CANARY not in "".join(warning.render() for warning in table.warnings) + repr(table)


# --- errors -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "at", "why"),
    [
        ("servers: docs", "5:12", "must be a list"),
        ("servers:\n  - docs", "6:7", "must be a mapping"),
        ("servers:\n  - {url: 'http://a.test/'}", "6:7", "missing key 'label'"),
        ("servers:\n  - {label: a}", "6:7", "missing key 'url'"),
        ("servers:\n  - {label: a, url: 'http://a.test/sse'}", "6:23", "ends in /sse"),
        ("servers:\n  - {label: a, url: 'http://a.test/mcp/sse/?a=b'}", "6:23", "ends in /sse"),
        ("servers:\n  - {label: a, url: 'http://u:p@a.test/'}", "6:23", "without a user"),
        ("servers:\n  - {label: a, url: 'stdio:ls'}", "6:23", "must be a URL"),
        ("servers:\n  - {label: 'a b', url: 'http://a.test/'}", "6:15", "letters, digits"),
        ("server: {}", "5:3", "unknown key 'server', did you mean 'servers'?"),
        ("hosted:\n  web_serch: {}", "6:5", "unknown key 'web_serch', did you mean 'web_search'?"),
        ("hosted:\n  web_search: {server: none, tool: a}", "6:26", "no server has the label 'none'"),
        ("hosted:\n  web_search: {server: none}", "6:17", "missing key 'tool'"),
        ("client_urls: ['https://a.test/mcp']", "5:17", "must be an origin"),
        ("client_urls: ['https://a.test?']", "5:17", "must be an origin"),
        ("client_urls: ['*']", "5:17", "must be an origin"),
        ("client_urls: ['https://a.test', 'https://A.test:443/']", "5:35", "stands here twice"),
        ("client_urls: ['https://a.test', {origin: 'https://a.test', private: true}]", "5:35", "stands here twice"),
        ("client_urls: [{private: true}]", "5:17", "missing key 'origin'"),
    ],
)
def test_an_error_has_its_place(read, text, at, why):
    assert any(line.startswith(f"{at}: ") and why in line for line in complaints(read, table_of(text))), complaints(
        read, table_of(text)
    )


@pytest.mark.parametrize(
    ("more", "why"),
    [
        ("allowed_tools: search", "must be a list of tool names"),
        ("allowed_tools: []", "must not be an empty list"),
        ("allowed_tools: {names: [a]}", "unknown key 'names'"),
        ("require_approval: sometimes", "must be one of always, never"),
        ("require_approval: [a]", "must be a single value"),
        ("require_approval: {nevr: [a]}", "unknown key 'nevr', did you mean 'never'?"),
        ("require_approval: {never: {read_only: 1}}", "must be true or false"),
        ("timeout: soon", "must be a duration"),
        ("timeout: {read: 3s}", "unknown key 'read'"),
        ("max_result: 1GiB", "must be a size"),
        ("max_result: 10", "must be a size"),
        ("headers: {Host: a}", "is a header that the gateway sets itself"),
        ("protocol: sse", "must be one of auto, legacy"),
        ("ca_file: none.pem", "is not a file that can be read"),
        ("labl: a", "unknown key 'labl', did you mean 'label'?"),
    ],
)
def test_a_wrong_value_is_an_error_of_its_key(read, more, why):
    (line,) = complaints(read, server(f", {more}"))
    assert line.startswith("6:")
    assert why in line


def test_a_label_stands_once(read):
    text = table_of("servers:\n  - {label: a, url: 'http://a.test/'}\n  - {label: a, url: 'http://b.test/'}")
    assert complaints(read, text) == ["7:15: this label is taken by the tool server at line 6"]


@pytest.mark.parametrize(
    "text",
    [
        f"servers:\n  - {{label: a, url: 'http://a.test/sse?key={CANARY}'}}",
        f"servers:\n  - {{label: a, url: 'http://{CANARY}@a.test/'}}",
        f"servers:\n  - {{label: a, url: 'http://a.test/#{CANARY}'}}",
        f"servers:\n  - {{label: a, url: 'http://a.test/{CANARY}/mcp', labl: b}}",
        f"servers:\n  - {{label: a, url: 'http://a.test/', headers: {{Host: {CANARY}}}}}",
        f"servers:\n  - {{label: a, url: 'http://a.test/', authorization: {CANARY}}}",
        f"servers:\n  - {CANARY}",
        f"servers: {CANARY}",
        f"hosted: {CANARY}",
        f"hosted: {{web_search: {CANARY}}}",
    ],
)
def test_an_error_shows_no_secret(read, text):
    with pytest.raises(ChannelsInvalid) as caught:
        read(table_of(text))
    assert CANARY not in caught.value.message


def test_a_scalar_for_the_whole_section_is_not_shown(read):
    with pytest.raises(ChannelsInvalid) as caught:
        read(DEMO + f"tools: {CANARY}\n")
    assert "5:" not in caught.value.message
    assert CANARY not in caught.value.message


# --- the SDK ----------------------------------------------------------------------------------------------------


NEEDING = ["servers:\n  - {label: a, url: 'http://a.test/'}", "client_urls: ['https://a.test']"]


@pytest.mark.parametrize("text", NEEDING)
def test_servers_need_the_sdk_and_the_error_says_what_to_install(read, monkeypatch, text):
    monkeypatch.setattr(mcp_sdk, "_PACKAGE", "a-package-that-is-not-there")
    (line,) = complaints(read, table_of(text))
    assert line.startswith("4:1: tool servers cannot be called: the MCP SDK is not installed; pip install '.[tools]'")
    assert "install antiphon" not in line


@pytest.mark.parametrize("found", ["1.26.0", "2.2.9", "3.0.0b1", "10.1"])
def test_another_version_of_the_sdk_is_named(read, monkeypatch, found):
    monkeypatch.setattr(mcp_sdk, "version", lambda _: found)
    (line,) = complaints(read, table_of(NEEDING[0]))
    assert f"version {found}, and this Antiphon needs 2.3 or newer, below 3" in line


@pytest.mark.parametrize("found", ["2.3.0", "2.3rc1", "2.10.1"])
def test_versions_of_the_sdk_that_are_taken(read, monkeypatch, found):
    monkeypatch.setattr(mcp_sdk, "version", lambda _: found)
    assert read(table_of(NEEDING[0])).tools


@pytest.mark.parametrize("text", ["servers: []", "hosted: {}"])
def test_a_table_without_servers_needs_no_sdk(read, monkeypatch, text):
    monkeypatch.setattr(mcp_sdk, "_PACKAGE", "a-package-that-is-not-there")
    assert not read(table_of(text)).tools


def test_the_versions_are_those_of_the_extra():
    assert "mcp>=2.3,<3" in (REPOSITORY / "setup.cfg").read_text()
