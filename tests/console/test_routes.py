"""Every route of the console, for everyone: who gets what, and what a request that changes something must prove."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import count
from typing import Any

import pytest
import requests

from app import ids
from tests.console.routes import ROUTES, UNKNOWN, Route, console_rules, rule_of
from tests.console.visitors import Person
from tests.gateway import Gateway
from tests.store import rows
from tests.upstream import ScriptedUpstream

NewPerson = Callable[..., Person]

#: Routes whose rule is a word of its own, not a path.
_CATCH_ALL = {"GET /console/<path:rest>", "GET /console/static/<name>"}
READS = [route for route in ROUTES if route.method == "GET"]
CHANGES = [route for route in ROUTES if route.method == "POST"]
GUARDED = [route for route in ROUTES if not route.is_public]
#: A channel that no request uses: the routes take it out of service.
SPARE = "spare"
OTHERS_DO_NOT_SEE = [route for route in ROUTES if route.other == 404 and set(route.placeholders) & UNKNOWN.keys()]


def _name(route: Route) -> str:
    return route.name


def test_every_route_is_in_the_table(tmp_path_factory: pytest.TempPathFactory) -> None:
    with console_rules(tmp_path_factory.mktemp("rules")) as rules:
        known = {rule_of(route, rules) for route in ROUTES} | _CATCH_ALL
        assert rules.keys() - known == set(), "give these an entry in routes.ROUTES"
        gone = [route.name for route in ROUTES if rule_of(route, rules) is None]
        assert gone == ["GET /console/static/style.css", "GET /console/no-such-page"], "these are no routes any more"


@dataclass
class Team:
    """Ada owns everything in the paths; bob and the operator try to get it."""

    gateway: Gateway
    ada: Person
    bob: Person
    operator: Person
    revoked: Person
    turn: str
    # Long enough to be found in a page as nothing else. A token that a page makes gets the number after the largest.
    _keys: Iterator[int] = field(default_factory=lambda: count(7_000_000_000, 1000))

    def path(self, route: Route, values: Mapping[str, str] | None = None) -> str:
        return route.path.format(**{name: (values or {}).get(name) or self.thing(name) for name in route.placeholders})

    def thing(self, name: str) -> str:
        return {
            "turn": lambda: self.turn,
            "fresh": self._fresh,
            "token": self._token,
            "channel": lambda: SPARE,
            "server": lambda: "docs",
        }[name]()

    def _fresh(self) -> str:
        return str(self.ada.create(input="for one request")["id"])

    def _token(self) -> str:
        """The key of a token that nothing has happened to yet."""
        name, key = ids.new("t"), next(self._keys)
        sql = (
            "INSERT INTO token (pk, name, owner, hash, prefix, models, created_at, keeps)"
            " VALUES (?, ?, 'ada', ?, 'ap_', '[]', 1, 1)"
        )
        rows.execute(self.gateway.database_url, sql, (key, name, name))
        return str(key)


@pytest.fixture(scope="module")
def console(tmp_path_factory: pytest.TempPathFactory, console_upstream: ScriptedUpstream) -> Iterator[Gateway]:
    channels = [
        {"name": "demo", "format": "demo", "models": ["demo"]},
        console_upstream.channel(name="scripted"),
        console_upstream.channel(name=SPARE, models=["spare"]),
    ]
    with Gateway(tmp_path_factory.mktemp("routes"), channels) as gateway:
        yield gateway


@pytest.fixture(autouse=True)
def in_service(console: Gateway) -> Iterator[None]:
    """No test finds a channel that another one has taken out of service: which others have run, and where, varies."""
    yield
    rows.execute(console.database_url, "DELETE FROM channel_pause")


@pytest.fixture(scope="module")
def team(console: Gateway, owner: Person, other_owner: Person, operator: Person, new_person: NewPerson) -> Team:
    revoked = new_person("eve-console", owner="ada", role="operator").sign_in()
    assert revoked.csrf
    console.command("tokens", "revoke", revoked.name)
    return Team(console, owner, other_owner, operator, revoked, owner.create(input="of ada")["id"])


@pytest.fixture
def signed_in(team: Team) -> Iterator[Team]:
    """A person who was signed out signs in again."""
    yield team
    for person in (team.ada, team.bob, team.operator):
        if not person.cookies:
            person.sign_in()


def _send(person: Person, route: Route, path: str, csrf: str | None = None, **keys: Any) -> requests.Response:
    """As the page sends it. An endless answer is not read."""
    if route.method == "GET":
        keys.setdefault("allow_redirects", False)
        with person.get(path, stream=route.endless, **keys) as answer:
            return answer
    proof = person.csrf if csrf is None else csrf
    keys = {"allow_redirects": False, **keys}
    if route.json is not None:
        keys["headers"] = {"X-CSRF-Token": proof, **keys.get("headers", {})}
        return person.send("POST", path, json=route.json, **keys)
    return person.send("POST", path, data={"csrf": proof, **route.form}, **keys)


# --- who gets what


@pytest.mark.parametrize("route", ROUTES, ids=_name)
def test_each_person_gets_what_is_theirs(signed_in: Team, route: Route) -> None:
    """The others first, so that nothing has happened to it yet."""
    team = signed_in
    got = {
        name: _send(person, route, team.path(route)).status_code
        for name, person in (("other", team.bob), ("owner", team.ada), ("operator", team.operator))
    }
    assert got == {"owner": route.owner, "other": route.other, "operator": route.operator}


@pytest.mark.parametrize("route", ROUTES, ids=_name)
def test_without_a_session_there_is_nothing(team: Team, route: Route) -> None:
    """Neither with none at all, nor with that of a revoked token, nor with a token instead."""
    path, keys = team.path(route), {"allow_redirects": False, "timeout": 60}
    form = {"json": route.json} if route.json is not None else {"data": {"csrf": "0" * 64, **route.form}}
    origin = {"Sec-Fetch-Site": "same-origin"}
    url = team.gateway.url + path
    tries = [
        requests.request(route.method, url, headers=origin, **form, **keys),
        requests.request(
            route.method, url, headers={**origin, "Authorization": f"Bearer {team.operator.token}"}, **form, **keys
        ),
        _send(team.revoked, route, path, csrf=team.revoked._csrf),
    ]
    assert [answer.status_code for answer in tries] == [route.without_session] * 3
    for answer in tries:
        if route.without_session == 303 and not route.is_public:
            assert answer.headers["Location"].startswith("/console/sign-in?next=")
        assert team.turn in path or team.turn not in answer.text


@pytest.mark.parametrize("route", OTHERS_DO_NOT_SEE, ids=_name)
def test_what_another_owner_has_is_answered_as_what_never_existed(team: Team, route: Route) -> None:
    real = {name: team.thing(name) for name in route.placeholders}
    answers = [_send(team.bob, route, team.path(route, values)) for values in (real, {**real, **UNKNOWN})]
    assert answers[0].status_code == answers[1].status_code
    assert _normal(answers[0], real) == _normal(answers[1], UNKNOWN)


_NONCE = re.compile(r"nonce-?=?\"?[\w-]+")
_OF_THE_REQUEST = ("X-Request-Id", "OpenAI-Processing-Ms", "Date", "Content-Length")


#: Characters of a value that stands nowhere by chance.
_TELLING = 20


def _normal(answer: requests.Response, values: Mapping[str, str]) -> tuple[str, dict[str, str]]:
    """The answer without what differs from request to request."""

    def plain(text: str) -> str:
        for name, value in values.items():
            # The short key of a token may also stand in `utf-8` and in hashes of files, and no answer names it.
            if len(value) >= _TELLING:
                text = text.replace(value, f"({name})")
        return _NONCE.sub("nonce", text)

    headers = {name: plain(value) for name, value in answer.headers.items() if name not in _OF_THE_REQUEST}
    return plain(answer.text), headers


# --- methods


@pytest.mark.parametrize("route", READS, ids=_name)
def test_head_is_the_same_without_a_body_and_options_says_the_methods(signed_in: Team, route: Route) -> None:
    path = signed_in.path(route)
    if not route.endless:
        head = signed_in.ada.send("HEAD", path, allow_redirects=False)
        assert (head.status_code, head.content) == (route.owner, b"")
    options = signed_in.ada.send("OPTIONS", path)
    assert (options.status_code, options.content) == (200, b"")
    assert "GET" in options.headers["Allow"]


@pytest.mark.parametrize("route", CHANGES, ids=_name)
def test_a_get_changes_nothing(signed_in: Team, route: Route) -> None:
    """A link can make a browser send it. Where the same path has a page, this is the page."""
    path = signed_in.path(route)
    before = _written(signed_in)
    answer = signed_in.operator.get(path, params={"csrf": signed_in.operator.csrf, **route.form}, allow_redirects=False)
    assert answer.status_code in (200, 403, 404, 405)
    assert _written(signed_in) == before


@pytest.mark.parametrize("method", ["PUT", "PATCH", "DELETE"])
def test_there_are_no_other_methods(team: Team, method: str) -> None:
    for route in ROUTES:
        assert team.operator.send(method, team.path(route)).status_code == 405, route.name


# --- forms


@pytest.mark.parametrize("route", [route for route in CHANGES if not route.is_public], ids=_name)
def test_a_request_without_its_proof_changes_nothing(team: Team, route: Route) -> None:
    path = team.path(route)
    before = _written(team)
    for csrf in ("", "0" * 64, team.bob.csrf):
        assert _send(team.ada, route, path, csrf=csrf).status_code == 403
    for origin in ({"Sec-Fetch-Site": "cross-site"}, {"Sec-Fetch-Site": None, "Origin": "http://evil.example"}):
        assert _send(team.ada, route, path, headers=origin).status_code == 403
    assert _written(team) == before


def _written(team: Team) -> list[Any]:
    """What the console's forms write."""
    url = team.gateway.database_url
    return [
        *(rows.count(url, table) for table in ("console_session", "audit")),
        # Those with their content: they are there before the answer.
        rows.execute(url, "SELECT COUNT(*) FROM response WHERE kept = 1"),
        rows.execute(url, "SELECT name, revoked_at, hash, limits, models FROM token ORDER BY pk"),
    ]
