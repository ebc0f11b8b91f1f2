"""The JSON Schema of the channel table and its reader take the same tables."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from marshmallow import ValidationError

from app import formats
from app.channels.interpolation import Interpolation
from app.channels.table import load
from app.channels.yaml_document import ChannelsInvalid, Document
from app.schemas.channels import KEYS, TableRow, encoded_schema, json_schema
from tests.channels.tables import DEMO, REPOSITORY

SHIPPED = REPOSITORY / "app" / "cli" / "channels.schema.json"

#: Every key of the table, each value in one of its forms.
FULL = """
version: 1
defaults:
  timeout: {connect: 5s, first_byte: 90, idle: 1.5m, total: 15m}
  cooldown: {after: 5, for: 30s}
compaction: {model: ~, strategy: auto, timeout: 120s}
alerts: {url: https://example.com/hook, secret: "0123456789abcdef"}
limits: {rpm: 60, tpm: none, concurrency: 8, budget: [2Mtok/day, 50usd/month], tags: [cloud, local],
  models: [gpt-*, m], no_store: true}
channels:
  - name: openai
    format: responses
    base_url: https://api.openai.com/v1
    api_key: ${OPENAI_API_KEY:-none}
    models: [gpt-6-sol, "gpt-6-*", "name[1m]", 7]
    priority: 0
    weight: 3
    max_concurrency: 32
    queue: 5s
    max_output_tokens: 4096
    family: openai
    compact: native
    bridge: true
    chat: yes
    count_tokens: true
    encrypted_reasoning: on
    reasoning_text: false
    hosted_tools: drop
    mcp: native
    cache_key: off
    item_ids: omit
    call_ids: short
    call_signatures: google
    system_messages: merge
    message_order: free
    tool_images: user
    tools: native
    tool_schemas: given
    text_format: schema
    tool_strictness: mixed
    streaming: both
    sampling: both
    thinking: adaptive
    params:
      drop: [user, "tools[].strict", "**.cache_control"]
      rename: {max_tokens: max_completion_tokens}
      set: {reasoning.effort: low, extra: {a: [1, "2", ~]}}
    retry_unanswered: false
    timeout: 10m
    cooldown: {after: 3, for: 1m}
    headers: {OpenAI-Project: "${OPENAI_PROJECT:-default}", X-Team: blue}
    tags: [cloud]
    enabled: true
  - name: local
    format: chat_completions
    base_url: http://[::1]:8000
    api_key_file: local.key
    ca_file: internal-ca.pem
    models: {fast: Qwen/Qwen3-32B, "mini-*": }
    max_concurrency: ~
  - {name: demo, format: demo, models: [demo]}
models:
  fast:
    context_window: 131072
    max_output_tokens: 16384
    modalities: [text, image]
    compact_at: 0.8
    display_name: Qwen3 32B
    efforts: [low, medium]
    verbosity: false
    parallel_tools: true
    patch_tool: freeform
    tool_output_tokens: 10000
    catalogue: true
    price:
      input: 0.5
      cached_input: 0.05
      cache_write: 0.625
      output: 1.5
      above: {200k: {input: 1, output: 2.25}, 400000: {cached_input: 2}}
      effective: 2026-03-01
  "gpt-*":
    price: [{input: 1, output: 2, effective: 2026-02-01}, {input: 3, output: 4, effective: 2026-04-01}]
tools:
  servers:
    - label: docs
      url: https://mcp.example.com/mcp?key=1
      headers: {Authorization: "Bearer ${DOCS_TOKEN:-none}"}
      description: The team's documents
      allowed_tools: [search, fetch]
      require_approval: {never: {read_only: true}, always: {tool_names: [fetch]}}
      timeout: {open: 10s, call: 60s}
      max_result: 256KiB
      ca_file: internal-ca.pem
      protocol: auto
      enabled: true
    - {label: more, url: "http://10.0.0.7:8000", allowed_tools: {read_only: true}, require_approval: never, timeout: 5}
  hosted:
    web_search: {server: docs, tool: search}
    file_search: {server: docs, tool: search}
  client_urls:
    - https://mcp.example.org
    - {origin: "http://10.0.0.7:8000", private: true}
"""

#: Each value in its other forms.
FORMS = [
    "version: '1'\nchannels: [{name: a, format: demo, models: {any: }}]",
    "version: 1\nchannels: [{name: 4, format: demo, models: ['*']}]",
    "version: 1\nlimits: {budget: 2Mtok/day, rpm: none}\nchannels: [{name: a, format: demo, models: [m]}]",
    "version: 1\nlimits: {budget: []}\nchannels: [{name: a, format: demo, models: [m]}]",
    "version: 1\nchannels: [{name: a, format: demo, models: [m], base_url: 'https://${HOST}/v1'}]",
    "version: 1\ntools: {}\nmodels: {}\nchannels: [{name: a, format: demo, models: [m], timeout: {}}]",
]

WRONG = [
    "version: 2\nchannels: [{name: a, format: demo, models: [m]}]",
    "version: 1\nchannels: []",
    "version: 1\nchannels: {}",
    "channels: [{name: a, format: demo, models: [m]}]",
    *(
        f"version: 1\nchannels: [{{name: a, format: responses, models: [m], {rest}}}]"
        for rest in (
            "",
            "api_kye: x",
            "base_url: https://host/v1, queue: 5s",
            "base_url: https://host/v1, queue: 5s, max_concurrency: ~",
            "base_url: https://host/v1, api_key: a, api_key_file: b",
            "base_url: https://host/v1/responses",
            "base_url: 'https://host/v1?key=1'",
            "base_url: https://user:password@host/v1",
            "base_url: ftp://host",
            "base_url: https://host, headers: {Content-type: a}",
            "base_url: https://host, headers: {a b: c}",
            "base_url: https://host, params: {drop: [input]}",
            "base_url: https://host, params: {set: {'**.a': 1}}",
            "base_url: https://host, params: {rename: {a: b.c}}",
            "base_url: https://host, timeout: 0s",
            "base_url: https://host, tags: []",
            "base_url: https://host, queue: 9, max_concurrency: 1",
        )
    ),
    "version: 1\nchannels: [{name: a, format: demo, models: {'gpt-*': b}}]",
    "version: 1\nchannels: [{name: a, format: demo, models: {}}]",
    "version: 1\nchannels: [{name: a, format: none-such, models: [m]}]",
    "version: 1\nmodels: {m: {price: {input: 1}}}\nchannels: [{name: a, format: demo, models: [m]}]",
    "version: 1\nlimits: {budget: 0usd/day}\nchannels: [{name: a, format: demo, models: [m]}]",
    f"{DEMO}tools: {{servers: [{{label: a, url: 'https://a/sse'}}]}}",
    f"{DEMO}tools: {{client_urls: ['https://a/b']}}",
]


@cache
def schema() -> jsonschema.Draft7Validator:
    return jsonschema.Draft7Validator(json_schema(formats.names()))


def accepts(directory: Path, text: str) -> bool:
    path = directory / "channels.yaml"
    path.write_text(text)
    try:
        load(path, {"HOST": "host"}, formats.names())
    except ChannelsInvalid:
        return False
    return True


# --- YAML 1.2, as editors read it -------------------------------------------------------------------------------

_CORE = (
    (re.compile(r"~|null|Null|NULL|"), lambda text: None),
    (re.compile(r"true|True|TRUE"), lambda text: True),
    (re.compile(r"false|False|FALSE"), lambda text: False),
    (re.compile(r"[-+]?[0-9]+"), int),
    (re.compile(r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?"), float),
)


def as_json(node: yaml.Node) -> Any:
    if isinstance(node, yaml.MappingNode):
        return {key.value: as_json(value) for key, value in node.value}
    if isinstance(node, yaml.SequenceNode):
        return [as_json(element) for element in node.value]
    text = str(node.value)
    if node.style is None:
        for pattern, read in _CORE:
            if pattern.fullmatch(text):
                return read(text)
    return text


def fits(text: str) -> bool:
    return schema().is_valid(as_json(yaml.compose(text)))


# --- tests ------------------------------------------------------------------------------------------------------


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    (tmp_path / "local.key").write_text("key")
    (tmp_path / "internal-ca.pem").write_text("certificate")
    return tmp_path


def test_the_shipped_schema_is_current() -> None:
    """`make schema` writes it."""
    assert SHIPPED.read_bytes() == encoded_schema(formats.names())


def test_it_is_a_schema_of_a_dialect_that_editors_know() -> None:
    jsonschema.Draft7Validator.check_schema(json_schema(formats.names()))


def test_the_full_table_has_every_key() -> None:
    assert {key for key in KEYS if not re.search(rf"\b{key}:", FULL)} == set()


@pytest.mark.parametrize("text", [FULL, DEMO, (REPOSITORY / "channels.yaml").read_text(), *FORMS])
def test_what_the_reader_takes_fits(directory: Path, text: str) -> None:
    assert accepts(directory, text)
    schema().validate(as_json(yaml.compose(text)))


def test_every_example_of_the_shipped_table_fits() -> None:
    shown = (REPOSITORY / "channels.yaml").read_text()
    examples = re.sub(r"^#(?=\S|  +\S)", "", shown, flags=re.MULTILINE)
    schema().validate(as_json(yaml.compose(examples)))
    assert {key for key in KEYS if not re.search(rf"^[^#]*\b{key}:", examples, re.MULTILINE)} == set()


@pytest.mark.parametrize("text", WRONG)
def test_what_the_reader_refuses_does_not_fit(directory: Path, text: str) -> None:
    assert not accepts(directory, text)
    assert not fits(text)


# --- any change of one value ------------------------------------------------------------------------------------

#: One value each, as it is written: quoted and plain text differ.
VALUES = (
    *("~", "true", "no", "0", "-1", "3", "0.5", "99999999999999", '""', "x", '"5"', "a b", "5s", "none", "256KiB"),
    *("2026-05-01", "https://host/v1", "'*'", "[]", "[a, a]", "[1, ~]", "[{}]", "{}", "{a: b}", "{a: }", "{'*': b}"),
)

#: Each part of the full table in a table of its own, which is read faster.
_SECTIONS = re.split(r"\n(?=[a-z]+:)", FULL.strip())
_CHANNELS = re.findall(r"^  - (?:name|\{name).*\n(?:    .*\n)*", FULL, re.MULTILINE)
PARTS = [
    *(DEMO + section for section in _SECTIONS if not section.startswith(("version:", "channels:"))),
    *(f"version: 1\nchannels:\n{row}" for row in _CHANNELS),
]

#: That the format exists is checked by the loader, not by the rows.
OF_THE_LOADER = {"format"}

_ROWS = TableRow()


def reads(directory: Path, root: yaml.Node) -> bool:
    """Whether the rows take these nodes; rules between rows, and files, do not count."""
    document = Document(directory / "channels.yaml")
    try:
        _ROWS.load(Interpolation(document, {}).value(root))
        document.stop_if_wrong()
    except (ChannelsInvalid, ValidationError):
        return False
    return True


Steps = tuple[str | int, ...]


def places(node: yaml.Node, path: Steps = ()) -> Iterator[tuple[Steps, yaml.CollectionNode, int]]:
    """The path of every value, the node that holds it, and its place within."""
    if not isinstance(node, yaml.CollectionNode):
        return
    for index, inner in enumerate(node.value):
        key, value = inner if isinstance(node, yaml.MappingNode) else (None, inner)
        below = (*path, index if key is None else key.value)
        yield below, node, index
        yield from places(value, below)


@contextmanager
def put(holder: yaml.CollectionNode, index: int, value: Any) -> Iterator[None]:
    """Puts an element, or a pair of a key and a value, in place of another."""
    former = holder.value[index]
    holder.value[index] = value
    yield
    holder.value[index] = former


@pytest.fixture
def table(directory: Path, request: pytest.FixtureRequest) -> yaml.Node:
    (directory / "channels.yaml").write_text(request.param)
    return yaml.compose(request.param)


parts = pytest.mark.parametrize("table", PARTS, indirect=True, ids=range(len(PARTS)))


@parts
def test_a_changed_value_is_taken_by_both_or_by_none(directory: Path, table: yaml.Node) -> None:
    assert reads(directory, table)
    values = {text: yaml.compose(text) for text in VALUES}
    differing = []
    for path, holder, index in list(places(table)):
        for text, value in values.items():
            key = (holder.value[index][0],) if isinstance(holder, yaml.MappingNode) else ()
            with put(holder, index, (*key, value) if key else value):
                accepted, fitting = reads(directory, table), schema().is_valid(as_json(table))
            if accepted != fitting and path[-1] not in OF_THE_LOADER:
                differing.append((path, text, accepted))
    assert differing == []


@parts
def test_a_key_that_is_left_out_or_unknown_is_refused_by_both_or_by_none(directory: Path, table: yaml.Node) -> None:
    differing = []
    for path, holder, index in list(places(table)):
        if not isinstance(holder, yaml.MappingNode):
            continue
        key, value = holder.value[index]
        unknown = yaml.ScalarNode(key.tag, f"{key.value}_x", key.start_mark, key.end_mark)
        with put(holder, index, (unknown, value)):
            renamed = reads(directory, table), schema().is_valid(as_json(table))
        holder.value.pop(index)
        removed = reads(directory, table), schema().is_valid(as_json(table))
        holder.value.insert(index, (key, value))
        differing += [path for accepted, fitting in (renamed, removed) if accepted != fitting]
    assert differing == []
