"""antiphon tree and antiphon show: conversations that the gateway keeps, and conversations that their clients keep."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import orjson
import pytest

from app.contract.records import Attempt
from app.contract.usage import Usage
from app.reports.trees import drawn
from app.store.store import Store
from app.store.tree import Node
from tests.cli.codex import Codex
from tests.gateway import Gateway
from tests.relay.conftest import eventually
from tests.store.turns import draft, line, outcome, turn
from tests.websocket_client import Socket

JSON = dict[str, Any]

NOT_FOUND = 4
DEMO = {"name": "demo", "format": "demo", "models": ["demo"]}
#: Trees are written behind the answers.
PATIENCE = 60.0


@pytest.fixture(scope="module")
def serving(tmp_path_factory: pytest.TempPathFactory, module_database_url: str) -> Iterator[Gateway]:
    with Gateway(tmp_path_factory.mktemp("trees"), [DEMO], database_url=module_database_url) as gateway:
        yield gateway


@pytest.fixture
def directory(tmp_path: Path, database_url: str) -> Gateway:
    """A gateway that is not started."""
    gateway = Gateway(tmp_path, [DEMO], database_url=database_url)
    gateway.command("db", "upgrade")
    return gateway


@pytest.fixture
def store(directory: Gateway) -> Iterator[Store]:
    store = Store(directory.database_url, peppers=[b"p"])
    yield store
    store.close()


def _tree(gateway: Gateway, response_id: str, count: int) -> dict[str, JSON]:
    """The responses of a tree by id, once there are so many."""

    def complete() -> list[JSON]:
        # The row of an unstored response is written a moment after the answer.
        done = gateway.attempt("tree", response_id, "--json")
        responses: list[JSON] = orjson.loads(done.stdout)["responses"] if done.returncode == 0 else []
        return responses if len(responses) == count else []

    return {response["id"]: response for response in eventually(complete, f"{count} responses", PATIENCE)}


def _parents(tree: dict[str, JSON]) -> dict[str, str | None]:
    return {response_id: response["parent"] for response_id, response in tree.items()}


def _line(written: list[str]) -> dict[str, str | None]:
    return {written[0]: None, **{after: before for before, after in pairwise(written)}}


# --- clients that keep the conversation -------------------------------------------------------------------------


def test_ten_turns_of_codex_and_its_compaction_are_one_line_of_descent(serving: Gateway) -> None:
    codex = Codex(serving)
    turns = [codex.says(f"Turn {number}") for number in range(5)]
    turns.append(codex.says("Please use exec_command now"))
    turns.append(codex.runs("tool-ran-ok"))
    turns.append(codex.compacts())
    turns += [codex.says(f"After it, turn {number}") for number in range(3)]
    tree = _tree(serving, turns[0], len(turns))
    assert _parents(tree) == _line(turns)
    assert [tree[response_id]["compacted"] for response_id in turns] == [place == 7 for place in range(11)]
    assert not any(response["stored"] for response in tree.values())
    assert [tree[response_id]["inferred"] for response_id in turns] == [False] + [True] * 10
    shown = serving.command("tree", turns[4])
    assert [row[:2] for row in shown.splitlines()[1:12]] == ["┌ "] + ["┊ "] * 10
    assert "✂" in shown.splitlines()[8]
    assert "◀" in shown.splitlines()[5]


def test_an_edited_message_is_a_branch(serving: Gateway) -> None:
    codex = Codex(serving)
    first, second, third = (codex.says(f"Question {number}") for number in range(3))
    instead = codex.edits(2, "Another question")
    further = codex.says("And on from there")
    expected = {**_line([first, second, third]), instead: first, further: instead}
    assert _parents(_tree(serving, further, 5)) == expected
    drawing = [row[:8] for row in serving.command("tree", first).splitlines()[1:6]]
    assert drawing == ["┌ resp_" + first[5], "├┄ resp_", "│  ┊ res", "└┄ resp_", "   ┊ res"]


def test_two_sessions_at_once_are_two_trees(serving: Gateway) -> None:
    one, other = Codex(serving), Codex(serving)
    turns: list[tuple[str, str]] = [(one.says(text), other.says(text)) for text in ("Hello", "And?", "Bye")]
    for written in zip(*turns, strict=True):
        assert _parents(_tree(serving, written[2], 3)) == _line(list(written))


def test_another_token_with_the_same_words_and_session_has_a_tree_of_its_own(serving: Gateway) -> None:
    mine = Codex(serving)
    first = mine.says("Hello")
    theirs = Codex(serving, serving.new_token(f"other-{first[-8:]}"), mine.session)
    theirs.history = [*mine.history]
    stranger = theirs.says("And?")
    second = mine.says("And?")
    assert _parents(_tree(serving, first, 2)) == _line([first, second])
    assert _parents(_tree(serving, stranger, 1)) == {stranger: None}


def test_a_session_may_be_named_by_a_header(serving: Gateway) -> None:
    def ask(items: list[JSON], chat: str) -> JSON:
        body = {"model": "demo", "input": items}
        answer: JSON = serving.post("/responses", body, headers={"X-OpenWebUI-Chat-Id": chat}).json()
        return answer

    input_items: list[JSON] = [{"role": "user", "content": "Hello, header"}]
    first = ask(input_items, "chat-1")
    input_items += [*first["output"], {"role": "user", "content": "Go on"}]
    second, elsewhere = ask(input_items, "chat-1"), ask(input_items, "chat-2")
    tree = _tree(serving, second["id"], 2)
    assert _parents(tree) == _line([first["id"], second["id"]])
    assert all(response["stored"] for response in tree.values())
    assert _parents(_tree(serving, elsewhere["id"], 1)) == {elsewhere["id"]: None}


# --- threads of one session ------------------------------------------------------------------------------------


def test_each_sub_agent_is_a_tree_with_an_edge_to_the_turn_that_started_it(serving: Gateway) -> None:
    root = Codex(serving)
    asked = root.says("Please use exec_command now")
    one, other = root.spawns(), root.spawns()
    first = [one.says("Read a.py"), one.says("And b.py?")]
    second = [other.says("Read a.py"), other.says("And b.py?")]
    nested = other.spawns()
    third = [nested.says("Read a.py")]
    goes_on = root.runs("tool-ran-ok")
    main = _tree(serving, goes_on, 2)
    assert _parents(main) == _line([asked, goes_on])
    assert (main[asked]["started"], main[goes_on]["started"]) == ([first[0], second[0]], [])
    for thread, starter in ((first, asked), (second, asked), (third, second[1])):
        tree = _tree(serving, thread[-1], len(thread))
        assert _parents(tree) == _line(thread)
        assert (tree[thread[0]]["started_by"], tree[thread[0]]["subagent"]) == (starter, "collab_spawn")
        assert [tree[response_id]["started_by"] for response_id in thread[1:]] == [None] * (len(thread) - 1)
    drawing = serving.command("tree", second[1]).splitlines()
    assert f"collab_spawn started by {asked[:19]}" in drawing[1]
    assert f"started {third[0][:19]}" in drawing[2]
    shown = [" ".join(row.split()) for row in serving.command("show", first[0]).splitlines()]
    assert f"started by {asked}, collab_spawn" in shown
    shown = [" ".join(row.split()) for row in serving.command("show", asked).splitlines()]
    assert shown[shown.index(f"started {first[0]}") + 1] == second[0]


def test_a_retry_is_no_branch(serving: Gateway) -> None:
    codex = Codex(serving)
    lost, first = codex.says("Hello"), codex.retries()
    twice_lost = [codex.says("Please use exec_command now")]
    codex.history.pop()
    twice_lost.append(codex.retries())
    codex.history.pop()
    second = codex.retries()
    third = codex.runs("tool-ran-ok")
    tree = _tree(serving, third, 6)
    assert [tree[one]["retry_of"] for one in (lost, first, *twice_lost, second, third)] == [
        *(None, lost, None, twice_lost[0], twice_lost[0], None)
    ]
    rows = serving.command("tree", lost).splitlines()
    assert [row[:2] for row in rows[1:7]] == ["↻ ", "┌ ", "↻ ", "↻ ", "┊ ", "┊ "]
    assert "branch" not in rows[7]
    assert "3 retries (↻)" in rows[7]


def test_two_answers_to_one_question_are_branches_once_both_are_continued(serving: Gateway) -> None:
    codex = Codex(serving)
    root = codex.says("Hello")
    one = codex.says("Please use exec_command now")
    other_history = codex.history[:-1]
    after_one = codex.runs("tool-ran-ok")
    codex.history = other_history
    other = codex.retries()
    after_other = codex.runs("tool-ran-ok")
    tree = _tree(serving, root, 5)
    assert _parents(tree) == {root: None, one: root, other: root, after_one: one, after_other: other}
    assert tree[other]["retry_of"] == one
    assert [row[:4] for row in serving.command("tree", root).splitlines()[1:6]] == [
        "┌ re",
        "├┄ r",
        "│  ┊",
        "└┄ r",
        "   ┊",
    ]


def test_conversations_that_share_only_a_cache_key_are_no_retries_of_one_another(serving: Gateway) -> None:
    def ask(items: list[JSON]) -> JSON:
        answer: JSON = serving.post("/responses", {"model": "demo", "input": items, "prompt_cache_key": "app"}).json()
        return answer

    question: list[JSON] = [{"role": "user", "content": "Hello, all"}]
    first, other = ask(question), ask(question)
    second = ask([*question, *first["output"], {"role": "user", "content": "Go on"}])
    assert _tree(serving, second["id"], 2).keys() == {first["id"], second["id"]}
    assert _tree(serving, other["id"], 1)[other["id"]]["retry_of"] is None


def test_a_session_header_with_an_underscore_is_read(serving: Gateway) -> None:
    def ask(items: list[JSON]) -> JSON:
        body = {"model": "demo", "input": items}
        answer: JSON = serving.post("/responses", body, headers={"session_id": "older"}).json()
        return answer

    items: list[JSON] = [{"role": "user", "content": "Hello, underscore"}]
    first = ask(items)
    second = ask([*items, *first["output"], {"role": "user", "content": "Go on"}])
    assert _parents(_tree(serving, second["id"], 2)) == _line([first["id"], second["id"]])


def test_threads_of_one_web_socket_are_told_apart(serving: Gateway) -> None:
    def frame(thread: str, text: str, after: str | None = None) -> str:
        names = {"session_id": root, "thread_id": thread, "x-codex-parent-thread-id": root}
        input_items = [{"role": "user", "content": text}]
        answer = socket.answer(model="demo", input=input_items, previous_response_id=after, client_metadata=names)
        return str(answer["id"])

    root, child = f"root-{secrets.token_hex(8)}", f"child-{secrets.token_hex(8)}"
    with Socket(serving, headers={"session-id": root, "thread-id": root}) as socket:
        first = frame(root, "Hello")
        second = frame(root, "Go on", first)
        spawned = frame(child, "Read a.py")
        later = frame(child, "And b.py", spawned)
    assert _parents(_tree(serving, second, 2)) == _line([first, second])
    # The links between these two are named, so that they do not show whether the threads are written.
    eventually(lambda: bool(_tree(serving, later, 2)[spawned]["started_by"]), "the edge", PATIENCE)
    tree = _tree(serving, later, 2)
    assert _parents(tree) == _line([spawned, later])
    assert [tree[one]["started_by"] for one in (spawned, later)] == [second, None]


# --- conversations that the gateway stores ----------------------------------------------------------------------


def test_a_tree_shows_whatever_is_unusual(directory: Gateway, store: Store) -> None:
    root, deleted = line(store, 2)
    store.responses.delete("ada", deleted)
    begun = draft(root, id="resp_" + "e" * 48)
    tried = (Attempt("a", 7, 429, "rate_limit_exceeded"), Attempt("b", 9, 200))
    note = {"strategy": "summary", "before": 12_400, "after": 1_000}
    used = Usage(1234, 0, 0, 56, 0, estimated=True)
    store.responses.finish(begun, outcome("incomplete", channel="b", attempts=tried, compaction=note, usage=used))
    turn(store, begun.id, "failed", stored=False)
    head, *drawing, summary = directory.command("tree", begun.id[:15]).splitlines()
    assert head.split()[:5] == ["response", "time", "(UTC)", "status", "model"]
    assert head.split()[5:] == ["channel", "context", "cached", "output", "cost"]
    assert [row[:3] for row in drawing] == ["┌ r", "├─ ", "└─ ", "   "]
    assert "deleted" in drawing[1]
    assert "resp_eeeeeeeeeeeeee ◀" in drawing[2]
    assert "1,234  -           56  -     ✂ 12k → 1.0k; ⚠ a rate_limit_exceeded; ≈ estimated" in drawing[2]
    assert drawing[3].rstrip().endswith("not stored")
    assert summary == "4 responses, 1 branch, 1 compaction"


def test_the_newest_conversations_are_listed(directory: Gateway, store: Store) -> None:
    assert directory.command("tree", "--list") == "There are no conversations.\n"
    root = line(store, 3)[0]
    turn(store, root, "failed")
    theirs = turn(store, owner="eve")
    listed = orjson.loads(directory.command("tree", "--list", "--json"))["conversations"]
    assert {one["id"]: (one["owner"], one["turns"], one["failed"], one["cost_micros"]) for one in listed} == {
        root: ("ada", 4, 1, None),
        theirs: ("eve", 1, 0, None),
    }
    head, row = directory.command("tree", "--list", "--owner", "ada", "--limit", "5").splitlines()
    assert head.split()[:4] == ["conversation", "last", "(UTC)", "owner"]
    assert (row[:19], "1 failed" in row) == (root[:19], True)
    for wrong in (("tree",), ("tree", "--list", root), ("tree", "--list", "--export", "dot")):
        assert directory.attempt(*wrong).returncode == 2


def test_a_retry_of_a_chained_turn_is_no_branch(directory: Gateway, store: Store) -> None:
    root = turn(store)
    lost, again = turn(store, root, says="Go on"), turn(store, root, says="Go on")
    branch = turn(store, root, says="Go elsewhere")
    other_model = turn(store, root, says="Go on", model="large")
    end = turn(store, again)
    tree = _tree(directory, root, 6)
    assert {one: tree[one]["retry_of"] for one in tree if tree[one]["retry_of"]} == {again: lost, other_model: lost}
    rows = directory.command("tree", end).splitlines()
    assert [row[:3] for row in rows[1:7]] == ["┌ r", "↻ r", "├─ ", "│  ", "├─ ", "└─ "]
    assert [branch[:19] in row for row in rows[1:7]] == [False] * 4 + [True, False]


def test_the_same_words_further_on_are_no_retry(directory: Gateway, store: Store) -> None:
    written = line(store, 3)
    assert [one["retry_of"] for one in _tree(directory, written[0], 3).values()] == [None] * 3


def test_show_prints_everything_about_a_response(directory: Gateway, store: Store) -> None:
    parent = turn(store)
    begun = draft(parent, id="resp_" + "e" * 48, request_id="req_7", settings=b'{"instructions":"Be\\nkind."}')
    tried = (Attempt("a", 7, 429, "rate_limit_exceeded"), Attempt("b", 9, 200, None, "translated", ("web_search",)))
    note = {"strategy": "summary", "before": 12_400, "after": 1_000}
    used = Usage(1234, 1000, 0, 56, 5, estimated=True)
    ended = outcome(channel="b", attempts=tried, compaction=note, usage=used, first_byte_ms=4, says="W" * 300)
    store.responses.finish(begun, ended)
    child = turn(store, begun.id)
    shown = [" ".join(row.split()) for row in directory.command("show", begun.id[:20]).splitlines()]
    for fact in (
        f"response {begun.id}",
        "owner ada",
        "attempt a: rate_limit_exceeded, 7 ms",
        "attempt b: ok, 9 ms, translated, left out: web_search",
        "usage ≈1,234 in (1,000 cached), ≈56 out (5 reasoning)",
        f"parent {parent}",
        f"children {child}",
        "compaction ✂ 12k → 1.0k, summary",
        "request req_7",
        "instructions Be kind.",
        "user: hello",
        f"assistant: {'W' * 99}…",
    ):
        assert fact in shown
    fact = orjson.loads(directory.command("show", begun.id, "--json"))
    assert (fact["parent"], fact["children"], fact["settings"]) == (parent, [child], {"instructions": "Be\nkind."})
    assert fact["output"][0]["content"] == "W" * 300
    assert fact["attempts"][0]["error"] == "rate_limit_exceeded"


def test_unstored_and_deleted_responses_are_shown_without_content(directory: Gateway, store: Store) -> None:
    fleeting = turn(store, stored=False)
    deleted = turn(store)
    store.responses.delete("ada", deleted)
    for response_id in (fleeting, deleted):
        shown = orjson.loads(directory.command("show", response_id, "--json"))
        assert (shown["input"], shown["output"], shown["settings"]) == ([], [], {})
    assert "deleted" in directory.command("show", deleted)
    assert "not stored" in directory.command("show", fleeting)


@pytest.mark.parametrize("command", ["show", "tree"])
def test_an_id_that_leads_to_nothing_ends_with_its_own_code(directory: Gateway, store: Store, command: str) -> None:
    turn(store, id="resp_aaaaaaaaaaaa1")
    turn(store, id="resp_aaaaaaaaaaaa2")
    for response_id in ("resp_unknown", "resp_aaaaaaaaaaaa", "not an id'"):
        assert directory.command(command, response_id, exit_code=NOT_FOUND) == ""


def test_hundreds_of_turns_stand_at_one_margin(directory: Gateway, store: Store) -> None:
    written = line(store, 300)
    rows = directory.command("tree", written[150]).splitlines()
    assert [row[:2] for row in rows[1:301]] == ["┌ "] + ["│ "] * 299


def test_a_tree_whose_root_is_gone_is_drawn_from_what_is_left(directory: Gateway, store: Store) -> None:
    first, second = line(store, 2)
    tree = store.trees.load("ada", second)
    assert tree is not None
    left: list[Node] = [node for node in tree.nodes if node.id != first]
    assert [drawing for drawing, _ in drawn(left)] == ["┌ "]
