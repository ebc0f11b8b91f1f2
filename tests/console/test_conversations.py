"""The list of conversations, and the page that asks before one is deleted."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pytest

from tests.console.conftest import OpenPage
from tests.console.visitors import Person
from tests.gateway import Gateway

NewPerson = Callable[..., Person]


@pytest.fixture(scope="module")
def writer(new_person: NewPerson) -> Person:
    """An owner with conversations: two turns with a branch, an unstored one, and one with markup in its text."""
    person = new_person("writer-console", owner="writer", role="owner").sign_in()
    first = person.create(input="fix the flaky test")
    for says in ("go on", "or so"):
        person.create(input=says, previous_response_id=first["id"])
    person.create(input="of this nothing stays", store=False)
    person.create(input="<b>bold</b> & <script>alert(1)</script> words")
    person.create(input="call </script><img src=x onerror=alert(1)> it")
    return person


def listed(person: Person, query: str = "") -> str:
    answer = person.get(f"/console/conversations{query}")
    assert answer.status_code == 200, answer.text
    return answer.text


def rows(page: str) -> list[str]:
    return re.findall(r"<tr><td.*?</tr>", page, flags=re.DOTALL)


def row(page: str, words: str) -> str:
    found = [row for row in rows(page) if words in row]
    assert len(found) == 1, page
    return found[0]


def root_of(page: str, words: str) -> str:
    found = re.search(r'href="/console/c/(resp_\w+)"', row(page, words))
    assert found
    return found[1]


def test_an_owner_reads_the_own_titles(writer: Person) -> None:
    page = listed(writer)
    mine = row(page, "fix the flaky test")
    assert "3 turns, 1 branch" in mine
    assert "demo" in mine
    assert "of this nothing stays" not in page
    assert "not stored" in page
    assert "onerror=alert(1)&gt; it" in page
    assert "<img" not in page
    assert "&lt;b&gt;bold&lt;/b&gt; &amp;" in page
    assert "4 in 24 hours, 4 kept" in page.replace("\u202f", " ")
    assert 'name="owner"' not in page


def test_an_operator_sees_all_and_no_text_of_others(writer: Person, operator: Person, other_owner: Person) -> None:
    root = root_of(listed(writer), "fix the flaky test")
    page = listed(operator, f"?q={root}")
    assert "text hidden" in row(page, root)
    assert "writer, " in row(page, root)
    assert "flaky" not in listed(operator, "?owner=writer")
    assert len(rows(listed(operator, "?owner=writer"))) == 4
    assert root not in listed(other_owner)
    assert rows(listed(other_owner, f"?q={root}")) == []
    assert rows(listed(other_owner, "?owner=writer")) == []


@pytest.mark.parametrize(
    ("query", "count"),
    [
        ("?has=branch", 1),
        ("?has=unstored", 1),
        ("?has=error", 0),
        ("?model=demo", 4),
        ("?model=large", 0),
        ("?client=codex", 0),
        ("?before=1-1", 0),
        ("?model=demo&before=9999999999-1", 4),
    ],
)
def test_the_list_is_filtered(writer: Person, query: str, count: int) -> None:
    page = listed(writer, query)
    assert len(rows(page)) == count
    assert ("newest 10\u202f000" in page) == (query[1] in "hmc")


def test_a_conversation_is_found_by_an_id_its_beginning_or_its_end(writer: Person) -> None:
    root = root_of(listed(writer), "fix the flaky test")
    for text in (root, root[:30], root[-6:], f"…{root[-6:]}"):
        assert root in listed(writer, f"?q={text}")
    assert "No conversation matches." in listed(writer, "?q=resp_0000000000000000")


@pytest.mark.parametrize("query", ["?has=nothing", "?q=two words", "?before=x", "?before=1-²", "?q=%25"])
def test_what_cannot_be_read_is_said(writer: Person, query: str) -> None:
    assert writer.get(f"/console/conversations{query}").status_code == 400


def test_who_has_none_is_shown_a_way_on(new_person: NewPerson) -> None:
    page = listed(new_person("new-console", owner="new", role="owner").sign_in())
    assert "No conversations yet." in page
    assert 'href="/console/connect"' in page


# --- deleting -------------------------------------------------------------------------------------------------------


def _made(person: Person, says: str) -> list[dict[str, Any]]:
    first = person.create(input=says)
    return [first, *(person.create(input="more", previous_response_id=first["id"]) for _ in range(2))]


def test_a_conversation_is_deleted_after_a_page_has_asked(console: Gateway, owner: Person) -> None:
    made = _made(owner, "delete me")
    stays = owner.create(input="stay here")
    place = f"/console/conversations/{made[1]['id']}/delete"
    asks = owner.get(place)
    assert asks.status_code == 200
    assert "Delete 3 turns" in asks.text
    answer = owner.post(place)
    assert (answer.status_code, answer.headers["Location"]) == (303, "/console/conversations")
    for each in made:
        assert console.get(f"/responses/{each['id']}", token=owner.token).status_code == 404
    assert console.get(f"/responses/{stays['id']}", token=owner.token).status_code == 200
    page = listed(owner)
    assert "delete me" not in page
    assert made[0]["id"] not in page
    assert "Nothing of this conversation is left to delete" in owner.get(place).text


def test_only_its_owner_deletes_a_conversation(
    console: Gateway, owner: Person, other_owner: Person, operator: Person
) -> None:
    made = _made(owner, "mine alone")
    place = f"/console/conversations/{made[0]['id']}/delete"
    for person in (other_owner, operator):
        assert person.get(place).status_code == 404
        assert person.post(place).status_code == 404
    assert owner.send("POST", place, data={}, allow_redirects=False).status_code == 403
    assert owner.get("/console/conversations/resp_none/delete").status_code == 404
    assert console.get(f"/responses/{made[2]['id']}", token=owner.token).status_code == 200


def test_an_unstored_conversation_has_nothing_to_delete(owner: Person) -> None:
    made = owner.create(input="gone", store=False)
    page = owner.get(f"/console/conversations/{made['id']}/delete")
    assert page.status_code == 200
    assert "it was not stored" in page.text
    assert '<button class="btn danger">' not in page.text


# --- in a browser ---------------------------------------------------------------------------------------------------


def test_the_list_is_gone_through_by_keys_and_fits_a_phone(writer: Person, open_page: OpenPage) -> None:
    page = open_page(writer, "/console/conversations")
    page.keyboard.press("j")
    page.keyboard.press("j")
    focused = page.evaluate("document.activeElement.getAttribute('href')")
    assert focused == page.locator("[data-row]").nth(1).get_attribute("href")
    page.keyboard.press("/")
    assert page.evaluate("document.activeElement.id") == "q"
    narrow = open_page(writer, "/console/conversations?has=branch", width=320, scheme="dark")
    assert narrow.evaluate("document.documentElement.scrollWidth <= window.innerWidth")
    narrow.keyboard.press("j")
    narrow.keyboard.press("Enter")
    narrow.wait_for_url("**/console/c/**")
