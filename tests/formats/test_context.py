import pytest

from app.contract.records import Chain
from app.formats._context import shortened
from tests.formats.conversations import answered, called, link, said, turn

OLD = "old " * 50


def test_the_oldest_turns_go_first_and_instructions_stay() -> None:
    before = Chain((link(said("assistant", OLD), input=(said("developer", "D"), said("user", OLD))),))
    shorter = shortened(turn(said("user", "new"), chain=before))
    assert shorter is not None
    assert shorter.chain == Chain()
    assert shorter.input == [said("developer", "D"), said("user", "new")]


def test_calls_go_together_with_their_outputs() -> None:
    items = [said("user", OLD), called("a"), said("user", "Hurry!"), answered("a"), said("assistant", "x")]
    shorter = shortened(turn(*items))
    assert shorter is not None
    assert [item["type"] for item in shorter.input] == ["message", "message"]


@pytest.mark.parametrize("items", [(), (said("user", OLD),), (said("user", "a"), said("user", "b"), called("a"))])
def test_what_is_one_turn_cannot_be_shortened(items: tuple[dict[str, object], ...]) -> None:
    assert shortened(turn(*items)) is None


def test_about_half_is_left() -> None:
    items = [item for _ in range(10) for item in (said("user", OLD), said("assistant", OLD))]
    shorter = shortened(turn(*items))
    assert shorter is not None
    assert len(shorter.input) == 10
