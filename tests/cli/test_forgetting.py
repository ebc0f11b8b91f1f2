"""antiphon db erase and db export: everything of one owner, and nothing of another."""

from __future__ import annotations

import stat
from contextlib import closing
from pathlib import Path
from typing import Any

import orjson
import pytest

from app.store.store import Store
from tests import stored_data
from tests.conftest import MakeGateway
from tests.databases import Server
from tests.gateway import Gateway
from tests.relay.conftest import eventually
from tests.store.turns import line
from tests.upstream import ScriptedUpstream

OWNER = "adaquokka"
WORD = "wombatish"
OTHER = "bilbyesque"
NOT_FOUND = 4

#: Every way in which a request may come, besides the plain one.
WAYS: list[dict[str, Any]] = [{"stream": True}, {"store": False}, {"background": True}, {"prompt_cache_key": "here"}]
REQUESTS = 3 + len(WAYS)


def _use(gateway: Gateway, token: str, word: str) -> str:
    """Leaves something in every table that holds what owners say; the id of a response to chain from."""
    made = gateway.post("/conversations", {"items": [_message(word)], "metadata": {"about": word}}, token=token).json()
    body = {"model": "m", "input": f"weather {word}", "instructions": f"Say {word}.", "metadata": {"word": word}}
    tool = {"type": "function", "name": f"{word}_weather", "parameters": {"type": "object", "properties": {}}}
    first = gateway.post("/responses", body, token=token, headers={"Idempotency-Key": word}).json()
    chained = {**body, "previous_response_id": first["id"]}
    for way in [*WAYS, {"tools": [tool]}]:
        assert gateway.post("/responses", {**chained, **way}, token=token).status_code == 200, way
    assert gateway.post("/responses", {**body, "conversation": made["id"]}, token=token).status_code == 200
    eventually(lambda: _ended(gateway) % REQUESTS == 0, "the end of all responses")
    return str(first["id"])


def _ended(gateway: Gateway) -> int:
    sql = "SELECT COUNT(*) AS count FROM response WHERE status = 'completed'"
    return int(stored_data.select(gateway.database_url, sql)[0]["count"])


def _message(text: str) -> dict[str, Any]:
    return {"type": "message", "role": "user", "content": [{"type": "input_text", "text": text}]}


def _stored(gateway: Gateway) -> bytes:
    """The database as a thief would find it: every file of SQLite's, or every value of a server's."""
    if not gateway.database_url.startswith("sqlite"):
        return b"\n".join(stored_data.values(gateway.database_url))
    folder = Path(gateway.database_url.removeprefix("sqlite:///")).parent
    files = [file for file in folder.iterdir() if file.name.startswith("antiphon.db")]
    assert len(files) == 3, "the database, its log and the log's index"
    return b"\n".join(file.read_bytes() for file in files)


@pytest.fixture
def running(gateway: MakeGateway, upstream: ScriptedUpstream, database_url: str) -> Gateway:
    return gateway([upstream.channel()], database_url=database_url, worker_processes=1)


def test_no_word_of_an_erased_owner_stays_and_the_sums_do(running: Gateway) -> None:
    ada = running.new_token("adaquokka-mac", "--owner", OWNER)
    bob = running.new_token("bob", "--owner", "bob")
    _use(running, ada, WORD)
    others = _use(running, bob, OTHER)
    before = _stored(running).lower()
    assert WORD.encode() in before
    assert OWNER.encode() in before
    erased = orjson.loads(running.command("db", "erase", "--owner", OWNER, "--yes", "--json"))
    assert (erased["responses"], erased["conversations"], erased["tokens"], erased["running"]) == (REQUESTS, 1, 1, 0)
    after = _stored(running).lower()
    assert WORD.encode() not in after
    assert OWNER.encode() not in after
    assert OTHER.encode() in after
    assert running.post("/responses", {"model": "m", "input": "hello"}, token=ada).status_code == 401
    goes_on = {"model": "m", "input": "hello", "previous_response_id": others}
    assert running.post("/responses", goes_on, token=bob).status_code == 200
    sums = {row["token"]: row["requests"] for row in _usage(running)}
    assert sums[f"{erased['pseudonym']}-{_key(running, erased['pseudonym'])}"] == REQUESTS
    assert sums["bob"] == REQUESTS + 1
    running.command("db", "erase", "--owner", OWNER, "--yes", exit_code=NOT_FOUND)


def _usage(gateway: Gateway) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = orjson.loads(gateway.command("usage", "--by", "token", "--json"))["usage"]
    return found


def _key(gateway: Gateway, pseudonym: str) -> int:
    sql = "SELECT pk FROM token WHERE owner = ?"
    return int(stored_data.select(gateway.database_url, sql, (pseudonym,))[0]["pk"])


def test_an_export_has_everything_of_one_owner(running: Gateway) -> None:
    ada = running.new_token("adaquokka-mac", "--owner", OWNER)
    first = _use(running, ada, WORD)
    _use(running, running.new_token("bob", "--owner", "bob"), OTHER)
    text = running.command("db", "export", "--owner", OWNER)
    assert OTHER not in text
    lines = [orjson.loads(line) for line in text.splitlines()]
    responses = [line for line in lines if line["object"] == "response"]
    assert len(responses) == REQUESTS
    shown = running.get(f"/responses/{first}", token=ada).json()
    (found,) = (line for line in responses if line["id"] == first)
    assert (found["output"], found["usage"]) == (shown["output"], shown["usage"])
    assert found["input"][0]["content"][0]["text"] == f"weather {WORD}"
    assert found["request"]["instructions"] == f"Say {WORD}."
    assert found["request"]["metadata"] == {"word": WORD}
    assert found["token"] == "adaquokka-mac"
    assert [line["previous_response_id"] for line in responses].count(first) == REQUESTS - 2
    assert [line["input"] for line in responses if not line["stored"]] == [[]]
    conversation, *turns = lines[REQUESTS:]
    assert (conversation["object"], conversation["metadata"]) == ("conversation", {"about": WORD})
    assert [(turn["object"], turn["conversation"]) for turn in turns] == [("conversation.turn", conversation["id"])] * 2
    assert [turn["response"] is None for turn in turns] == [True, False]
    assert turns[0]["input"][0]["content"] == [{"type": "input_text", "text": WORD}]
    assert running.command("db", "export", "--owner", OWNER, "--since", "2100-01-01").count("\n") == 1


@pytest.fixture
def directory(tmp_path: Path) -> Gateway:
    """A gateway that is not started: its commands and its database, with two turns of `ada`."""
    gateway = Gateway(tmp_path, [{"name": "demo", "format": "demo", "models": ["demo"]}])
    gateway.command("db", "upgrade")
    with closing(Store(gateway.database_url, peppers=[b"p"])) as store:
        line(store, 2)
    return gateway


def test_an_erasure_asks_and_says_what_it_would_remove(directory: Gateway) -> None:
    refused = directory.attempt("db", "erase", "--owner", "ada")
    assert refused.returncode == 1
    assert "2 responses, 0 conversations, 0 tokens" in refused.stderr
    assert "Backups" in refused.stderr
    assert orjson.loads(directory.command("db", "stats", "--json"))["rows"]["response"] == 2


def test_the_file_may_stay_as_it_is_and_be_rewritten_later(directory: Gateway) -> None:
    assert directory.command("db", "erase", "--owner", "ada", "--yes", "--no-vacuum").startswith("erased 2 responses")
    assert "rewrote" in directory.command("db", "vacuum")


def test_an_owner_that_has_nothing_is_not_found(directory: Gateway) -> None:
    directory.command("db", "erase", "--owner", "adam", "--yes", exit_code=NOT_FOUND)
    directory.command("db", "erase", "--owner", "", "--yes", exit_code=2)
    directory.command("db", "erase", "--yes", exit_code=2)


def test_a_server_is_not_written_anew(tmp_path: Path, mariadb: Server) -> None:
    gateway = Gateway(tmp_path, [], database_url=mariadb.new_database())
    gateway.command("db", "upgrade")
    gateway.command("db", "vacuum", exit_code=78)


def test_an_export_goes_to_a_file_that_only_its_owner_can_read(directory: Gateway) -> None:
    file = directory.directory / "ada.jsonl"
    directory.command("db", "export", "--owner", "ada", str(file))
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert [orjson.loads(line)["object"] for line in file.read_bytes().splitlines()] == ["response"] * 2
    directory.command("db", "export", "--owner", "ada", str(file), exit_code=78)
    directory.command("db", "export", "--owner", "ada", "--force", "--since", "1d", str(file))
    directory.command("db", "export", "--owner", "ada", "none/ada.jsonl", exit_code=78)
    directory.command("db", "export", "--owner", "adam", exit_code=NOT_FOUND)
    directory.command("db", "export", "--owner", "ada", "--since", "soon", exit_code=2)
    assert [file.name for file in directory.directory.glob("*ada*")] == ["ada.jsonl"]
