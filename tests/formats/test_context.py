import pytest

from app.contract.records import Chain
from app.formats._context import shortened
from tests.formats.conversations import answered, called, link, message_item, turn

OLD = "old " * 50


def test_the_oldest_turns_go_first_and_instructions_stay() -> None:
    before = Chain(
        (link(message_item("assistant", OLD), input=(message_item("developer", "D"), message_item("user", OLD))),)
    )
    shorter = shortened(turn(message_item("user", "new"), chain=before))
    assert shorter is not None
    assert shorter.chain == Chain()
    assert shorter.input == [message_item("developer", "D"), message_item("user", "new")]


def test_calls_go_together_with_their_outputs() -> None:
    items = [
        message_item("user", OLD),
        called("a"),
        message_item("user", "Hurry!"),
        answered("a"),
        message_item("assistant", "x"),
    ]
    shorter = shortened(turn(*items))
    assert shorter is not None
    assert [item["type"] for item in shorter.input] == ["message", "message"]


@pytest.mark.parametrize(
    "items", [(), (message_item("user", OLD),), (message_item("user", "a"), message_item("user", "b"), called("a"))]
)
def test_a_single_turn_cannot_be_shortened(items: tuple[dict[str, object], ...]) -> None:
    assert shortened(turn(*items)) is None


def test_about_half_is_left() -> None:
    items = [item for _ in range(10) for item in (message_item("user", OLD), message_item("assistant", OLD))]
    shorter = shortened(turn(*items))
    assert shorter is not None
    assert len(shorter.input) == 10
