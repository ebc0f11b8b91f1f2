"""The page of one conversation in a browser: keys, folds, selection, texts, live rows, and small screens."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

from app.store.store import Store
from tests.console.conftest import OpenPage
from tests.console.conversations import Writer, calls, drawn, message, results
from tests.console.visitors import Person
from tests.gateway import Gateway

if TYPE_CHECKING:
    from playwright.sync_api import Page


@pytest.fixture(scope="module")
def store(console: Gateway) -> Iterator[Store]:
    store = Store(console.database_url, peppers=[b"p"])
    yield store
    store.close()


@pytest.fixture(scope="module")
def everything(store: Store) -> dict[str, str]:
    return drawn(Writer(store, "ada"))


def _focused(page: Page) -> str:
    """The id of the row that has the focus."""
    found: str = page.evaluate("document.activeElement.closest('li[id]')?.id ?? document.activeElement.tagName")
    return found


def test_keys_go_through_what_is_visible(open_page: OpenPage, owner: Person, everything: dict[str, str]) -> None:
    page = open_page(owner, f"/console/c/{everything['1']}")
    page.keyboard.press("j")
    assert _focused(page) == "t1"
    page.keyboard.press("j")
    assert _focused(page) == "f-t2"
    page.keyboard.press("j")
    assert _focused(page) == "t8"
    page.keyboard.press("k")
    page.keyboard.press("o")
    assert page.locator("#f-t2 > details").get_attribute("open") is not None
    page.keyboard.press("j")
    assert _focused(page) == "t2"
    page.keyboard.press("t")
    tip = _focused(page)
    assert page.locator(f"#{tip} .tag").first.inner_text() == "tip"
    page.keyboard.press("/")
    assert _focused(page) == "INPUT"
    page.keyboard.press("j")
    assert page.locator("#q").input_value() == "j"


def test_a_turn_is_selected_and_closed_without_leaving_its_place(
    open_page: OpenPage, owner: Person, everything: dict[str, str]
) -> None:
    page = open_page(owner, f"/console/c/{everything['1']}")
    page.locator("#f-t2 summary").click()
    page.locator("#t14 .no").click()
    page.wait_for_selector("#t14 #detail")
    assert f"at={everything['14']}" in page.url
    assert page.locator("#f-t2 > details").get_attribute("open") is not None
    assert _focused(page) == "t14"
    page.keyboard.press("k")
    page.keyboard.press("k")
    page.keyboard.press("Enter")
    page.wait_for_selector("#t8 #detail")
    page.keyboard.press("Escape")
    page.wait_for_selector("#detail", state="detached")
    assert "at=" not in page.url
    page.go_back()
    page.wait_for_selector("#detail")


def test_a_jump_to_a_tip_loads_nothing(open_page: OpenPage, owner: Person, everything: dict[str, str]) -> None:
    page = open_page(owner, f"/console/c/{everything['1']}")
    page.evaluate("document.getElementById('main').dataset.same = 'yes'")
    href = page.locator("#tips a").last.get_attribute("href") or ""
    assert href.startswith("#t")
    page.locator("#tips a").last.click()
    assert page.url.endswith(href)
    assert page.evaluate("document.getElementById('main').dataset.same") == "yes"
    page.keyboard.press("t")
    page.locator("#t1 .no").click()
    page.wait_for_selector("#detail")
    assert page.evaluate("document.getElementById('main').dataset.same ?? ''") == ""


def test_ones_own_text_is_there_at_a_key(open_page: OpenPage, owner: Person, store: Store) -> None:
    turn = Writer(store, "ada").turn(says=[message("<i>what I said</i>")])
    page = open_page(owner, f"/console/c/{turn}?at={turn}")
    page.keyboard.press("o")
    page.wait_for_selector("#said pre")
    assert "<i>what I said</i>" in page.locator("#said").inner_text()
    assert page.locator("#said i").count() == 0


def test_anothers_text_waits_for_a_reason(open_page: OpenPage, operator: Person, store: Store) -> None:
    turn = Writer(store, "ada").turn(says=[message("what she said")])
    page = open_page(operator, f"/console/c/{turn}?at={turn}")
    page.keyboard.press("o")
    assert page.evaluate("document.activeElement.id") == "reason"
    assert page.locator("#said pre").count() == 0
    page.keyboard.type("ticket 7")
    page.keyboard.press("Enter")
    page.wait_for_selector("#said pre")
    assert "what she said" in page.locator("#said").inner_text()
    assert [(row.action, row.reason) for row in store.audit.rows(None) if row.subject == turn] == [
        ("show text", "ticket 7")
    ]


def test_the_keys_have_a_list_and_a_switch(open_page: OpenPage, owner: Person, everything: dict[str, str]) -> None:
    page = open_page(owner, f"/console/c/{everything['1']}")
    page.keyboard.press("?")
    page.wait_for_selector("#keys[open]")
    page.locator("#keys-on").uncheck()
    page.locator("#keys button").click()
    page.locator("#t1 .no").focus()
    page.keyboard.press("j")
    assert _focused(page) == "t1"
    page.reload()
    page.keyboard.press("?")
    assert page.locator("#keys[open]").count() == 0
    page.locator("[data-keys]").first.click()
    page.locator("#keys-on").check()
    page.locator("#keys button").click()
    page.keyboard.press("j")
    assert _focused(page) == "t1"


def test_new_turns_are_put_in_and_all_else_stays(open_page: OpenPage, owner: Person, store: Store) -> None:
    writer = Writer(store, "ada")
    last: str | None = None
    for _ in range(6):
        last = writer.turn(last, says=results(1), answers=calls("exec_command"))
    page = open_page(owner, f"/console/c/{last}?at={last}")
    page.locator("#f-t2 summary").click()
    page.locator("#t3 .no").focus()
    page.evaluate("document.getElementById('t3').dataset.same = 'yes'")
    page.evaluate("document.querySelector('#t3 .row').dataset.same = 'yes'")
    live = writer.begin(last or "")
    page.evaluate("document.body.dispatchEvent(new CustomEvent('live:tree'))")
    page.wait_for_selector("li.live")
    assert page.locator("#t6 .row line.l").count() == 2  # a line leads on to the new row
    assert _focused(page) == "t3"
    assert page.evaluate("document.getElementById('t3').dataset.same") == "yes"
    assert page.evaluate("document.querySelector('#t3 .row').dataset.same") == "yes"
    assert page.locator("#f-t2 > details").get_attribute("open") is not None
    assert page.locator("#t6 #detail").count() == 1
    assert store.responses.cancel("ada", live)
    writer.turn(last, says=results(1), answers=calls("apply_patch"))
    page.evaluate("document.body.dispatchEvent(new CustomEvent('live:tree'))")
    page.wait_for_selector("#t7")
    assert page.locator("li.live").count() == 0
    assert "apply_patch" in page.locator("#t7").inner_text()


def test_a_page_follows_its_conversation(open_page: OpenPage, owner: Person) -> None:
    first = owner.create(input="one")["id"]
    page = open_page(owner, f"/console/c/{first}")
    second = owner.create(input="two", previous_response_id=first)["id"]
    page.wait_for_selector("#t2")
    owner.create(input="another two", previous_response_id=first)
    page.wait_for_selector("#t2b")
    assert "newer: 2b" in page.locator("#tips").inner_text()
    assert [row.get_attribute("id") for row in page.locator("li.turn").all()] == ["t1", "t2b", "t2"]
    assert f"at={second}" in (page.locator("#t2 .no").get_attribute("href") or "")


def test_folds_of_a_long_conversation_are_fetched_when_opened(open_page: OpenPage, owner: Person, store: Store) -> None:
    writer = Writer(store, "ada")
    last: str | None = None
    for _ in range(405):
        last = writer.turn(last, says=[], answers=[])
    page = open_page(owner, f"/console/c/{last}")
    assert page.locator("li.turn").count() == 2
    page.locator(".fold summary").click()
    page.wait_for_selector("#t404")
    assert page.locator("li.turn").count() == 405


@pytest.mark.parametrize("width", [320, 768, 1440])
def test_it_fits_every_screen(open_page: OpenPage, owner: Person, everything: dict[str, str], width: int) -> None:
    page = open_page(owner, f"/console/c/{everything['15']}", width)
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    # Beside the tree where there is room, below the row where there is none.
    beside = """() => document.querySelector("#detail .detail-in").getBoundingClientRect().left
        > document.querySelector("#t15b .row").getBoundingClientRect().right"""
    assert page.evaluate(beside) is (width == 1440)


def test_deep_branches_fit_a_small_screen(open_page: OpenPage, owner: Person, store: Store) -> None:
    writer = Writer(store, "ada")
    spine = [writer.turn()]
    for _ in range(8):
        spine.append(writer.turn(spine[-1]))
    for id_ in reversed(spine[:-1]):
        writer.turn(id_, says=[message(id_)])
    page = open_page(owner, f"/console/c/{spine[0]}", 320)
    assert page.evaluate("document.documentElement.scrollWidth") <= 320
    assert page.locator("#tree.lanes-6").count() == 1
    outside = """[...document.querySelectorAll(".g circle")].filter((node) =>
        node.getBoundingClientRect().right > node.closest(".g").getBoundingClientRect().right + 1).length"""
    assert page.evaluate(outside) == 0


def test_all_of_it_works_without_script(open_page: OpenPage, owner: Person, everything: dict[str, str]) -> None:
    page = open_page(owner, f"/console/c/{everything['1']}", java_script_enabled=False)
    page.locator("#t14 .no").click()
    page.wait_for_selector("#detail")
    page.locator("#text summary").click()
    page.locator("#text button").click()
    page.wait_for_selector("h1:has-text('Text of turn 14')")
    assert "Done." in page.locator("#said").inner_text()
