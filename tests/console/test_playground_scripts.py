"""The playground's scripts that need no page: the reader of event streams, the timeline, the requests, the programs."""

from __future__ import annotations

import ast
import base64
import itertools
import re
import shutil
from collections.abc import Iterator, Sequence
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.console import formatting
from tests.console.scripts import STATIC, Scripts

pytestmark = pytest.mark.skipif(shutil.which("node") is None, reason="node is not installed")

JSON = dict[str, Any]
#: How a script could make markup or code of a text.
_WAYS = re.compile(
    r"(?:inner|outer)HTML\s*\+?=(?!=)|insertAdjacentHTML|createContextualFragment|document\.write|setHTML|srcdoc"
    r"|javascript:|\beval\(|new Function|\.on\w+\s*=\s*[\"'`]"
)
BASE = "https://gateway.example/v1"


@pytest.fixture(scope="module")
def scripts() -> Iterator[Scripts]:
    with Scripts() as scripts:
        yield scripts


@pytest.mark.parametrize("name", sorted(file.name for file in STATIC.glob("*.js") if file.name != "htmx.min.js"))
def test_no_script_makes_markup_or_code_of_text(name: str) -> None:
    text = (STATIC / name).read_text()
    assert _WAYS.findall(text) == []


# --- event streams

LINE_ENDS = ("\n", "\r\n", "\r")
# Any character but those that end a line, which JSON never holds.
TEXT = st.text(st.characters(exclude_characters="\r\n", exclude_categories=["Cs"]), max_size=12)


@st.composite
def streams(draw: st.DrawFn) -> tuple[bytes, list[JSON]]:
    """A stream with any line ends, and what a reader has to find in it."""
    written, expected = [], []
    for _ in range(draw(st.integers(0, 5))):
        end = draw(st.sampled_from(LINE_ENDS))
        if draw(st.integers(0, 3)) == 0:
            comment = draw(st.text("abc é", max_size=8))
            written.append(f":{comment}{end}{end}")
            expected.append({"comment": comment.strip()})
            continue
        lines = draw(st.lists(TEXT, min_size=1, max_size=3))
        space = draw(st.sampled_from(["", " "]))
        # One space behind the colon is no part of the value.
        values = [line if space or not line.startswith(" ") else line[1:] for line in lines]
        name = draw(st.sampled_from(["", "response.created"]))
        head = f"event: {name}{end}" if name else ""
        written.append(head + "".join(f"data:{space}{line}{end}" for line in lines) + end)
        expected.append({"name": name, "data": "\n".join(values)})
    mark = draw(st.sampled_from(["", "\ufeff"]))
    half = draw(st.sampled_from(["", "data: half an event", "data: whole line\n"]))
    return (mark + "".join(written) + half).encode(), expected


@given(stream=streams(), cuts=st.lists(st.integers(0, 400), max_size=12))
def test_a_stream_is_read_wherever_it_was_split(
    scripts: Scripts, stream: tuple[bytes, list[JSON]], cuts: list[int]
) -> None:
    raw, expected = stream
    places = sorted({0, *(cut for cut in cuts if cut < len(raw)), len(raw)})
    pieces = [raw[start:end] for start, end in itertools.pairwise(places)]
    assert _parsed(scripts, pieces) == expected


def test_a_stream_is_read_byte_by_byte(scripts: Scripts) -> None:
    raw = "event: a\r\ndata: zwölf\r\ndata: 猫\r\n\r\n: beat\n\ndata: {}\n\n".encode()
    assert _parsed(scripts, [raw[at : at + 1] for at in range(len(raw))]) == [
        {"name": "a", "data": "zwölf\n猫"},
        {"comment": "beat"},
        {"name": "", "data": "{}"},
    ]


def _parsed(scripts: Scripts, pieces: Sequence[bytes]) -> list[JSON]:
    found: list[JSON] = scripts.run("parse", pieces=[base64.b64encode(piece).decode() for piece in pieces])
    return found


# --- the timeline


def _delta(number: int, text: str, item: str = "msg_1") -> JSON:
    return {"type": "response.output_text.delta", "item_id": item, "delta": text, "sequence_number": number}


def test_deltas_of_one_item_are_three_rows(scripts: Scripts) -> None:
    events = [{"at": 10 * number, "event": _delta(number, f"w{number}")} for number in range(6)]
    events[4]["at"] = 95
    events[5]["at"] = 100
    rows = scripts.run("timeline", events=events)["rows"]
    assert [(row["first"], row["last"], row["count"]) for row in rows] == [(0, 0, 1), (1, 4, 4), (5, 5, 1)]
    assert rows[0]["words"].startswith('seq 0, "w0"')
    assert rows[1]["words"] == "×4, 47/s, longest gap 65 ms"
    assert rows[2]["words"].startswith('seq 5, "w5"')


def test_another_item_and_another_type_begin_a_row(scripts: Scripts) -> None:
    added = {"type": "response.output_item.added", "output_index": 1, "item": {"type": "function_call", "name": "look"}}
    kinds = [_delta(0, "a"), _delta(1, "b", "msg_2"), added, _delta(2, "c", "msg_2")]
    found = scripts.run("timeline", events=[{"at": 0, "event": event} for event in kinds])
    assert [row["count"] for row in found["rows"]] == [1, 1, 1, 1]
    assert "function_call look" in found["rows"][2]["words"]
    assert [span["kind"] for span in found["spans"]] == ["call"]


def test_every_event_is_in_the_file(scripts: Scripts) -> None:
    events = [{"at": number, "event": _delta(number, "ü")} for number in range(50)]
    lines = scripts.run("timeline", events=events)["lines"].splitlines()
    assert [orjson.loads(line) for line in lines] == events


def test_the_rows_and_the_events_are_bounded(scripts: Scripts) -> None:
    found = scripts.run("manyDeltas", count=50_010)
    assert (len(found["rows"]), found["kept"], found["eventsLeftOut"]) == (2000, 50_000, 10)
    assert found["rowsLeftOut"] == 48_000


def test_the_times_of_deltas_for_the_drawing_are_bounded(scripts: Scripts) -> None:
    added = {"type": "response.output_item.added", "output_index": 0, "item": {"type": "message"}}
    deltas = [{"at": at, "event": {**_delta(at, "x"), "output_index": 0}} for at in range(1, 5001)]
    (span,) = scripts.run("timeline", events=[{"at": 0, "event": added}, *deltas])["spans"]
    assert span["deltas"] == 5000
    assert len(span["times"]) <= 2000
    assert span["times"][0] == 1
    assert span["times"][-1] > 4990


# --- requests

FUNCTION = {
    "type": "function",
    "name": "lookup_order",
    "parameters": {
        "type": "object",
        "properties": {"order": {"type": "integer"}, "note": {"type": "string"}},
        "required": ["order", "note"],
        "additionalProperties": False,
    },
    "strict": True,
}


@pytest.mark.parametrize(
    ("text", "tools"),
    [
        ("", []),
        ("docs", [{"type": "mcp", "server_label": "docs"}]),
        ("web_search", [{"type": "web_search"}]),
        ("docs, lookup_order(order: integer, note)", [{"type": "mcp", "server_label": "docs"}, FUNCTION]),
        ('{"type": "function", "name": "f"}', [{"type": "function", "name": "f"}]),
        ('[{"type": "web_search"}]', [{"type": "web_search"}]),
    ],
)
def test_tools_are_read(scripts: Scripts, text: str, tools: list[JSON]) -> None:
    found = scripts.run("tools", text=text, servers=["docs"], hosted=["web_search"])
    assert found == {"tools": tools}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("dosc", "'dosc' is neither a tool server that your token may use (docs)"),
        ("f(a: money)", "'a: money' in f is not an argument"),
        ("[", "This is not JSON"),
    ],
)
def test_tools_that_are_not_understood_are_named(scripts: Scripts, text: str, words: str) -> None:
    found = scripts.run("tools", text=text, servers=["docs"])
    assert found["field"] == "tools"
    assert found["message"].startswith(words)


SETTINGS = {
    "model": "m",
    "instructions": "",
    "effort": "",
    "tools": [],
    "store": True,
    "stream": True,
    "background": False,
    "threshold": None,
}


def _call(scripts: Scripts, name: str, *values: Any) -> Any:
    return scripts.run("call", name=name, values=values)


def test_a_request_leaves_out_the_defaults(scripts: Scripts) -> None:
    items = [{"type": "message", "role": "user", "content": [{"type": "input_text", "text": "hi"}]}]
    body = _call(scripts, "createRequest", SETTINGS, {"previous": None, "items": []}, items)
    assert body == {"model": "m", "input": items, "stream": True}


def test_a_turn_that_is_not_stored_sends_what_came_before(scripts: Scripts) -> None:
    settings = {
        **SETTINGS,
        "store": False,
        "effort": "low",
        "threshold": 9000,
        "background": True,
        "instructions": "Be",
    }
    body = _call(scripts, "createRequest", settings, {"previous": "resp_1", "items": [1, 2]}, [3])
    assert body == {
        "model": "m",
        "input": [1, 2, 3],
        "previous_response_id": "resp_1",
        "instructions": "Be",
        "reasoning": {"effort": "low"},
        "context_management": [{"type": "compaction", "compact_threshold": 9000}],
        "store": False,
        "include": ["reasoning.encrypted_content"],
        "background": True,
        "stream": True,
    }


def test_outputs_come_before_the_message(scripts: Scripts) -> None:
    items = _call(scripts, "inputItems", {"text": "and?", "images": ["data:x"], "outputs": [{"type": "out"}]})
    assert [item["type"] for item in items] == ["out", "message"]
    assert [part["type"] for part in items[1]["content"]] == ["input_text", "input_image"]
    assert _call(scripts, "inputItems", {"text": "", "images": [], "outputs": []}) == []


def test_the_model_waits_for_open_calls_and_approvals_only(scripts: Scripts) -> None:
    output = [
        {"type": "function_call", "call_id": "a"},
        {"type": "function_call", "call_id": "b", "status": "incomplete"},
        {"type": "function_call", "call_id": "c"},
        {"type": "function_call_output", "call_id": "c"},
        {"type": "mcp_approval_request", "id": "d"},
        {"type": "custom_tool_call", "call_id": "e"},
        {"type": "message", "content": []},
    ]
    assert [item.get("call_id", item.get("id")) for item in _call(scripts, "waitingFor", output)] == ["a", "d", "e"]


@given(
    value=st.recursive(
        st.none() | st.booleans() | st.integers(-(2**50), 2**50) | st.text(st.characters(exclude_categories=["Cs"])),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
        max_leaves=8,
    )
)
def test_the_python_program_holds_the_request(scripts: Scripts, value: object) -> None:
    program = _call(scripts, "asPython", BASE, "/responses", {"model": "m", "input": value})
    calls = [node for node in ast.walk(ast.parse(program)) if isinstance(node, ast.Call)]
    created = next(call for call in calls if isinstance(call.func, ast.Attribute) and call.func.attr == "create")
    assert {each.arg: ast.literal_eval(each.value) for each in created.keywords} == {"model": "m", "input": value}


def test_the_curl_command_keeps_quotes(scripts: Scripts) -> None:
    body = {"model": "m", "input": 'it\'s "so" $HOME `date`\nJSON\n', "stream": True}
    command = _call(scripts, "asCurl", BASE, "/responses", body)
    assert command.startswith(f"curl -N {BASE}/responses")
    assert "$ANTIPHON_TOKEN" in command
    document = command.split("<<'JSON'\n")[1]
    assert orjson.loads(document[: document.rindex("\nJSON\n")]) == body
    assert document.count("\nJSON\n") == 1


# --- turns


def _turn(number: int, stored: bool, **keys: Any) -> JSON:
    response = {"id": f"resp_{number}", "status": "completed", "store": stored, "output": [f"out {number}"]}
    response["usage"] = {"total_tokens": 10}
    return {"items": [f"in {number}"], "response": response, "stored": True, "cost": 5, **keys}


def test_the_next_turn_names_the_newest_stored_response(scripts: Scripts) -> None:
    made = [_turn(1, True, opened=True), _turn(2, True), _turn(3, False), _turn(4, False)]
    found = scripts.run("turns", made=made)
    assert found["context"] == {"previous": "resp_2", "items": ["in 3", "out 3", "in 4", "out 4"]}
    assert found["totals"] == {"count": 3, "tokens": 30, "cost": 15}


def test_a_compaction_that_is_not_stored_stands_for_all_before_it(scripts: Scripts) -> None:
    made = [_turn(1, True), _turn(2, False, replaces=True, items=[]), _turn(3, False, cost=None)]
    found = scripts.run("turns", made=made)
    assert found["context"] == {"previous": None, "items": ["out 2", "in 3", "out 3"]}
    assert found["totals"]["cost"] is None
    assert scripts.run("turns", made=[])["context"] == {"previous": None, "items": []}


# --- words


def test_numbers_are_written_as_the_pages_write_them(scripts: Scripts) -> None:
    values = [0, 1, 38, 420, 949, 994, 999, 1204, 6100, 9949, 64_000, 99_400, 999_400, 999_600, 2_900_000, 250_000]
    values += [3100, 14_300, 59_400, 61_000, 250_000, 9999, 10_000, 3_600_000 - 1000]
    expected = [[formatting.amount(each), formatting.seconds(each), formatting.money(each)] for each in values]
    assert scripts.run("numbers", values=values) == expected
    assert scripts.run("numbers", values=[None]) == [[formatting.UNKNOWN] * 3]
    assert scripts.run("shortId", id="resp_1234567be20d") == formatting.short_id("resp_1234567be20d")


@pytest.mark.parametrize(
    ("failure", "words"),
    [
        ({"status": 429, "code": "rate_limit_exceeded", "retryAfter": 12}, "Send it again in 12 s."),
        ({"status": 429, "code": "insufficient_quota", "retryAfter": 12}, "The budget of your token is spent"),
        ({"status": 401, "code": "session_ended", "retryAfter": None}, "Sign in again"),
        ({"status": 400, "code": "invalid_value", "retryAfter": None}, "Correct it"),
        ({"status": 502, "code": None, "retryAfter": None}, "The page Requests shows"),
        ({"status": None, "code": "server_error", "retryAfter": None}, "The page Requests shows"),
        ({"status": 0, "code": None, "retryAfter": None}, "Look at your connection"),
    ],
)
def test_an_error_says_what_to_do(scripts: Scripts, failure: JSON, words: str) -> None:
    assert scripts.run("advice", **failure).startswith(words)


@pytest.mark.parametrize(
    ("start", "found"),
    [
        (b"\x89PNG\r\n", "image/png"),
        (b"\xff\xd8\xff\xe0", "image/jpeg"),
        (b"GIF89a", "image/gif"),
        (b"RIFF\0\0\0\0WEBPVP8", "image/webp"),
        (b"RIFF\0\0\0\0WAVE", None),
        (b"<svg onload=", None),
        (b"", None),
    ],
)
def test_an_image_is_known_by_its_first_bytes(scripts: Scripts, start: bytes, found: str | None) -> None:
    assert scripts.run("typeOf", start=base64.b64encode(start).decode()) == found
