from __future__ import annotations

import time
from dataclasses import replace

import pytest

from app.contract.limits import Limits, budgets
from app.errors import ConfigurationError
from app.store.store import Store
from tests.relay.conftest import eventually
from tests.store import rows
from tests.store.conftest import PEPPER

#: Two seconds are promised; a loaded machine gets one more.
REVOKED_WITHIN = 3.0


def test_a_token_is_recognised_by_its_secret(store: Store) -> None:
    token, secret = store.tokens.create("laptop", "ada", models=["gpt-*", "small"], tools=["docs"], stores=False)
    assert secret.startswith("ap_")
    assert len(secret) == 46
    assert token.prefix == secret[:9]
    assert store.tokens.all() == [token]
    assert store.tokens.check(secret) == token
    assert (token.owner, token.models, token.tools, token.stores) == ("ada", ("gpt-*", "small"), ("docs",), False)


def test_a_token_uses_the_tool_servers_that_it_names(store: Store) -> None:
    plain, _ = store.tokens.create("plain", "ada")
    some, _ = store.tokens.create("some", "ada", tools=["docs", "search-?"])
    assert [plain.may_use_tools(label) for label in ("docs", "")] == [False, False]
    labels = ("docs", "search-1", "search-12", "Docs", "docs2")
    assert [some.may_use_tools(label) for label in labels] == [True, True, False, False, False]
    with pytest.raises(ConfigurationError, match="tools"):
        store.tokens.create("none", "ada", tools=[])


@pytest.mark.parametrize(
    "wrong",
    ["", "ap_", "ap_nothing", "' OR 1=1 --", "%", "\x00", "é", "\ud800", "x" * 10_000],
    ids=lambda wrong: ascii(wrong[:12]),
)
def test_a_wrong_secret_finds_no_token(store: Store, wrong: str) -> None:
    store.tokens.create("laptop", "ada")
    assert store.tokens.check(wrong) is None


def test_a_secret_is_exact(store: Store) -> None:
    _, secret = store.tokens.create("laptop", "ada")
    assert all(
        store.tokens.check(wrong) is None for wrong in (secret + " ", secret[:-1], secret.swapcase(), " " + secret)
    )


def test_the_secret_is_not_in_the_database_and_needs_the_pepper(store: Store, database_url: str) -> None:
    _, secret = store.tokens.create("laptop", "ada")
    assert secret not in repr(rows.execute(database_url, "SELECT * FROM token"))
    other = Store(database_url, peppers=[b"another"])
    assert other.tokens.check(secret) is None
    other.close()


def test_after_a_rotation_tokens_of_the_old_secret_key_are_still_taken(store: Store, database_url: str) -> None:
    before, secret = store.tokens.create("before", "ada")
    rotated = Store(database_url, peppers=[b"new", PEPPER])
    after, fresh = rotated.tokens.create("after", "ada")
    assert (rotated.tokens.check(secret), rotated.tokens.check(fresh)) == (before, after)
    assert rotated.tokens.check(secret + "x") is None
    assert store.tokens.check(fresh) is None
    rotated.close()
    forgotten = Store(database_url, peppers=[b"new"])
    assert forgotten.tokens.check(secret) is None
    assert forgotten.tokens.check(fresh) is not None
    forgotten.close()


def test_revoked_and_expired_tokens_are_not_found(store: Store) -> None:
    _, revoked = store.tokens.create("revoked", "ada")
    _, expired = store.tokens.create("expired", "ada", expires_at=int(time.time()))
    assert store.tokens.check(revoked) is not None
    assert store.tokens.revoke("revoked")
    assert not store.tokens.revoke("revoked")
    assert not store.tokens.revoke("unknown")
    assert store.tokens.check(revoked) is None
    assert store.tokens.check(expired) is None
    assert [token.revoked_at is None for token in store.tokens.all()] == [False, True]


def test_another_process_refuses_a_revoked_token_soon(store: Store, database_url: str) -> None:
    _, secret = store.tokens.create("laptop", "ada")
    other = Store(database_url, peppers=[PEPPER])
    assert other.tokens.check(secret) is not None
    store.tokens.revoke("laptop")
    eventually(lambda: other.tokens.check(secret) is None, "the refusal", REVOKED_WITHIN)
    other.close()


def test_a_token_made_after_its_secret_was_refused_is_taken_at_once(store: Store) -> None:
    _, secret = store.tokens.create("first", "ada")
    assert store.tokens.check(secret + "x") is None
    _, second = store.tokens.create("second", "ada")
    assert store.tokens.check(second) is not None


def test_a_name_is_given_once(store: Store) -> None:
    store.tokens.create("laptop", "ada")
    with pytest.raises(ConfigurationError, match="laptop") as caught:
        store.tokens.create("laptop", "bob")
    assert caught.value.fix
    store.tokens.create("Laptop", "ada")


def test_a_revoked_token_gives_its_name_away_and_keeps_its_own_history(store: Store) -> None:
    name = "n" * 191
    made = []
    for _ in range(3):
        token, secret = store.tokens.create(name, "ada")
        made.append((token, secret))
        store.tokens.revoke(name)
    latest, secret = store.tokens.create(name, "bob", models=["small"])
    assert store.tokens.check(secret) == latest
    assert all(store.tokens.check(old) is None for _, old in made)
    known = {token.key: token for token in store.tokens.all()}
    assert len({token.name for token in known.values()}) == len(known) == 4
    assert [known[token.key].owner for token, _ in made] == ["ada"] * 3
    assert known[latest.key].name == name
    with pytest.raises(ConfigurationError):
        store.tokens.create(name, "eve")


@pytest.mark.parametrize("models", [(), [""], ["gpt-*", " "]])
def test_no_token_is_made_with_an_empty_list_of_models(store: Store, models: list[str]) -> None:
    with pytest.raises(ConfigurationError, match="models"):
        store.tokens.create("laptop", "ada", models=models)
    assert store.tokens.all() == []


@pytest.mark.parametrize(("name", "owner"), [("", "ada"), ("a", ""), ("a ", "ada"), ("a", " ada"), ("a" * 200, "ada")])
def test_a_name_that_the_database_could_mistake_is_refused(store: Store, name: str, owner: str) -> None:
    with pytest.raises(ConfigurationError):
        store.tokens.create(name, owner)


def test_its_use_is_noted_behind_the_callers_back(store: Store, database_url: str) -> None:
    token, secret = store.tokens.create("laptop", "ada")
    for _ in range(5):
        store.tokens.check(secret)
    store.close()
    reader = Store(database_url, peppers=[PEPPER])
    (found,) = reader.tokens.all()
    assert found.last_used_at is not None
    assert found.last_used_at >= token.created_at
    reader.close()


def test_a_check_is_answered_from_memory_for_some_seconds(store: Store, database_url: str) -> None:
    token, secret = store.tokens.create("laptop", "ada")
    assert store.tokens.check(secret) == token
    rows.execute(database_url, "DELETE FROM token")
    assert store.tokens.check(secret) == token


def test_limits_of_a_token_are_changed_and_known_at_once_here(store: Store) -> None:
    limits = Limits(rpm=60, tpm=0, budgets=budgets(["2Mtok/day"]))
    token, secret = store.tokens.create("laptop", "ada", limits=limits)
    assert (token.limits, store.tokens.named("laptop"), store.tokens.of_key(token.key)) == (limits, token, token)
    other, _ = store.tokens.create("other", "ada")
    changed = replace(token, limits=Limits(concurrency=2), models=("small",), stores=False, tools=("docs",))
    assert store.tokens.update(changed)
    assert store.tokens.check(secret) == changed
    assert store.tokens.named("other") == other
    store.tokens.revoke("laptop")
    assert not store.tokens.update(token)
    assert store.tokens.named("laptop") is None


def test_after_a_rotation_of_a_token_both_secrets_work_until_the_overlap_ends(store: Store, database_url: str) -> None:
    token, first = store.tokens.create("laptop", "ada", models=["small"], tools=["docs"])
    assert store.tokens.rotate("unknown", 60) is None
    rotated = store.tokens.rotate("laptop", 3600)
    assert rotated is not None
    changed, second, until = rotated
    assert second != first
    assert replace(changed, prefix=token.prefix) == token
    assert changed.prefix == second[:9]
    assert store.tokens.check(second) == changed
    old = store.tokens.check(first)
    assert old is not None
    assert (old.key, old.owner, old.models, old.tools) == (token.key, "ada", ("small",), ("docs",))
    assert store.tokens.earlier_secrets() == {token.key: until}
    rows.execute(database_url, "UPDATE former_secret SET expires_at = 1")
    later = Store(database_url, peppers=[PEPPER])
    assert later.tokens.check(first) is None
    assert later.tokens.check(second) is not None
    assert later.tokens.earlier_secrets() == {}
    later.close()


def test_a_later_rotation_never_makes_an_earlier_secret_last_longer(store: Store, database_url: str) -> None:
    _, first = store.tokens.create("laptop", "ada")
    _, second, _ = store.tokens.rotate("laptop", 60) or pytest.fail("no token")
    _, third, _ = store.tokens.rotate("laptop", 86_400) or pytest.fail("no token")
    ends = [end for (end,) in rows.execute(database_url, "SELECT expires_at FROM former_secret ORDER BY expires_at")]
    assert ends[1] - ends[0] > 80_000
    assert all(store.tokens.check(secret) is not None for secret in (first, second, third))
    _, fourth, _ = store.tokens.rotate("laptop", 0) or pytest.fail("no token")
    assert [store.tokens.check(secret) is None for secret in (first, second, third, fourth)] == [True] * 3 + [False]
    assert rows.count(database_url, "former_secret") == 0


def test_sessions_of_the_console_end_with_the_secret_that_has_opened_them(store: Store, database_url: str) -> None:
    token, first = store.tokens.create("laptop", "ada", console="owner")
    other, _ = store.tokens.create("tablet", "ada", console="owner")
    sessions = store.console_sessions
    opened, asking, unrelated = sessions.open(token), sessions.open(token), sessions.open(other)
    store.tokens.rotate("laptop", 3600)
    old = store.tokens.check(first)
    assert old is not None
    late = sessions.open(old)
    assert all(sessions.find(secret) for secret in (opened, asking, unrelated, late))
    ends = [end for (end,) in rows.execute(database_url, "SELECT ends_at FROM console_session ORDER BY ends_at")]
    assert ends[2] - time.time() <= 3600 < ends[3] - time.time()
    found = sessions.find(asking)
    assert found is not None
    store.tokens.rotate("laptop", 0, by=found.hash)
    assert [bool(sessions.find(secret)) for secret in (opened, late, asking, unrelated)] == [False, False, True, True]


def test_an_old_secret_ends_with_its_token(store: Store) -> None:
    token, first = store.tokens.create("laptop", "ada", expires_at=int(time.time()) + 30)
    store.tokens.rotate("laptop", 3600)
    old = store.tokens.check(first)
    assert old is not None
    assert old.expires_at == token.expires_at
    store.tokens.revoke("laptop")
    assert store.tokens.check(first) is None
    assert store.tokens.rotate("laptop", 3600) is None


def test_another_process_refuses_a_secret_that_was_rotated_away_soon(store: Store, database_url: str) -> None:
    _, first = store.tokens.create("laptop", "ada")
    other = Store(database_url, peppers=[PEPPER])
    assert other.tokens.check(first) is not None
    _, second, _ = store.tokens.rotate("laptop", 0) or pytest.fail("no token")
    assert other.tokens.check(second) is not None
    eventually(lambda: other.tokens.check(first) is None, "the refusal", REVOKED_WITHIN)
    other.close()


def test_a_rotation_hashes_the_new_secret_with_the_newest_key(store: Store, database_url: str) -> None:
    _, first = store.tokens.create("laptop", "ada")
    other = Store(database_url, peppers=[b"new", PEPPER])
    _, second, _ = other.tokens.rotate("laptop", 3600) or pytest.fail("no token")
    assert other.tokens.check(first) is not None
    assert other.tokens.check(second) is not None
    assert store.tokens.check(second) is None
    other.close()
