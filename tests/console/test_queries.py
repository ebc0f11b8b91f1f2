"""How many statements each page runs: at most three, beside those of its session."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from tests.console.conversations import Writer
from tests.console.in_process import Console, Visitor
from tests.console.routes import ROUTES

MOST = 3
PAGES = [route for route in ROUTES if route.method == "GET" and not route.endless and route.operator == 200]
#: With a turn selected, whose cache is explained by what came before it.
SELECTED = ("/console/c/{turn}?at={turn}", "/console/c/{said}?at={said}")
PATHS = [route.path for route in PAGES] + [*SELECTED]
OPERATORS = {route.path for route in PAGES if route.owner != 200}


@dataclass(frozen=True, slots=True)
class Team:
    operator: Visitor
    owner: Visitor
    turn: str
    """With the same input as a sibling, and a turn in flight behind it."""
    said: str
    """The newest turn of a conversation."""
    token: str


@pytest.fixture(scope="module")
def team(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Team]:
    folder = tmp_path_factory.mktemp("queries")
    console = Console(folder, f"sqlite:///{folder}/queries.db")
    operator, owner = console.person("ops", "ops", "operator"), console.person("ada", "ada", "owner")
    root = owner.create()
    turn, _ = (owner.create(previous_response_id=root, input=text) for text in ("one", "one"))
    Writer(console.store, "ada").begin(turn)
    conversation = owner.post("/v1/conversations", {})["id"]
    _, said = (owner.create(conversation=conversation, input=text) for text in ("three", "four"))
    named = console.store.tokens.named("ada")
    assert named is not None
    yield Team(operator, owner, turn, said, str(named.key))
    console.close()


@pytest.mark.parametrize("pattern", PATHS)
def test_a_page_runs_few_statements(pattern: str, team: Team) -> None:
    path = pattern.format(turn=team.turn, said=team.said, fresh=team.turn, token=team.token, channel="demo")
    for visitor in (team.operator,) if pattern in OPERATORS else (team.operator, team.owner):
        # What a process reads once, and what it notes once a minute, comes with the first request.
        assert visitor.measure(path).status == 200
        seen = visitor.measure(path).statements
        assert len(seen) <= MOST, "\n".join(seen)


def test_statements_are_seen(team: Team) -> None:
    """Otherwise the test above could not fail."""
    assert any("FROM audit" in sql for sql in team.operator.measure("/console/audit").statements)
