import re
from dataclasses import replace

import pytest
import yaml

from app.channels.table import Table, load
from app.channels.yaml_document import ChannelsInvalid
from app.contract.channel import Channel, Compaction, Cooldown, Params, Timeouts
from app.contract.limits import UNSTATED, Limits, budgets
from app.contract.model_facts import NOTHING, ModelFacts
from app.contract.money import Price, Rates
from app.schemas.channels import KEYS
from tests.channels.tables import CANARY, DEMO, FORMATS, REPOSITORY, rows


def complaints(read, text, **environment):
    """`line:column: message` of every problem."""
    with pytest.raises(ChannelsInvalid) as caught:
        read(text, **environment)
    return [str(problem).split("channels.yaml:", 1)[1] for problem in caught.value.problems]


# --- what a good file says --------------------------------------------------------------------------------------


def test_a_short_row_gets_every_default(read):
    assert read(DEMO).channels == (Channel(name="demo", format="demo", models={"demo": "demo"}, line=3),)


def test_a_full_row_is_read_as_written(read):
    table = read(
        rows("""
- name: openai
  format: responses
  base_url: https://api.openai.com/v1/
  api_key: ${KEY}
  headers: {X-Team: blue}
  models: {fast: gpt-6-luna, "gpt-*": }
  priority: -3
  weight: 7
  max_concurrency: 32
  timeout: {idle: 2m}
  cooldown: {for: 500ms}
  family: openai-eu
  compact: native
  bridge: no
  chat: true
  count_tokens: true
  encrypted_reasoning: yes
  reasoning_text: true
  max_output_tokens: 4096
  hosted_tools: refuse
  cache_key: off
  mcp: native
  system_messages: keep
  message_order: strict
  tool_images: tool
  tools: functions
  tool_schemas: plain
  tool_strictness: uniform
  streaming: always
  sampling: one
  thinking: budget
  text_format: object
  params:
    drop: [user, "tools[].function.strict", "**.cache_control"]
    rename: {max_tokens: max_completion_tokens}
    set: {reasoning.effort: low, extra: {a: [1, "2", null, true, -0.5, no], "model": x}, "seed": 7}
  retry_unanswered: on
  tags: [a, b]
  enabled: off
"""),
        KEY="k",
    )
    (channel,) = table.channels
    assert channel == Channel(
        name="openai",
        format="responses",
        base_url="https://api.openai.com/v1",
        api_key="k",
        headers={"X-Team": "blue"},
        models={"fast": "gpt-6-luna"},
        globs=("gpt-*",),
        priority=-3,
        weight=7,
        max_concurrency=32,
        timeouts=Timeouts(idle=120.0),
        cooldown=Cooldown(seconds=0.5),
        family="openai-eu",
        compact="native",
        bridge=False,
        chat=True,
        count_tokens=True,
        encrypted_reasoning=True,
        reasoning_text=True,
        max_output_tokens=4096,
        hosted_tools="refuse",
        cache_key="off",
        mcp="native",
        system_messages="keep",
        message_order="strict",
        tool_images="tool",
        tools="functions",
        tool_schemas="plain",
        tool_strictness="uniform",
        streaming="always",
        sampling="one",
        thinking="budget",
        text_format="object",
        params=Params(
            drop=("user", "tools[].function.strict", "**.cache_control"),
            rename={"max_tokens": "max_completion_tokens"},
            set={"reasoning.effort": "low", "extra": {"a": [1, "2", None, True, -0.5, "no"], "model": "x"}, "seed": 7},
        ),
        retry_unanswered=True,
        tags=("a", "b"),
        enabled=False,
        line=3,
    )


def test_yaml_1_1_does_not_rewrite_names(read):
    table = read(rows("- {name: on, format: demo, models: [no, 012, 12:30, 1e3, 0x10, 2026-11-22, 1_000]}"))
    assert list(table.channels[0].models) == ["no", "012", "12:30", "1e3", "0x10", "2026-11-22", "1_000"]
    assert table.channels[0].name == "on"


def test_defaults_hold_where_a_row_says_nothing(read):
    table = read(
        rows(
            """
- {name: a, format: demo, models: [m]}
- {name: b, format: demo, models: [m], timeout: {connect: 1}, cooldown: {after: 9}}
- {name: c, format: demo, models: [m], timeout: 3}
""",
            head="version: 1\ndefaults: {timeout: {connect: 2, total: 1h}, cooldown: {after: 3, for: 1m}}\n",
        )
    )
    a, b, c = table.channels
    assert a.timeouts == Timeouts(connect=2.0, total=3600.0)
    assert a.cooldown == Cooldown(after=3, seconds=60.0)
    assert b.timeouts == Timeouts(connect=1.0, total=3600.0)
    assert b.cooldown == Cooldown(after=9, seconds=60.0)
    assert c.timeouts == Timeouts(connect=2.0, first_byte=3.0, idle=3.0, total=3.0)


def test_one_default_duration_is_enough(read):
    table = read("defaults: {timeout: 10m}\n" + DEMO)
    assert table.channels[0].timeouts == Timeouts(connect=5.0, first_byte=600.0, idle=600.0, total=600.0)


def test_limits_of_all_tokens_are_read(read):
    assert read(DEMO).limits == UNSTATED
    table = read(DEMO + "limits: {rpm: 60, tpm: none, concurrency: 4, budget: 2Mtok/day}\n")
    assert table.limits == Limits(60, 0, 4, budgets(["2Mtok/day"]))
    assert read(DEMO + "limits: {budget: [1ktok/day, 5usd/month]}\n").limits.budgets == budgets(
        ["1ktok/day", "5usd/month"]
    )


def test_limits_that_are_none_are_reported_at_their_places(read):
    assert complaints(read, DEMO + "limits: {rpm: 0, budget: 50}\n") == [
        "4:15: must be a whole number from 1 to 1000000000000, or none",
        "4:26: must be a budget such as 2Mtok/day, 500ktok/month or 50usd/month",
    ]


def test_compaction_and_facts_are_read(read):
    table = read(
        DEMO + "compaction: {model: null, strategy: trim, timeout: 90s}\n"
        "models: {demo: {context_window: 1000, compact_at: 0.8, price: {input: 1, output: 2.5}}}\n"
    )
    assert table.compaction == Compaction(model=None, strategy="trim", timeout=90)
    assert table.models == {
        "demo": {"context_window": 1000, "compact_at": 0.8, "price": (Price(Rates(1_000_000, 2_500_000)),)},
    }
    assert table.prices("demo") == (Price(Rates(1_000_000, 2_500_000)),)
    assert table.prices("other") == read(DEMO).prices("demo") == ()


def test_prices_have_tiers_and_days(read):
    text = (
        DEMO
        + """\
models:
  "*": {price: {input: 9, output: 9}}
  "gpt-*":
    price:
      - {input: 2, output: 8, cached_input: 0.2, effective: 2026-03-01, above: {200k: {input: 4}, 1000k: {output: 20}}}
      - {input: 3, output: 12, cache_write: 3.75}
  gpt-6: {context_window: 3}
  free: {price: {input: 0, output: 0}}
"""
    )
    table = read(text)
    old = Price(Rates(3_000_000, 12_000_000, cache_write=3_750_000))
    new = Price(
        Rates(2_000_000, 8_000_000, 200_000),
        ((1_000_000, Rates(2_000_000, 20_000_000, 200_000)), (200_000, Rates(4_000_000, 8_000_000, 200_000))),
        1_772_323_200,
    )
    assert table.prices("gpt-6") == (old, new)
    assert table.prices("other") == (Price(Rates(9_000_000, 9_000_000)),)
    assert table.prices("free") == (Price(Rates(0, 0)),)
    lines = [text.splitlines()[(table.price_line(name) or 0) - 1].strip() for name in ("gpt-6", "other", "free")]
    assert [line[:18] for line in lines] == ["- {input: 2, outpu", '"*": {price: {inpu', "free: {price: {inp"]
    assert read(DEMO).price_line("demo") is None


def test_the_facts_of_a_model_are_its_own_and_then_those_of_globs_the_longest_first(read):
    table = read(
        DEMO
        + """\
models:
  "*": {context_window: 1, max_output_tokens: 1, modalities: [text]}
  "gpt-*": {context_window: 2, efforts: [low, high], verbosity: true}
  gpt-6: {context_window: 3, price: {input: 1, output: 1}, parallel_tools: false, catalogue: false}
  "m[1m]": {display_name: A model, patch_tool: none, tool_output_tokens: 500}
"""
    )
    rest = ModelFacts(context_window=1, max_output_tokens=1, modalities=("text",))
    assert table.facts("other") == rest
    gpt = replace(rest, context_window=2, efforts=("low", "high"), verbosity=True)
    assert table.facts("gpt-7") == gpt
    assert table.facts("gpt-6") == replace(gpt, context_window=3, parallel_tools=False, catalogue=False)
    named = replace(rest, display_name="A model", patch_tool="none", tool_output_tokens=500)
    assert table.facts("m[1m]") == named
    assert table.facts("m1") == rest
    assert read(DEMO).facts("demo") == NOTHING


def test_a_literal_name_goes_before_a_glob():
    channel = Channel(name="a", format="demo", models={"gpt-6": "upstream-6", "m[1m]": "m[1m]"}, globs=("gpt-*",))
    assert channel.upstream_model("gpt-6") == "upstream-6"
    assert channel.upstream_model("gpt-7") == "gpt-7"
    assert channel.upstream_model("GPT-7") is None
    assert channel.upstream_model("m1") is None
    assert channel.upstream_model("m[1m]") == "m[1m]"


def test_serving_names_and_nearest_leave_disabled_channels_out():
    table = Table(
        channels=(
            Channel(name="low", format="demo", globs=("*",), priority=-1),
            Channel(name="first", format="demo", models={"fast": "x", "slow": "y"}),
            Channel(name="off", format="demo", models={"fast": "x", "gone": "z"}, enabled=False),
            Channel(name="second", format="demo", models={"fast": "x"}),
        )
    )
    assert [channel.name for channel in table.serving("fast")] == ["first", "second", "low"]
    assert [channel.name for channel in table.serving("else")] == ["low"]
    assert table.names() == ["fast", "slow"]
    assert table.nearest("fats") == "fast"
    assert table.nearest("qqqqqq") is None
    assert table.nearest("f" * 5000) is None


def test_values_are_frozen_hashable_and_equal_when_read_twice(read):
    one, two = read(DEMO), read(DEMO)
    assert one == two
    assert hash(one.channels[0]) == hash(two.channels[0])
    assert len(one.digest) == 12


# --- what is wrong, and where -----------------------------------------------------------------------------------

FORMATS_KNOWN = "the formats are chat_completions, demo, messages, responses"
SUCH_AS = "missing key 'base_url': where the upstream is, such as https://host/v1"
NO_TABLE = "1:1: the file is empty; it needs `version: 1` and `channels:`"
A = "- {name: a, format: demo, models: [m], "
MODEL = "must be a model's name: at most 256 characters, none of them a control character or an outer blank"
NAME = "must be 1 to 64 letters, digits, '.', '_' or '-', the first a letter or digit"
EMPTY = "{}: must not be an empty list; leave the key out"
DURATION = "must be a duration: a number of seconds, or 500ms, 30s, 5m, 1h (at most seven days)"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", [NO_TABLE]),
        ("# nothing\n", [NO_TABLE]),
        ("~\n", [NO_TABLE]),
        ("- a\n", ["1:1: must be a mapping with `version: 1` and `channels:`"]),
        ("version: 1\n", ["1:1: missing key 'channels'"]),
        ("version: 1\nchannels: []\n", ["2:11: must hold at least one channel"]),
        ("version: 1\nchannels: {a: b}\n", ["2:11: must be a list of channels"]),
        ("version: 1\nchannels:\n", ["2:10: must be a list of channels"]),
        (DEMO.replace("1", "2", 1), ["1:10: must be 1: this gateway reads no other version of the table"]),
        (DEMO.replace("version: 1\n", ""), ["1:1: missing key 'version'"]),
        (DEMO + "---\nversion: 1\n", ["4:1: a second document; the table must be the only one"]),
        (DEMO + "version: 1\n", ["4:1: the key 'version' is given twice"]),
        (DEMO + "<<: {a: b}\n", ["4:1: merge keys are not supported; use defaults:"]),
        (DEMO + "? [a]\n: b\n", ["4:3: a key must be a plain word"]),
        (DEMO + "chanels: 1\n", ["4:1: unknown key 'chanels', did you mean 'channels'?"]),
        (DEMO + "zzz: 1\n", ["4:1: unknown key 'zzz'"]),
        (
            DEMO + "compaction: {model: &m x}\n",
            ["4:21: anchors are not supported; a value that begins with '&' must be quoted"],
        ),
        (
            DEMO + "compaction: {model: !!str x}\n",
            ["4:21: tags are not supported; a value that begins with '!' must be quoted"],
        ),
        (
            DEMO + "compaction: {strategy: sumary}\n",
            ["4:24: must be one of auto, native, summary, trim, did you mean 'summary'?"],
        ),
        (
            DEMO + "models: {demo: {price: {input: -1}}}\n",
            [
                "4:24: missing key 'output'",
                "4:32: must be an amount from 0 to 999999, with at most six decimal places",
            ],
        ),
        (
            DEMO
            + "models: {demo: {price: {input: 1, output: 0.0000001, above: {many: {inputt: 1}}, effective: soon}}}\n",
            [
                "4:43: must be an amount from 0 to 999999, with at most six decimal places",
                "4:68: stands under a name that is no number of tokens, such as 272000 or 272k",
                "4:93: must be a date such as 2026-03-01",
            ],
        ),
        (
            DEMO + "models: {demo: {price: [{input: 1, output: 1}, {input: 2, output: 1}]}}\n",
            ["4:24: two of the prices begin on the same day; each needs its own date under `effective`"],
        ),
        (DEMO + "models: {demo: 3}\n", ["4:16: must be a mapping"]),
        (
            DEMO + "models: {demo: {modalities: [text, imagee], efforts: [low, low], context_windw: 1}}\n",
            [
                "4:36: must be one of text, image, audio, video, file, did you mean 'image'?",
                "4:60: stands here twice",
                "4:66: unknown key 'context_windw', did you mean 'context_window'?",
            ],
        ),
        (DEMO + "models: {demo: {modalities: text, efforts: []}}\n", ["4:29: must be a list", EMPTY.format("4:44")]),
        (
            DEMO + 'models: {"d*": {patch_tool: function, verbosity: maybe, tool_output_tokens: 5, catalogue: 1}}\n',
            [
                "4:29: must be one of freeform, none",
                "4:50: must be true or false",
                "4:77: must be a whole number from 100 to 1000000",
                "4:91: must be true or false",
            ],
        ),
        (DEMO + "defaults: {timeout: {connnect: 5}}\n", ["4:22: unknown key 'connnect', did you mean 'connect'?"]),
        (DEMO + "defaults: {cooldown: }\n", ["4:22: must have a value"]),
        (rows("- text"), ["3:5: must be a mapping"]),
        (rows("- {name: a, format: demo}"), ["3:5: missing key 'models'"]),
        (
            rows("- {name: a, format: demo, models: m}"),
            ['3:37: must be a list of names, or a mapping of public names to upstream names; "*" for any'],
        ),
        (rows("- {name: a, format: demo, models: [m, m]}"), ["3:41: stands here twice"]),
        (rows("- {name: a, format: demo, models: [[m]]}"), ["3:38: must be a single value, not a list"]),
        (rows("- {name: a, format: demo, models: [~]}"), ["3:38: must have a value"]),
        (rows("- {name: a, format: demo, models: [' m']}"), [f"3:38: {MODEL}"]),
        (
            rows("- {name: a, format: demo, models: {'m-*': x}}"),
            ["3:45: must be empty: what a glob matches keeps its name"],
        ),
        (rows("- {name: a b, format: demo, models: [m]}"), [f"3:12: {NAME}"]),
        (rows("- {name: , format: demo, models: [m]}"), ["3:12: must have a value"]),
        (
            rows("- {name: a, format: respnses, models: [m]}"),
            [
                f"3:5: {SUCH_AS}",
                f"3:23: unknown format 'respnses', did you mean 'responses'?; {FORMATS_KNOWN}",
            ],
        ),
        (rows("- {name: a, format: responses, models: [m]}"), [f"3:5: {SUCH_AS}"]),
        (
            rows("- {name: a, format: demo, models: [m], count_tokens: true}"),
            ["3:56: the format demo has no request that counts tokens; messages, responses have one"],
        ),
        (
            rows("- {name: a, format: demo, models: [m], mcp: native}"),
            ["3:47: the format demo cannot name MCP servers to its upstream; responses can"],
        ),
        (rows("- {name: a, format: demo, models: [m], mcp: gateway, enabled: 1}"), ["3:65: must be true or false"]),
        (
            rows("- {name: a, format: demo, models: [m]}\n- {name: a, format: demo, models: [m]}"),
            ["4:12: this name is taken by the channel at line 3"],
        ),
        (rows(A + "weight: 0}"), ["3:50: must be a whole number from 1 to 1000"]),
        (rows(A + "weight: '3'}"), ["3:50: must be a whole number from 1 to 1000"]),
        (rows(A + "weight: 010}"), ["3:50: must be a whole number from 1 to 1000"]),
        (rows(A + "max_concurrency: 0}"), ["3:59: must be a whole number from 1 to 1000000"]),
        (rows(A + "bridge: 1}"), ["3:50: must be true or false"]),
        (rows(A + "timeout: 5 min}"), [f"3:51: {DURATION}"]),
        (rows(A + "timeout: {idle: 0}}"), [f"3:58: {DURATION}"]),
        (rows(A + "cooldown: 5}"), ["3:52: must be a mapping"]),
        (rows(A + "tags: x}"), ["3:48: must be a list"]),
        (rows(A + "tags: []}"), ["3:48: must not be an empty list; leave the key out"]),
        (
            rows("- {name: a, format: demo, models: []}"),
            ['3:37: must be a list of names, or a mapping of public names to upstream names; "*" for any'],
        ),
        (rows("- {name: a, format: demo, models: ['']}"), ["3:38: must not be empty"]),
        (rows(A + "headers: {Host: x}}"), ["3:58: is a header that the gateway sets itself"]),
        (rows(A + 'headers: {X-A: "a\\r\\nb"}}'), ["3:57: must be printable ASCII without outer blanks"]),
        (rows(A + 'api_key: "${K}", api_key_file: f}'), ["3:73: stands beside api_key; a channel has one key"]),
        (rows(A + "ca_file: none.pem}"), ["3:51: is not a file that can be read"]),
        (rows(A + 'ca_file: none.pem, api_key: "${NONE}"}'), ["3:51: is not a file that can be read"]),
        (
            rows(A + "tags: [&x y], weight: 0}"),
            [
                "3:49: anchors are not supported; a value that begins with '&' must be quoted",
                "3:64: must be a whole number from 1 to 1000",
            ],
        ),
        (rows(A + 'family: "${NONE}"}'), ["3:50: the variable NONE is not set, in the environment or in .env"]),
        (
            rows(A + 'family: "${K"}'),
            ["3:50: '${' begins a reference: ${NAME} or ${NAME:-default}; '$${' is a plain '${'"],
        ),
        (
            rows("- name: a\n  format: demo\n  models: [*]"),
            ["5:14: not YAML: a name that begins with '*' must be quoted: \"*\""],
        ),
        (
            rows("- name: a\n  format: demo\n  models: [*x]"),
            ["5:14: aliases are not supported; a name that begins with '*' must be quoted"],
        ),
        (rows("- name: a\n  format demo\n  models: [m]"), ["4:5: not YAML: could not find expected ':'"]),
        (rows("- name: a\n\tformat: demo"), ["4:3: not YAML: a tab cannot indent, use spaces"]),
        (
            rows("- {name: a, api_key: ${K}}"),
            ['3:25: not YAML: a reference between { } or [ ] must be quoted: "${NAME}"'],
        ),
        (rows("- name: a\n   format: demo"), ["4:12: not YAML: mapping values are not allowed in this context"]),
        (b"version: 1\nchannels: \xff\n", ["2:11: is not UTF-8 from here on"]),
        ("version: 1\nchannels: \x00\n", ["2:11: a character that YAML does not allow: U+0000"]),
        ("a: " + "[" * 40, ["1:19: more than 100000 values, or nested deeper than 16"]),
        (b"#" * ((4 << 20) + 1), ["1:1: is larger than 4 MiB"]),
    ],
)
def test_an_error_names_the_place_in_the_file(read, text, expected):
    assert complaints(read, text, K="k") == expected


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("api.openai.com/v1", "must be a URL that begins with http:// or https://"),
        ("ftp://host", "must be a URL that begins with http:// or https://"),
        ("http://good\\@127.0.0.1/", "must be a URL that begins with http:// or https://"),
        ("http://", "must be a URL with a host"),
        ("http://host:99999", "must be a URL with a valid host and port"),
        ("http://[", "must be a URL with a valid host and port"),
        ("http://user:word@host", "must not hold a user or password; use api_key or headers"),
        ("http://host/v1?key=word", "must end with its path, without '?' or '#'; paths are appended to it"),
        (
            "http://host/v1/responses",
            "must be the part before /responses or /chat/completions, such as https://host/v1",
        ),
    ],
)
def test_a_base_url_is_a_plain_one(read, url, message):
    text = rows(f"- name: a\n  format: responses\n  models: [m]\n  base_url: '{url}'")
    assert complaints(read, text) == [f"6:15: {message}"]


def test_all_errors_come_at_once_in_the_order_of_the_lines(read):
    text = rows("""
- name: openai
  format: responses
  base_url: https://api.openai.com/v1
  api_kye: ${OPENAI_API_KEY}
  models: [a]
  weight: many
""")
    with pytest.raises(ChannelsInvalid) as caught:
        read(text)
    shown = re.sub(r"^.*channels\.yaml", "channels.yaml", str(caught.value), flags=re.MULTILINE)
    assert shown == (
        "channels.yaml:6:5: unknown key 'api_kye', did you mean 'api_key'?\n"
        "    api_kye: ***\n"
        "    ^\n"
        "channels.yaml:8:13: must be a whole number from 1 to 1000\n"
        "    weight: many\n"
        "            ^"
    )


# --- variables and keys -----------------------------------------------------------------------------------------


def test_variables_are_put_in_after_parsing(read):
    table = read(
        rows("""
- name: ${NAME:-a}
  format: demo
  models: ["${M}-${N:-mini}", "$${literal}"]
  weight: ${W}
  family: ${EMPTY:-x}
"""),
        M="m: [",
        W="4",
        EMPTY="",
    )
    (channel,) = table.channels
    assert (channel.name, channel.weight, channel.family) == ("a", 4, "x")
    assert list(channel.models) == ["m: [-mini", "${literal}"]


def test_a_channel_whose_key_is_unset_waits_and_the_others_start(read):
    waiting = "- {name: openai, format: responses, base_url: http://h, models: [m], api_key: '${OPENAI_API_KEY}'}"
    table = read(rows(waiting) + "  - {name: demo, format: demo, models: [demo]}\n", OPENAI_API_KEY="")
    assert [channel.name for channel in table.channels] == ["demo"]
    (warning,) = table.warnings
    assert str(warning).endswith(
        "channels.yaml:3:81: the variable OPENAI_API_KEY is not set, in the environment or in .env; "
        "channel 'openai' is left out"
    )


def test_a_disabled_channel_waits_for_no_key(read):
    table = read(rows("- {name: a, format: demo, models: [m], api_key: '${NONE}', enabled: false}"))
    assert table.warnings == ()
    assert table.channels[0].api_key is None


def test_a_key_may_lie_in_a_file_beside_the_table(read, tmp_path):
    text = rows("- {name: a, format: demo, models: [m], api_key_file: a.key}")
    (tmp_path / "a.key").write_text(" sk-one\n")
    assert read(text).channels[0].api_key == "sk-one"


@pytest.mark.parametrize("content", [b"", b"two words", b"\xff\xfe", None])
def test_a_key_file_without_a_key_leaves_the_channel_out(read, tmp_path, content):
    if content is not None:
        (tmp_path / "a.key").write_bytes(content)
    table = read(rows("- {name: a, format: demo, models: [m], api_key_file: a.key}"))
    assert table.channels == ()
    assert "channel 'a' is left out" in table.warnings[0].message


@pytest.mark.parametrize("key", [CANARY, f"${{NONE:-{CANARY}}}"])
def test_a_literal_key_is_a_warning_and_another_when_all_users_can_read_it(read, tmp_path, key):
    text = rows(f"- {{name: a, format: demo, models: [m], api_key: '{key}'}}")
    table = read(text)
    assert table.channels[0].api_key == CANARY
    assert len(table.warnings) == 1
    (tmp_path / "channels.yaml").chmod(0o644)
    warnings = load(tmp_path / "channels.yaml", {}, FORMATS).warnings
    assert len(warnings) == 2
    assert CANARY not in "".join(warning.render() for warning in warnings) + repr(warnings)


# --- the table that is shipped ----------------------------------------------------------------------------------


def uncommented():
    return re.sub(r"^#(?=\S|  )", "", (REPOSITORY / "channels.yaml").read_text(), flags=re.MULTILINE)


def test_the_shipped_table_works_as_it_stands():
    table = load(REPOSITORY / "channels.yaml", {}, FORMATS)
    assert [channel.name for channel in table.channels] == ["demo"]
    assert table.warnings == ()


def test_every_example_in_the_shipped_table_works_when_uncommented(read, tmp_path):
    (tmp_path / "internal-ca.pem").write_text("-")
    (tmp_path / "local.key").write_text("sk-local")
    table = read(uncommented(), OPENAI_API_KEY="sk-x", ANTHROPIC_API_KEY="sk-y", DOCS_TOKEN="t", ALERT_SECRET="s" * 16)
    assert [channel.name for channel in table.channels] == ["demo", "openai", "local", "anthropic"]
    assert list(table.tools.servers) == ["demo", "docs"]
    assert table.warnings == ()


def test_the_shipped_table_shows_every_key_there_is():
    keys = {event.value for event in yaml.parse(uncommented()) if isinstance(event, yaml.ScalarEvent)}
    assert keys >= KEYS
