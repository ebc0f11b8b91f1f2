"""A database that an earlier release wrote is upgraded, and everything in it is used on.

`data/schema_8.sql` is the dump of such a database, `data/schema_8.json` what its clients were answered.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import orjson
import pytest

from app.sealing import Seal
from app.settings import read_settings
from app.store import migrations
from tests.gateway import Gateway
from tests.upstream import ScriptedUpstream

JSON = dict[str, Any]
DATA = Path(__file__).parent / "data"
OLD: JSON = orjson.loads((DATA / "schema_8.json").read_bytes())
OLD_VERSION = 8
OWNER = "admin"
SENTENCE = "This is a summary of the earlier conversation"


#: The recorded database is a file of SQLite.
pytestmark = pytest.mark.sqlite


@pytest.fixture(scope="module")
def upstream() -> Iterator[ScriptedUpstream]:
    with ScriptedUpstream(models=("demo",)) as upstream:
        yield upstream


@pytest.fixture(scope="module")
def upgraded(tmp_path_factory: pytest.TempPathFactory, upstream: ScriptedUpstream) -> Iterator[Gateway]:
    directory = tmp_path_factory.mktemp("upgraded")
    connection = sqlite3.connect(directory / "antiphon.db")
    connection.executescript((DATA / "schema_8.sql").read_text())
    connection.close()
    gateway = Gateway(directory, [upstream.channel()], secret_key=OLD["secret_key"])
    gateway.token = OLD["token"]
    refused = gateway.attempt("serve")
    assert (refused.returncode, f"schema version {OLD_VERSION}" in refused.stderr) == (78, True)
    gateway.command("db", "upgrade")
    with gateway:
        yield gateway


def texts(items: list[JSON]) -> list[str]:
    """The text of each message."""
    return [
        part["text"]
        for item in items
        for part in (item["content"] if isinstance(item.get("content"), list) else [{"text": item.get("content", "")}])
        if part.get("text")
    ]


def answered(gateway: Gateway, upstream: ScriptedUpstream, **request: Any) -> list[str]:
    """The texts that the upstream is sent for a new turn."""
    answer = gateway.post("/responses", {"model": "demo", "input": "And now?", **request})
    assert answer.status_code == 200, answer.text
    return texts(upstream.bodies[-1]["input"])


def test_the_upgrade_leads_to_the_schema_of_this_release(upgraded: Gateway) -> None:
    connection = sqlite3.connect(upgraded.directory / "antiphon.db")
    ((version,),) = connection.execute("SELECT MAX(version) FROM schema_version")
    connection.close()
    assert OLD_VERSION < version == len(migrations.STEPS)


@pytest.mark.parametrize("name", ["first", "second", "compacted", "third", "forked", "told"])
def test_an_old_response_is_read_as_it_was_answered(upgraded: Gateway, name: str) -> None:
    read = upgraded.get(f"/responses/{OLD[name]['id']}").json()
    assert {key: read[key] for key in OLD[name]} == OLD[name]


def test_an_old_window_is_read_as_a_response(upgraded: Gateway) -> None:
    read = upgraded.get(f"/responses/{OLD['window']['id']}").json()
    assert (read["object"], read["output"]) == ("response", OLD["window"]["output"])


def test_a_turn_continues_from_an_old_chain(upgraded: Gateway, upstream: ScriptedUpstream) -> None:
    sent = answered(upgraded, upstream, previous_response_id=OLD["second"]["id"])
    answers = [*texts(OLD["first"]["output"]), *texts(OLD["second"]["output"])]
    assert sent == ["My name is Ada.", answers[0], "I live in Turin.", answers[1], "And now?"]


def test_a_second_child_of_an_old_response_opens_a_branch(upgraded: Gateway, upstream: ScriptedUpstream) -> None:
    sent = answered(upgraded, upstream, previous_response_id=OLD["first"]["id"])
    assert sent == ["My name is Ada.", *texts(OLD["first"]["output"]), "And now?"]


@pytest.mark.parametrize("name", ["compacted", "third", "window"])
def test_an_old_compaction_is_opened_in_a_chain(upgraded: Gateway, upstream: ScriptedUpstream, name: str) -> None:
    sent = answered(upgraded, upstream, previous_response_id=OLD[name]["id"])
    assert sum(SENTENCE in text for text in sent) == 1
    assert sent[-1] == "And now?"


def test_an_old_compaction_item_is_opened_in_the_input(upgraded: Gateway, upstream: ScriptedUpstream) -> None:
    (item,) = (item for item in OLD["window"]["output"] if item["type"] == "compaction")
    sent = answered(upgraded, upstream, input=[item, {"role": "user", "content": "And now?"}])
    assert [SENTENCE in text for text in sent].count(True) == 1


def test_an_old_chain_is_compacted_again(upgraded: Gateway, upstream: ScriptedUpstream) -> None:
    request = {"model": "demo", "previous_response_id": OLD["third"]["id"]}
    answer = upgraded.post("/responses/compact", request)
    assert answer.status_code == 200, answer.text
    assert [item["type"] for item in answer.json()["output"]].count("compaction") == 1
    sent = answered(upgraded, upstream, previous_response_id=answer.json()["id"])
    assert sum(SENTENCE in text for text in sent) == 1


def test_the_context_of_an_old_response_is_listed(upgraded: Gateway) -> None:
    listed = upgraded.get(f"/responses/{OLD['second']['id']}/input_items?order=asc").json()["data"]
    assert texts(listed)[0] == "My name is Ada."
    listed = upgraded.get(f"/responses/{OLD['third']['id']}/input_items?order=asc").json()["data"]
    assert any(SENTENCE in text for text in texts(listed))


def test_an_old_conversation_goes_on(upgraded: Gateway, upstream: ScriptedUpstream) -> None:
    conversation = OLD["conversation"]["id"]
    assert upgraded.get(f"/conversations/{conversation}").json() == OLD["conversation"]
    sent = answered(upgraded, upstream, conversation=conversation)
    assert sent == ["It began here.", "In a conversation.", *texts(OLD["told"]["output"]), "And now?"]


def test_an_old_idempotency_key_still_names_its_response(upgraded: Gateway) -> None:
    once = OLD["once"]
    age = "UPDATE claim SET created_at = strftime('%s', 'now')"
    with sqlite3.connect(upgraded.directory / "antiphon.db", timeout=5) as connection:
        connection.execute(age)
    connection.close()
    again = upgraded.post("/responses", once["request"], headers={"Idempotency-Key": once["key"]})
    assert again.json()["id"] == once["response"]["id"]


@pytest.mark.parametrize("purpose", sorted(OLD["sealed"]))
def test_every_kind_of_seal_of_that_release_opens(purpose: str, tmp_path: Path) -> None:
    environment = {"ANTIPHON_SECRET_KEY": OLD["secret_key"], "ANTIPHON_DATABASE_URL": f"sqlite:///{tmp_path}/a.db"}
    seal = Seal(purpose, read_settings(environment, tmp_path).keys_for(purpose))
    assert seal.open(OWNER, OLD["sealed"][purpose]["text"]) == b"sealed by the first release"
