"""The page of one conversation, compared with the store turn by turn; who may see it, its texts and its files."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from html import unescape
from typing import Any, cast

import orjson
import pytest

from app.console.formatting import amount, seconds, share
from app.contract.outline import outline
from app.store.store import Store
from app.store.tree import MOST, Node
from tests.cli.codex import Codex
from tests.console.conversations import BEGAN, Writer, calls, drawn, message, results
from tests.console.visitors import Person
from tests.gateway import Gateway
from tests.relay.conftest import eventually

EXEC = {"type": "function", "name": "exec_command", "parameters": {"type": "object", "properties": {}}}


@pytest.fixture(scope="module")
def store(console: Gateway) -> Iterator[Store]:
    store = Store(console.database_url, peppers=[b"p"])
    yield store
    store.close()


@pytest.fixture(scope="module")
def everything(store: Store) -> dict[str, str]:
    """The ids of a conversation of ada's with everything in it, by name."""
    return drawn(Writer(store, "ada"))


@dataclass(frozen=True)
class DrawnRow:
    id: str
    anchor: str
    words: str


_ROW = re.compile(r'<li class="turn[^"]*" id="([^"]+)">(.*?)(?=<aside|</li>)', re.S)


def _rows(html: str) -> list[DrawnRow]:
    """The turns of a page, as one reads them."""
    return [
        DrawnRow(found[1], anchor, _words(body))
        for anchor, body in _ROW.findall(html)
        if (found := re.search(r'href="\?at=(resp_\w+)', body))
    ]


def _words(html: str) -> str:
    return " ".join(unescape(re.sub(r"<[^>]+>", "", html)).split())


def _nodes(store: Store, owner: str, response_id: str, count: int) -> list[Node]:
    """The turns in the store, once there are so many: inferred ones are written behind the answers."""

    def found() -> list[Node] | None:
        tree = store.trees.load(owner, response_id)
        nodes = list(tree.nodes) if tree else []
        return nodes if len(nodes) == count and all(node.parent for node in nodes[1:]) else None

    return cast(list[Node], eventually(found, f"{count} turns in one tree"))


def _check(person: Person, nodes: Sequence[Node]) -> list[DrawnRow]:
    """Compares a page with the store: each turn once, with its parent and its numbers."""
    by_id = {node.id: node for node in nodes}
    root = nodes[0].id
    rows = _rows(person.get(f"/console/c/{root}?fold=none").text)
    assert sorted(row.id for row in rows) == sorted(by_id)
    names = {row.id: row.anchor.removeprefix("t") for row in rows}
    places = {row.id: at for at, row in enumerate(rows)}
    for row in rows:
        node = by_id[row.id]
        usage = node.usage
        assert usage is not None
        assert row.words.startswith(f"turn {names[row.id]}{', parent inferred' if node.inferred else ''}")
        assert f"context {amount(usage.input_tokens)}" in row.words
        assert f"{share(usage.cached_tokens, usage.input_tokens)} cached" in row.words
        assert f"out {amount(usage.output_tokens)}first {seconds(node.first_byte_ms)}" in row.words
        assert f"by {node.channel}" in row.words
        page = _words(person.get(f"/console/c/{root}?at={node.id}").text)
        if node.parent is None:
            assert " Parent " not in page
            continue
        assert places[node.parent] < places[node.id]
        how = "inferred from the history it sent" if node.inferred else "named by the client"
        assert f"turn {names[node.parent]}, {how}" in page
    return rows


# --- compared with the store ------------------------------------------------------------------------------------


def test_a_codex_conversation_with_a_compaction(console: Gateway, owner: Person, store: Store) -> None:
    codex = Codex(console, owner.token)
    turns = [codex.says("Hello"), codex.says("Please use exec_command now"), codex.runs("tool-ran-ok")]
    turns += [codex.compacts(), codex.says("And on from there")]
    rows = _check(owner, _nodes(store, owner.owner, turns[0], 5))
    assert [row.id for row in rows] == turns
    assert [row.anchor for row in rows] == ["t1", "t2", "t3", "t4", "t5"]
    first, second, third, cut, last = (row.words for row in rows)
    assert "user → message" in first
    assert "user → exec_command" in second
    assert "not stored" in first
    assert "parents inferred from here" in second
    assert "1 result → message" in third
    assert re.search(r"\d → \d+ \(−\d+ %\) compaction, summary|compaction", cut)
    assert "tip" in last


def test_a_retry_counts_as_no_branch(console: Gateway, owner: Person, store: Store) -> None:
    codex = Codex(console, owner.token)
    root = codex.says("Hello")
    codex.says("And on from there")
    codex.retries()
    _nodes(store, owner.owner, root, 3)
    assert "Turns3" in (words := _words(owner.get(f"/console/c/{root}").text))
    assert "Branches0" in words


def test_an_sdk_conversation_with_branches(console: Gateway, owner: Person, operator: Person, store: Store) -> None:
    with console.client(owner.token) as client:

        def ask(text: str, parent: str | None = None) -> str:
            return client.responses.create(model="demo", input=text, previous_response_id=parent).id

        root = ask("one")
        second = ask("two", root)
        third = ask("three", second)
        other = ask("three, otherwise", second)
        further = ask("four, otherwise", other)
        again = ask("two again", root)
    nodes = _nodes(store, owner.owner, root, 6)
    rows = _check(owner, nodes)
    names = {row.id: row.anchor for row in rows}
    assert names == {root: "t1", second: "t2", third: "t3", other: "t3b", further: "t4b", again: "t2c"}
    # The line to the newest tip comes last.
    assert [row.id for row in rows][-1] == again
    assert "from 1" in next(row.words for row in rows if row.id == second)
    assert [row.anchor for row in _check(operator, nodes)] == [row.anchor for row in rows]
    straight = _rows(owner.get(f"/console/c/{root}?tip={further}").text)
    assert [row.id for row in straight][-2:] == [other, further]


def test_a_conversation_with_tools(console: Gateway, owner: Person, store: Store) -> None:
    body: dict[str, Any] = {"model": "demo", "tools": [EXEC], "store": True}
    first = owner.create(**body, input="Please use exec_command now")
    call = next(item for item in first["output"] if item["type"] == "function_call")
    result = {"type": "function_call_output", "call_id": call["call_id"], "output": "done"}
    second = owner.create(**body, input=[result], previous_response_id=first["id"])
    nodes = _nodes(store, owner.owner, first["id"], 2)
    rows = _check(owner, nodes)
    assert "user → exec_command" in rows[0].words
    assert "1 result → message" in rows[1].words
    for (_, input, output), node in zip(store.trees.contents([node.key for node in nodes]), nodes, strict=True):
        assert node.outline == outline(orjson.loads(input), orjson.loads(output))
    page = _words(owner.get(f"/console/c/{first['id']}?at={first['id']}").text)
    assert "exec_command1 call, answered by the client in turn 2 Identity" in page
    assert second["id"] == rows[1].id


def test_everything_at_once(owner: Person, everything: dict[str, str]) -> None:
    page = owner.get(f"/console/c/{everything['1']}").text
    assert "6 turns, 2 to 7" in _words(page)
    text = {row.id: row.words for row in _rows(page)}
    assert "azure-eu 429 in 0.20 s → openai-a" in text[everything["15"]]
    assert "from 14, in the playground" in text[everything["15b"]]
    assert "182k → 9.4k (−95 %) compaction, native" in text[everything["27"]]
    assert "stopped: max_output_tokens" in text[everything["31"]]
    assert "cancelled after 6.2 s" in text[everything["failed"]]
    assert "in flight: user, " in text[everything["live"]]
    assert "not stored; parents inferred from here" in text[everything["21"]]
    head = _words(page.split('<dl class="figs">')[1].split("</dl>")[0])
    assert "Turns40" in head
    assert "Compactions1182k → 9.4k" in head
    assert 'class="l inf' in page
    assert 'href="#i-cut"' in page
    assert f'action="/console/requests/{everything["live"]}/cancel"' in page


def test_turns_of_an_earlier_release_are_outlined_from_what_is_stored(owner: Person, store: Store) -> None:
    turn = Writer(store, "ada").turn(answers=calls("exec_command", "exec_command"), outline=None)
    (row,) = _rows(owner.get(f"/console/c/{turn}").text)
    assert "user → exec_command ×2" in row.words


def test_the_selected_turn_says_what_the_store_knows(owner: Person, everything: dict[str, str]) -> None:
    page = _words(owner.get(f"/console/c/{everything['15']}").text)
    assert "completed on the second try" in page
    assert "429 rate_limit_exceeded" in page
    assert "azure-eu came first because it served turn 14" in page
    assert "64 012, of which cached 0" in page
    assert everything["15"] in page


def test_an_operator_finds_the_line_of_the_price(
    owner: Person, operator: Person, console: Gateway, everything: dict[str, str]
) -> None:
    path = f"/console/c/{everything['15']}"
    (line,) = re.findall(r"price now: channels.yaml:(\d+)", operator.get(path).text)
    assert "input: 2" in console.channels_file.read_text().splitlines()[int(line) - 1]
    assert "price now" not in owner.get(path).text


def test_calls_of_several_tools_are_answered_in_several_turns(owner: Person, store: Store) -> None:
    writer = Writer(store, "ada")
    asking = writer.turn(answers=calls("look", "look", "docs_search"))
    for _ in range(2):
        writer.turn(asking, says=results(2))
    page = _words(owner.get(f"/console/c/{asking}?at={asking}").text)
    assert "look2 callsdocs_search1 call Some of them answered by the client in turn 2, 2b." in page


def test_any_response_shows_its_tree(owner: Person, everything: dict[str, str]) -> None:
    whole = {row.id for row in _rows(owner.get(f"/console/c/{everything['1']}").text)}
    page = owner.get(f"/console/c/{everything['16b']}").text
    assert {row.id for row in _rows(page)} == whole
    assert re.search(rf'at={everything["16b"]}[^>]*aria-current="true"', page)


# --- folds, branches, search ------------------------------------------------------------------------------------


def test_a_long_conversation_fetches_its_folds(owner: Person, store: Store) -> None:
    writer = Writer(store, "ada")
    last: str | None = None
    written: list[str] = []
    for _ in range(405):
        last = writer.turn(last, says=[], answers=[])
        written.append(last)
    page = owner.get(f"/console/c/{written[0]}").text
    assert [row.id for row in _rows(page)] == [written[0], written[-1]]
    (url,) = re.findall(r'hx-get="([^"]+)"', page)
    rows = _rows(owner.get(unescape(url), headers={"HX-Request": "true"}).text)
    assert [row.id for row in rows] == written[1:-1]
    (link,) = re.findall(r'href="([^"]*unfold=[^"]+)"', page)
    unfolded = owner.get(f"/console/c/{written[0]}{unescape(link).split('#')[0]}").text
    assert [row.id for row in _rows(unfolded)] == written


def test_of_a_huge_conversation_the_beginning_is_drawn(owner: Person, store: Store) -> None:
    first = Writer(store, "ada").turn()
    (node,) = _nodes(store, "ada", first, 1)
    columns = ("id", "owner", "parent", "status", "kept", "model", "created_at", "root")
    rows = [(f"resp_{at:048x}", "ada", node.key, "completed", 0, "m", BEGAN + at, node.key) for at in range(MOST + 1)]
    insert = store.database.dialect.insert("response", columns)
    store.database.transaction(lambda session: session.run_many(insert, rows))
    page = _words(owner.get(f"/console/c/{first}").text)
    assert "The conversation has more than 5 000 turns. The first 5 000 are shown" in page
    assert "4 990 more branches" in page


def test_of_many_branches_older_ones_are_asked_for(owner: Person, store: Store) -> None:
    writer = Writer(store, "ada")
    root = writer.turn()
    children = [writer.turn(root, says=[message(str(at))]) for at in range(12)]
    page = owner.get(f"/console/c/{root}").text
    assert "3 more branches" in page
    shown = {row.id for row in _rows(page)}
    assert shown == {root, *children[3:]}
    (link,) = re.findall(r'href="([^"]*all=[^"]+)"', page)
    assert {row.id for row in _rows(owner.get(f"/console/c/{root}{unescape(link).split('#')[0]}").text)} == {
        root,
        *children,
    }


def test_a_search_finds_turns_in_folds(owner: Person, everything: dict[str, str]) -> None:
    page = owner.get(f"/console/c/{everything['1']}?q={everything['3'][-10:]}").text
    assert "1 turn found" in _words(page)
    assert everything["3"] in {row.id for row in _rows(page)}
    assert "No turn has" in owner.get(f"/console/c/{everything['1']}?q=%3Cscript%3E").text
    assert "4 turns found" in _words(owner.get(f"/console/c/{everything['1']}?q=vllm-1").text)


def test_the_list_alone_keeps_new_turns_unfolded(owner: Person, store: Store) -> None:
    writer = Writer(store, "ada")
    last: str | None = None
    written = [last := writer.turn(last, says=[], answers=[]) for _ in range(6)]
    page = owner.get(f"/console/c/{written[0]}").text
    url = unescape(re.findall(r'data-live-url="([^"]+)"', page)[0])
    written += [last := writer.turn(last, says=[], answers=[]) for _ in range(4)]
    other = writer.turn(written[0])
    fragment = owner.get(url, headers={"HX-Request": "true"}).text
    assert "<html" not in fragment
    assert [row.id for row in _rows(fragment)][-5:] == written[-5:]
    assert "newer: 2b" in _words(fragment)
    assert other in fragment


# --- who may --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", ["", "/turns", "/fold", "/export?as=json"])
def test_another_owners_conversation_is_as_unknown_as_none(
    other_owner: Person, everything: dict[str, str], path: str
) -> None:
    theirs = other_owner.get(f"/console/c/{everything['1']}{path}")
    none = other_owner.get(f"/console/c/resp_{'0' * 48}{path}")
    assert (theirs.status_code, none.status_code) == (404, 404)
    assert _words(theirs.text) == _words(none.text)


def test_another_owners_texts_and_files_cannot_be_asked_for(other_owner: Person, everything: dict[str, str]) -> None:
    for place in ("text", "export"):
        answer = other_owner.post(f"/console/c/{everything['1']}/{place}", {"reason": "curious", "as": "json"})
        assert answer.status_code == 404


def test_the_page_has_no_text_of_the_conversation(owner: Person, operator: Person, store: Store) -> None:
    writer = Writer(store, "ada")
    first = writer.turn(says=[message("the-first-words")], answers=[message("an-answer", "assistant")])
    turn = writer.turn(first, says=[message("more-words")], answers=[message("another-answer", "assistant")])
    path = f"/console/c/{first}?at={turn}"
    for words in ("an-answer", "more-words", "another-answer"):
        assert words not in owner.get(path).text
    # The owner's own first words are its title, as in the list of conversations.
    assert "<h1>the-first-words</h1>" in owner.get(path).text
    assert "the-first-words" not in operator.get(path).text
    assert f"<h1>Conversation …{first[-6:]}</h1>" in operator.get(path).text


def test_an_error_comes_with_what_to_do(owner: Person, store: Store) -> None:
    error = {"code": "context_length_exceeded", "message": "Too long."}
    turn = Writer(store, "ada").turn(status="failed", error=error)
    page = _words(owner.get(f"/console/c/{turn}?at={turn}").text)
    assert "context_length_exceeded Too long. The context is longer than the model's window. Compact" in page


def _audited(store: Store, subject: str) -> list[tuple[str, str | None, str | None]]:
    return [(row.action, row.owner, row.reason) for row in store.audit.rows(None) if row.subject == subject]


def test_ones_own_text_is_shown_and_not_recorded(owner: Person, store: Store) -> None:
    turn = Writer(store, "ada").turn(says=[message("<b>bold</b>")], answers=[message("fine", "assistant")])
    answer = owner.post(f"/console/c/{turn}/text")
    assert answer.status_code == 200
    assert "&lt;b&gt;bold&lt;/b&gt;" in answer.text
    assert "<b>bold" not in answer.text
    assert "fine" in answer.text
    assert _audited(store, turn) == []
    fragment = owner.post(f"/console/c/{turn}/text", headers={"HX-Request": "true"})
    assert "<html" not in fragment.text
    assert "&lt;b&gt;bold" in fragment.text


def test_anothers_text_needs_a_reason_and_is_recorded(operator: Person, store: Store) -> None:
    turn = Writer(store, "ada").turn(says=[message("private words")])
    refused = operator.post(f"/console/c/{turn}/text")
    assert refused.status_code == 400
    assert "private words" not in refused.text
    assert _audited(store, turn) == []
    shown = operator.post(f"/console/c/{turn}/text", {"reason": "ticket 12"})
    assert "private words" in shown.text
    assert _audited(store, turn) == [("show text", "ada", "ticket 12")]


def test_a_long_text_is_cut_until_all_of_it_is_asked_for(owner: Person, store: Store) -> None:
    turn = Writer(store, "ada").turn(says=[message("x" * 30_000 + "END")])
    cut = owner.post(f"/console/c/{turn}/text").text
    assert "Show all" in cut
    assert "END" not in cut
    assert "END" in owner.post(f"/console/c/{turn}/text", {"all": "yes"}).text


def test_the_turns_before_it_are_shown_on_request(owner: Person, store: Store) -> None:
    writer = Writer(store, "ada")
    first = writer.turn(says=[message("the beginning")])
    second = writer.turn(first, says=[message("the end")])
    alone = owner.post(f"/console/c/{second}/text").text
    assert "the beginning" not in alone
    assert "Show the 1 turn before it" in alone
    assert "the beginning" in owner.post(f"/console/c/{second}/text", {"before": "yes"}).text


def test_no_text_of_an_unstored_turn(owner: Person, everything: dict[str, str]) -> None:
    assert owner.post(f"/console/c/{everything['22']}/text").status_code == 404
    assert "Show text" not in owner.get(f"/console/c/{everything['22']}").text


def test_only_its_owner_continues_a_conversation(owner: Person, operator: Person, everything: dict[str, str]) -> None:
    path = f"/console/c/{everything['16b']}?at={everything['16b']}"
    page = owner.get(path).text
    # Continue goes on from the end of this branch, Branch from this turn.
    assert re.findall(r'/playground\?from=(\w+)">(?:Continue|Branch)', page) == [everything["18b"], everything["16b"]]
    assert "/console/playground?from=" not in operator.get(path).text
    assert "/delete" not in operator.get(path).text


# --- files ----------------------------------------------------------------------------------------------------


def _json_file(content: bytes) -> dict[str, Any]:
    value: dict[str, Any] = orjson.loads(content)
    return value


def test_a_conversation_as_json(owner: Person, store: Store) -> None:
    writer = Writer(store, "ada")
    first = writer.turn(says=[message("héllo")])
    hidden = writer.turn(first, inferred=True, stored=False)
    answer = owner.get(f"/console/c/{first}/export?as=json")
    assert answer.headers["Content-Disposition"] == f'attachment; filename="conversation-{first[-6:]}.json"'
    file = _json_file(answer.content)
    assert (file["object"], file["id"], file["whole"]) == ("conversation.tree", first, True)
    stored, unstored = file["responses"]
    assert (stored["id"], stored["turn"], stored["input"][0]["content"]) == (first, "1", "héllo")
    assert (unstored["id"], unstored["turn"], unstored["inferred"], unstored["input"]) == (hidden, "2", True, None)


def test_a_line_as_markdown(owner: Person, store: Store) -> None:
    writer = Writer(store, "ada")
    first = writer.turn(says=[message("first words")])
    call = {"type": "function_call", "call_id": "c", "name": "run", "arguments": "```"}
    second = writer.turn(first, says=[message("second words")], answers=[call])
    other = writer.turn(first, says=[message("other words")])
    answer = owner.get(f"/console/c/{first}/export?as=markdown&at={second}")
    assert answer.headers["Content-Disposition"].endswith('-turn-2.md"')
    assert "first words" in answer.text
    assert "second words" in answer.text
    assert "other words" not in answer.text
    assert "````\n```\n````" in answer.text
    assert "other words" in owner.get(f"/console/c/{other}/export?as=markdown").text


def test_a_tree_for_graphviz(owner: Person, everything: dict[str, str]) -> None:
    dot = owner.get(f"/console/c/{everything['1']}/export?as=dot").text
    assert dot.startswith("digraph conversation {")
    assert f'"{everything["14"]}" -> "{everything["15"]}";' in dot
    assert f'"{everything["20"]}" -> "{everything["21"]}" [style=dotted];' in dot
    assert dot.count("->") == len(everything) - 1


def test_an_operators_export_is_recorded(operator: Person, store: Store) -> None:
    turn = Writer(store, "ada").turn(says=[message("exported words")])
    assert operator.get(f"/console/c/{turn}/export?as=json").status_code == 403
    assert _audited(store, turn) == []
    assert operator.post(f"/console/c/{turn}/export", {"as": "xml"}).status_code == 400
    assert _audited(store, turn) == []
    answer = operator.post(f"/console/c/{turn}/export", {"as": "markdown"})
    assert "exported words" in answer.text
    assert _audited(store, turn) == [("export", "ada", "markdown")]


def test_the_command_writes_the_same_files(console: Gateway, owner: Person, everything: dict[str, str]) -> None:
    for format in ("json", "markdown", "dot"):
        file = owner.get(f"/console/c/{everything['15']}/export?as={format}").text
        assert console.command("tree", everything["15"], "--export", format) == file


# --- what others have written ----------------------------------------------------------------------------------


def test_no_name_becomes_markup(owner: Person, store: Store) -> None:
    bad = "<img src=x onerror=alert(1)>"
    call = {"type": "function_call", "call_id": "c", "name": bad, "arguments": bad}
    writer = Writer(store, "ada")
    error = {"code": bad, "message": bad}
    first = writer.turn(says=[message(bad)], answers=[call], channel=bad, upstream_model=bad)
    failed = writer.turn(first, status="failed", error=error, says=[message(bad)], answers=[])
    for path in (f"{first}?at={first}", f"{first}?at={failed}", f"{first}?q={bad}"):
        page = owner.get(f"/console/c/{path}").text
        assert "<img" not in page
        assert "&lt;img src=x" in page
    assert "<img" not in owner.post(f"/console/c/{first}/text").text
