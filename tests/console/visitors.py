"""People at the console: clients that sign in with a token and send forms as a browser does."""

from __future__ import annotations

import re
from collections.abc import Mapping
from types import TracebackType
from typing import Any, Self

import requests

from tests.gateway import Gateway

_CSRF = re.compile(r'<meta name="csrf" content="([0-9a-f]+)">')


class Person:
    """One person with a token, and with a session from `sign_in` on."""

    def __init__(
        self, gateway: Gateway, name: str, *, owner: str, role: str | None, options: tuple[str, ...] = ()
    ) -> None:
        self.gateway, self.name, self.owner, self.role = gateway, name, owner, role
        right = ("--console", role) if role else ()
        self.token = gateway.new_token(name, "--owner", owner, *right, *options)
        self.http = requests.Session()
        self.http.trust_env = False
        self._csrf = ""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.http.close()

    @property
    def cookies(self) -> dict[str, str]:
        return {cookie.name: cookie.value or "" for cookie in self.http.cookies}

    def sign_in(self) -> Self:
        answer = self.send("POST", "/console/sign-in", data={"token": self.token}, allow_redirects=False)
        assert answer.status_code == 303, answer.text
        return self

    @property
    def csrf(self) -> str:
        """The CSRF token of the session, from a page."""
        if not self._csrf:
            found = _CSRF.search(self.get("/console/overview").text)
            assert found, "the page has no CSRF token"
            self._csrf = found[1]
        return self._csrf

    def get(self, path: str, **keys: Any) -> requests.Response:
        return self.send("GET", path, **keys)

    def post(self, path: str, form: dict[str, Any] | None = None, **keys: Any) -> requests.Response:
        """Sends a form with its CSRF token. Redirects are not followed, so that a test sees the 303."""
        return self.send("POST", path, data={"csrf": self.csrf, **(form or {})}, **{"allow_redirects": False, **keys})

    def send(
        self, method: str, path: str, headers: Mapping[str, str | None] | None = None, **keys: Any
    ) -> requests.Response:
        """As a browser of today sends it: it names where the request comes from. None leaves a header out."""
        origin = {"Sec-Fetch-Site": "same-origin"}
        if method != "GET":
            origin["Origin"] = self.gateway.url
        answer = self.http.request(
            method, self.gateway.url + path, headers={**origin, **(headers or {})}, **{"timeout": 60, **keys}
        )
        if "Set-Cookie" in answer.headers:
            # The CSRF token of a session ends with it.
            self._csrf = ""
        return answer

    # --- the API, with the same token

    def create(self, **body: Any) -> dict[str, Any]:
        """A response of this person, as JSON."""
        answer = self.gateway.post("/responses", {"model": "demo", "input": "hello", **body}, token=self.token)
        assert answer.status_code == 200, answer.text
        value: dict[str, Any] = answer.json()
        return value
