"""The audit: operators read everything, an owner what concerns them, page by page and by filters."""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest

from app.contract.records import Token
from app.store.audit import Audit
from app.store.store import Store
from tests.console.visitors import Person
from tests.gateway import Gateway

OPS = Token(1, "ops-console", "ops", "ap_ops")
BOB = Token(2, "bob-console", "bob", "ap_bob")
RESPONSE = f"resp_{'7' * 42}cf0ea7"


@pytest.fixture(scope="module")
def audit(console: Gateway) -> Iterator[Audit]:
    store = Store(console.database_url, peppers=[b"p"])
    yield store.audit
    store.close()


@pytest.fixture(scope="module", autouse=True)
def _rows(audit: Audit) -> None:
    audit.record(OPS, "show text", RESPONSE, owner="ada", reason="<i>ada asked why</i> it answered in French")
    audit.record(OPS, "pause", "scripted", reason="an upgrade")
    audit.record(BOB, "rotate token", "bob-console", owner="bob", reason="the old secret works for 1h")
    for number in range(120):
        audit.record(OPS, "cancel", f"task {number}", owner="carol")


def _deeds(page: str) -> list[str]:
    rows = re.findall(r'<th scope="row">(.*?)</th>', page, re.S)
    return [re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", row)).strip() for row in rows]


def test_an_operator_reads_all_rows_page_by_page(operator: Person) -> None:
    seen: list[str] = []
    path: str | None = "/console/audit?action=cancel"
    while path:
        page = operator.get(path).text
        seen += _deeds(page)
        found = re.search(r'<a href="([^"]+)" rel="next">', page)
        path = found[1].replace("&amp;", "&") if found else None
    assert seen == [f"cancelled task {number}" for number in reversed(range(120))]


@pytest.mark.parametrize(
    ("filters", "first"),
    [
        ("action=pause", "paused channel scripted reason: “an upgrade”"),
        ("owner=bob", "gave another secret to token bob-console the old secret works for 1h"),
        ("actor=bob", "gave another secret to token bob-console the old secret works for 1h"),
        ("actor=ops&owner=carol", "cancelled task 119"),
    ],
)
def test_rows_are_filtered(operator: Person, filters: str, first: str) -> None:
    assert _deeds(operator.get(f"/console/audit?{filters}").text)[0] == first


def test_a_filter_that_matches_nothing_names_itself(operator: Person) -> None:
    page = operator.get("/console/audit?actor=nobody&action=export").text
    assert "No row matches actor nobody, action export." in page


def test_an_owner_reads_who_looked_at_what_is_theirs_and_why(owner: Person) -> None:
    page = owner.get("/console/audit").text
    assert _deeds(page) == [
        "looked at the text of a response reason: “&lt;i&gt;ada asked why&lt;/i&gt; it answered in French”"
    ]
    assert f'href="/console/c/{RESPONSE}"' in page
    assert "carol" not in page


def test_an_owner_reads_nothing_of_others_by_a_filter(owner: Person, other_owner: Person) -> None:
    assert _deeds(owner.get("/console/audit?owner=carol").text) == []
    assert _deeds(owner.get("/console/audit?actor=bob").text) == []
    assert len(_deeds(other_owner.get("/console/audit").text)) == 1


@pytest.mark.parametrize("before", ["x", "-1", "9" * 30, "١", ""])
def test_a_key_that_is_none_shows_the_newest(operator: Person, before: str) -> None:
    assert _deeds(operator.get(f"/console/audit?before={before}&action=cancel").text)[0] == "cancelled task 119"


def test_the_page_of_people_shows_the_newest_rows(operator: Person, owner: Person) -> None:
    page = operator.get("/console/people").text
    assert _deeds(page.partition('id="au"')[2])[:2] == ["cancelled task 119", "cancelled task 118"]
    assert "ada asked why" in owner.get("/console/people").text
