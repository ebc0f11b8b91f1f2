import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.errors import InvalidRequest
from app.sealing import PREFIX, Pseudonyms, Seal, is_sealed

KEY, OLD = b"k" * 32, b"o" * 32
SEAL = Seal("compaction", [KEY])


@given(st.binary(max_size=300), st.text(max_size=20))
def test_a_sealed_value_opens_to_itself(content: bytes, owner: str) -> None:
    text = SEAL.close(owner, content)
    assert is_sealed(text)
    assert SEAL.open(owner, text) == content


def test_a_rotated_key_still_opens_and_the_new_one_closes() -> None:
    text = Seal("compaction", [OLD]).close("ada", b"x")
    both = Seal("compaction", [KEY, OLD])
    assert both.open("ada", text) == b"x"
    assert SEAL.open("ada", both.close("ada", b"y")) == b"y"
    with pytest.raises(InvalidRequest):
        SEAL.open("ada", text)


@given(st.integers(0, 10_000), st.integers(1, 255))
def test_an_altered_seal_does_not_open(at: int, change: int) -> None:
    text = SEAL.close("ada", b"the content of a seal")
    at %= len(text)
    altered = text[:at] + chr((ord(text[at]) + change) % 256) + text[at + 1 :]
    with pytest.raises(InvalidRequest) as caught:
        SEAL.open("ada", altered)
    assert caught.value.code == "invalid_encrypted_content"


@pytest.mark.parametrize("text", ["", PREFIX, f"{PREFIX}00000000.", "gAAAA", PREFIX + "x" * 40])
def test_a_foreign_seal_does_not_open(text: str) -> None:
    with pytest.raises(InvalidRequest):
        SEAL.open("ada", text)


def test_a_seal_is_bound_to_its_owner_and_its_purpose_and_its_whole_length() -> None:
    text = SEAL.close("ada", b"x")
    for opener, owner, given_text in (
        (SEAL, "bob", text),
        (Seal("reasoning", [KEY]), "ada", text),
        (SEAL, "ada", text[:-4]),
    ):
        with pytest.raises(InvalidRequest):
            opener.open(owner, given_text)


def test_a_pseudonym_depends_on_key_owner_and_name_alone() -> None:
    first = Pseudonyms(KEY).of("ada", "a name")
    assert Pseudonyms(KEY).of("ada", "a name") == first
    others = [Pseudonyms(OLD).of("ada", "a name"), Pseudonyms(KEY).of("bob", "a name"), Pseudonyms(KEY).of("ada", "b")]
    assert len({first, *others}) == 4
    assert len(first) == 32
    # The owner and the name do not run into each other.
    assert Pseudonyms(KEY).of("ad", "aa name") != first
