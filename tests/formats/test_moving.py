"""A conversation that moves between formats loses only the items that no other family can read."""

import orjson
import pytest

from app import formats
from app.contract.items import Item
from app.contract.records import Chain, Link
from app.formats.messages import _thinking_blocks
from tests.formats.conversations import answered, called, link, message_item, row, turn

SIGNED = {"type": "thinking", "thinking": "Third thought.", "signature": "sig"}


def reasoned(number: str, text: str | None, secret: str | None) -> Item:
    content = {"content": [{"type": "reasoning_text", "text": text}]} if text else {}
    sealed = {"encrypted_content": secret} if secret else {}
    return {"type": "reasoning", "id": f"rs_{number}", "summary": [], **content, **sealed}


def made_by(family: str, question: str, *output: Item, status: str = "completed") -> Link:
    return link(*output, input=(message_item("user", question),), status=status, opaque=True)._replace(family=family)


CHAIN = Chain(
    (
        made_by("openai", "One?", reasoned("1", None, "gAAAopaque"), called("call_1"), answered("call_1", "RESULT")),
        made_by("local", "Two?", reasoned("2", "Second thought.", None), message_item("assistant", "TWO")),
        made_by(
            "anthropic",
            "Three?",
            reasoned("3", SIGNED["thinking"], _thinking_blocks.sealed(SIGNED, "m")),
            message_item("assistant", "THREE"),
            called("call_3", arguments='{"cut', status="incomplete"),
            status="incomplete",
        ),
    )
)
#: Each format with the family of its channel, and an item that only this channel can read.
STATIONS = [
    ("responses", "openai", "gAAAopaque"),
    ("chat_completions", "local", None),
    ("messages", "anthropic", '"signature":"sig"'),
]


@pytest.mark.parametrize(("format_", "family", "own"), STATIONS)
def test_every_format_sends_the_whole_conversation(format_: str, family: str, own: str | None) -> None:
    keys = row(family=family, encrypted_reasoning=True)
    sent = formats.load(format_).encode(turn(message_item("user", "Four?"), chain=CHAIN), keys, "up").decode()
    for words in ("One?", "RESULT", "Two?", "TWO", "Three?", "THREE", "Four?"):
        assert words in sent
    assert "call_1" in sent
    assert "call_3" not in sent


@pytest.mark.parametrize(("format_", "family", "own"), STATIONS)
def test_no_channel_is_shown_what_only_another_can_read(format_: str, family: str, own: str | None) -> None:
    keys = row(family=family, encrypted_reasoning=True)
    sent = formats.load(format_).encode(turn(message_item("user", "Four?"), chain=CHAIN), keys, "up").decode()
    foreign = {"gAAAopaque", "anthropic:", '"signature":"sig"'} - {own}
    assert not [secret for secret in foreign if secret in sent]
    assert own is None or own in sent


@pytest.mark.parametrize(("format_", "family", "own"), STATIONS)
def test_reasoning_of_an_open_family_is_read_where_it_is_wanted(format_: str, family: str, own: str) -> None:
    keys = row(family=family, reasoning_text=True)
    sent = orjson.loads(formats.load(format_).encode(turn(message_item("user", "Four?"), chain=CHAIN), keys, "up"))
    assert "Second thought." in orjson.dumps(sent).decode()
