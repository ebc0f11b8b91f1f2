"""What a compaction does to a conversation that the gateway keeps: behind it, beside it, and wherever it moves."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.gateway import Gateway
from tests.relay.compaction.conftest import (
    FILLER,
    FORMATS,
    JSON,
    NATIVE,
    TABLE,
    CompactionGateway,
    conversation,
    facts,
    given_to,
    kinds,
    numbered,
    summarising,
    user,
    users,
    words,
)
from tests.relay.conftest import eventually
from tests.response_contract import check_error, check_item_list, check_window
from tests.upstream import ScriptedUpstream, refusal

everywhere = pytest.mark.parametrize("model", [*FORMATS.values(), *NATIVE], ids=[*FORMATS, *NATIVE])
TRIGGER = {"type": "compaction_trigger"}


def compacted(compaction_gateway: CompactionGateway, model: str, turns: int = 4) -> tuple[str, JSON]:
    """A chain and the response that compacted it: its last id, and the response."""
    last = compaction_gateway.talk(model, turns)
    return last, compaction_gateway.compact(model, previous_response_id=last, input="And now?")


def listed(compaction_gateway: CompactionGateway, response_id: str) -> list[JSON]:
    return check_item_list(compaction_gateway.get(f"/responses/{response_id}/input_items?order=asc&limit=100"))


# --- in the chain -----------------------------------------------------------------------------------------------


def test_a_chain_is_read_from_its_newest_compaction_on(compaction_gateway: CompactionGateway) -> None:
    _, first = compacted(compaction_gateway, "gpt-plain")
    second = compaction_gateway.compact(
        "gpt-plain", previous_response_id=compaction_gateway.talk("gpt-plain", 2, 5, first["id"]), input="Now?"
    )
    compaction_gateway.create("gpt-plain", "And then?", second["id"])
    assert [facts(text) for text in users(compaction_gateway.given)] == [
        numbered(1, 2, 3, 4, 5, 6),
        numbered(6),
        [],
        [],
    ]
    assert users(compaction_gateway.given)[-2:] == ["Now?", "And then?"]


def test_branches_from_before_the_compaction_keep_the_full_history(compaction_gateway: CompactionGateway) -> None:
    last, response = compacted(compaction_gateway, "gpt-plain")
    compaction_gateway.create("gpt-plain", "A branch?", last)
    assert facts([item for item in compaction_gateway.given if item["role"] == "user"]) == numbered(1, 2, 3, 4)
    assert len(users(compaction_gateway.given)) == 5
    for new_input in ("One.", "Two."):
        compaction_gateway.create("gpt-plain", new_input, response["id"])
        assert users(compaction_gateway.given)[-2:] == ["And now?", new_input]


@everywhere
def test_its_items_are_listed_and_never_the_seal(compaction_gateway: CompactionGateway, model: str) -> None:
    _, response = compacted(compaction_gateway, model)
    after = compaction_gateway.create(model, "And then?", response["id"])
    for response_id, new_input in ((response["id"], "And now?"), (after["id"], "And then?")):
        items = listed(compaction_gateway, response_id)
        assert "compaction" not in kinds(items)
        assert "antiphon.1." not in str(items)
        assert users(items)[-1] == new_input
    assert f"Note fact-4.{FILLER}" in users(listed(compaction_gateway, after["id"]))
    assert "And now?" in users(listed(compaction_gateway, after["id"]))


@everywhere
def test_a_deleted_compaction_is_gone_and_what_came_before_it_is_not(
    compaction_gateway: CompactionGateway, model: str
) -> None:
    last = compaction_gateway.talk(model, 3)
    window = check_window(compaction_gateway.compact(model, previous_response_id=last))
    assert compaction_gateway.gateway.delete(f"/responses/{window['id']}").json()["deleted"] is True
    check_error(compaction_gateway.gateway.get(f"/responses/{window['id']}"), 404)
    answer = compaction_gateway.post("/responses", model=model, input="And now?", previous_response_id=window["id"])
    check_error(answer, 400, "previous_response_not_found")
    compaction_gateway.create(model, "And now?", last)


@everywhere
def test_a_deleted_ancestor_behind_a_compaction_is_not_missed(
    compaction_gateway: CompactionGateway, model: str
) -> None:
    last, response = compacted(compaction_gateway, model)
    compaction_gateway.gateway.delete(f"/responses/{last}")
    after = compaction_gateway.create(model, "And then?", response["id"])
    assert "And then?" in words(after["output"][-1])


def test_a_reference_to_an_item_brings_what_it_opens_to(compaction_gateway: CompactionGateway) -> None:
    _, response = compacted(compaction_gateway, "gpt-plain")
    reference = {"type": "item_reference", "id": response["output"][0]["id"]}
    compaction_gateway.create("gpt-plain", [reference, user("And then?")])
    assert "Known: fact-1, fact-2, fact-3" in users(compaction_gateway.given)[0]


@pytest.mark.parametrize("model", NATIVE)
def test_a_native_item_in_an_input_is_read_in_the_turns_after_it(
    compaction_gateway: CompactionGateway, model: str
) -> None:
    window = compaction_gateway.compact(model, input=conversation(3))
    last = compaction_gateway.create(model, [*window["output"], user("And now?")])
    compaction_gateway.create(model, "And then?", last["id"])
    assert [item["encrypted_content"][:5] for item in compaction_gateway.given if item["type"] == "compaction"] == [
        "gAAAA"
    ]
    assert [item.get("id") for item in listed(compaction_gateway, last["id"]) if item["type"] == "compaction"] == []


def test_a_native_compaction_is_the_base_of_the_next_one(compaction_gateway: CompactionGateway) -> None:
    """Its originals may be far more than a model can be given at once."""
    _, first = compacted(compaction_gateway, "gpt-native")
    compaction_gateway.first.reset()
    check_window(
        compaction_gateway.compact(
            "gpt-native", previous_response_id=compaction_gateway.talk("gpt-native", 2, 5, first["id"])
        )
    )
    assert kinds(compaction_gateway.given)[0] == "compaction"
    assert facts([item for item in compaction_gateway.given if item.get("role") == "user"]) == numbered(4, 5, 6)


# --- sealed items -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("model", ["gpt-plain", "gpt-native"])
def test_another_owner_cannot_open_an_item_nor_anyone_an_altered_one(
    compaction_gateway: CompactionGateway, model: str
) -> None:
    item = compaction_gateway.compact(model, input=conversation(2), store=False)["output"][-1]
    sealed = item["encrypted_content"]
    middle = len(sealed) // 2
    swapped = "A" if sealed[middle] != "A" else "B"
    altered = [
        sealed[:middle] + swapped + sealed[middle + 1 :],
        sealed[:-40],
        sealed[: len("antiphon.1.")],
        sealed + "é",
    ]
    for text in altered:
        answer = compaction_gateway.post(
            "/responses", model=model, input=[{**item, "encrypted_content": text}, user("Hi")]
        )
        check_error(answer, 400, "invalid_encrypted_content", "input")
    other = compaction_gateway.gateway.new_token(f"eve-{model}", "--owner", "eve")
    body = {"model": model, "input": [item, user("Hi")]}
    check_error(compaction_gateway.gateway.post("/responses", body, token=other), 400, "invalid_encrypted_content")
    check_error(
        compaction_gateway.gateway.post("/responses/compact", {**body, "input": [item]}, token=other),
        400,
        "invalid_encrypted_content",
    )


def test_every_worker_opens_what_any_of_them_sealed(compaction_gateway: CompactionGateway) -> None:
    item = compaction_gateway.compact("gpt-plain", input=conversation(2), store=False)["output"][-1]
    for number in range(12):
        # A connection of its own each time: a worker keeps those that it has.
        body = {"model": "gpt-plain", "input": [item, user(f"And now, {number}?")], "store": False}
        answer = compaction_gateway.gateway.post("/responses", body, headers={"Connection": "close"})
        assert answer.status_code == 200, answer.text
        assert users(compaction_gateway.given)[0].endswith("Known: fact-1, fact-2")


def test_items_outlive_the_key_they_were_sealed_with(tmp_path: Path) -> None:
    with ScriptedUpstream(family="one") as first, ScriptedUpstream(family="two") as second:
        first.always(summarising)

        def started(name: str, **keys: str) -> Gateway:
            (tmp_path / name).mkdir()
            url = f"sqlite:///{tmp_path / 'shared.db'}"
            gateway = Gateway(tmp_path / name, [first.channel("plain", models=["gpt-plain"])], database_url=url, **keys)
            if name == "before":
                gateway.command("db", "upgrade")
            gateway.token = gateway.new_token(name, "--owner", "ada")
            return gateway

        old, new = "o" * 40, "n" * 40
        with started("before", secret_key=old) as gateway:
            compaction_gateway = CompactionGateway(gateway, first, second)
            window = compaction_gateway.compact(
                "gpt-plain", previous_response_id=compaction_gateway.talk("gpt-plain", 3)
            )
        stateless = [window["output"][-1], user("And now?")]
        with started("after", secret_key=new, old_secret_keys=old) as gateway:
            compaction_gateway = CompactionGateway(gateway, first, second)
            for new_input, previous in ((stateless, None), ("And now?", window["id"])):
                compaction_gateway.create("gpt-plain", new_input, previous)
                assert "Known: fact-1, fact-2, fact-3" in str(compaction_gateway.given)
        with started("forgetful", secret_key=new) as gateway:
            compaction_gateway = CompactionGateway(gateway, first, second)
            answer = compaction_gateway.post("/responses", model="gpt-plain", input=stateless)
            check_error(answer, 400, "invalid_encrypted_content")
            compaction_gateway.create("gpt-plain", "And now?", window["id"])
            assert facts(compaction_gateway.given) == numbered(1, 2, 3)


# --- moving -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("stream", [False, True], ids=["json", "sse"])
def test_when_the_channel_that_compacted_fails_the_next_one_gets_the_originals(
    compaction_gateway: CompactionGateway, stream: bool
) -> None:
    last = compaction_gateway.talk("gpt-pair", 3)
    standing = compaction_gateway.first._standing
    for previous, new_input in ((last, "And now?"), (None, [*conversation(3), user("And now?")])):
        compaction_gateway.first.enqueue(*standing)
        compaction_gateway.first.enqueue(refusal(500))
        body = {"model": "gpt-pair", "input": new_input, "context_management": {"answer": True}, "stream": stream}
        answer = compaction_gateway.post("/responses/compact", previous_response_id=previous, **body)
        assert answer.status_code == 200, answer.text
        given = given_to(compaction_gateway.second)
        assert [facts(text) for text in users(given)] == [numbered(1), numbered(2), numbered(3), []]
        assert "compaction" not in kinds(given)


@dataclass(frozen=True, slots=True)
class Journey:
    """A conversation whose first upstream is taken away in the middle."""

    compaction_gateway: CompactionGateway
    first_row: JSON
    second_row: JSON

    def begin(self, compact: str, summariser: str | None = None) -> None:
        mark = f"begun-{compact}-{summariser}-{len(self.compaction_gateway.first.requests)}"
        self._serve({**self.first_row, "compact": compact}, mark, {"compaction": {"model": summariser}})
        for upstream in (self.compaction_gateway.first, self.compaction_gateway.second):
            upstream.reset()
            upstream.always(summarising)

    def move(self) -> None:
        self._serve(self.second_row, f"moved-{len(self.compaction_gateway.first.requests)}", {})

    def _serve(self, row: JSON, mark: str, table: JSON) -> None:
        """The gateway reads its file now and then. An otherwise unused model shows when it has."""
        self.compaction_gateway.gateway.write_channels(
            [{**row, "models": ["gpt-moving", mark, "gpt-short"]}], {**TABLE, **table}
        )
        eventually(lambda: mark in str(self.compaction_gateway.get("/models")), f"the table with {mark}")


@pytest.fixture(scope="module")
def journey(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Journey]:
    with ScriptedUpstream(family="one") as first, ScriptedUpstream(family="two") as second:
        here = first.channel("here", models=["gpt-moving"], family="one")
        there = second.channel("there", models=["gpt-moving"], family="two")
        with Gateway(tmp_path_factory.mktemp("journey"), [here], TABLE) as gateway:
            yield Journey(CompactionGateway(gateway, first, second), here, there)


@pytest.mark.parametrize("compact", ["gateway", "native", "trigger"])
def test_sixty_turns_are_made_short_and_go_on_wherever_they_move(journey: Journey, compact: str) -> None:
    compaction_gateway, model = journey.compaction_gateway, "gpt-moving"
    journey.begin(compact)
    last = compaction_gateway.talk(model, 50)
    for number in range(51, 61):
        before = compaction_gateway.create(model, f"Chat {number}.{FILLER}", last)
        last = before["id"]
    keep = {"type": "compaction", "keep_turns": 2}
    response = compaction_gateway.compact(model, previous_response_id=last, input="And now?", context_management=[keep])
    item = response["output"][0]
    given = compaction_gateway.given
    chats = [text for text in users(given) if text.startswith(("Note", "Chat"))]
    assert [text.partition(".")[0] for text in chats] == ["Chat 59", "Chat 60"]
    if compact == "gateway":
        after = compaction_gateway.create(model, "And then?", response["id"])
        assert facts(users(compaction_gateway.given)[0]) == numbered(*range(1, 51))
        assert after["usage"]["input_tokens"] < before["usage"]["input_tokens"] / 5

    journey.move()
    for new_input, previous in (("Still there?", response["id"]), ([item, user("Still there?")], None)):
        compaction_gateway.create(model, new_input, previous)
        there = given_to(compaction_gateway.second)
        assert facts(there) == numbered(*range(1, 51))
        assert "compaction" not in kinds(there)
        assert users(there)[-1] == "Still there?"
        assert users(there).count("And now?") == 1
        assert users(there).count(f"Chat 60.{FILLER}") == 1


@pytest.mark.parametrize("compact", ["native", "trigger"])
def test_a_native_item_without_originals_blocks_nothing(journey: Journey, compact: str) -> None:
    compaction_gateway, model = journey.compaction_gateway, "gpt-moving"
    journey.begin(compact)
    item = compaction_gateway.compact(model, input=conversation(3), store=False)["output"][-1]
    deleted = compaction_gateway.talk(model, 3)
    response = compaction_gateway.compact(model, previous_response_id=deleted, input="And now?")
    compaction_gateway.gateway.delete(f"/responses/{deleted}")
    journey.move()
    for new_input, previous in (([user("Note fact-1."), item, user("Well?")], None), ("Well?", response["id"])):
        compaction_gateway.create(model, new_input, previous)
        assert "cannot be read here" in str(given_to(compaction_gateway.second))
        assert users(given_to(compaction_gateway.second))[-1] == "Well?"
    window = check_window(compaction_gateway.compact(model, previous_response_id=response["id"]))
    compaction_gateway.create(model, "And then?", window["id"])


def test_the_table_says_which_model_sums_up(journey: Journey) -> None:
    compaction_gateway, model = journey.compaction_gateway, "gpt-moving"
    journey.begin("gateway", "gpt-short")
    last = compaction_gateway.talk(model, 8)
    compaction_gateway.compact(model, previous_response_id=last, input="And now?")
    assert [body["model"] for body in compaction_gateway.first.bodies[-2:]] == ["gpt-short", model]

    journey.begin("gateway", "gpt-nowhere")
    body = {"model": model, "previous_response_id": last, "input": "And now?"}
    check_error(compaction_gateway.post("/responses/compact", **body), 502, "compaction_failed")
    response = compaction_gateway.ok("/responses", **body, context_management={"compact_threshold": 1000})
    assert kinds(response["output"]) == ["message"]
