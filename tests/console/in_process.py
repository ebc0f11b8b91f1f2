"""The application in this process, for what only its inside shows: the statements of a page, and its time."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flask.testing import FlaskClient

from app import create_app
from app.settings import Settings
from app.store.database import Session
from app.store.store import Store
from app.web.application import Application

TABLE = "version: 1\nchannels:\n  - {name: demo, format: demo, models: [demo]}\n"
#: What a session costs, and what opens and ends a transaction.
_BESIDE = ("FROM console_session", "UPDATE console_session", "BEGIN", "COMMIT", "PRAGMA", "SET ")


@dataclass(frozen=True, slots=True)
class Measured:
    status: int
    milliseconds: float
    statements: list[str]
    """Without those of the session."""


class Console:
    """One application on a database that may be full already."""

    def __init__(self, folder: Path, database_url: str, table: str = TABLE) -> None:
        channels = folder / "channels.yaml"
        channels.write_text(table)
        self.settings = Settings(database_url=database_url, channels=channels, secret_key="k" * 43)
        self.store = Store(database_url, peppers=self.settings.keys_for("tokens"))
        self.store.schema.upgrade()
        self.application = create_app(self.settings)
        assert isinstance(self.application, Application)

    def close(self) -> None:
        self.application.extensions["antiphon"].close()
        self.store.close()

    def person(self, name: str, owner: str, role: str) -> Visitor:
        token, secret = self.store.tokens.create(name, owner, console=role)
        client = self.application.test_client()
        client.set_cookie("antiphon-80", self.store.console_sessions.open(token), domain="localhost")
        return Visitor(client, secret)


@dataclass(frozen=True, slots=True)
class Visitor:
    client: FlaskClient
    token: str

    def create(self, **body: Any) -> str:
        return str(self.post("/v1/responses", {"model": "demo", "input": "hello", **body})["id"])

    def post(self, path: str, body: Mapping[str, Any]) -> Any:
        answer = self.client.post(path, json=body, headers={"Authorization": f"Bearer {self.token}"})
        assert answer.status_code == 200, answer.text
        return answer.get_json()

    def measure(self, path: str) -> Measured:
        with _statements() as seen:
            began = time.perf_counter()
            with self.client.get(path) as answer:
                assert answer.data
            took = (time.perf_counter() - began) * 1000
        return Measured(answer.status_code, took, seen)

    def time(self, path: str) -> float:
        """Milliseconds, without the cost of noting statements."""
        began = time.perf_counter()
        with self.client.get(path) as answer:
            assert answer.status_code == 200, path
            assert answer.data
        return (time.perf_counter() - began) * 1000


@contextmanager
def _statements() -> Iterator[list[str]]:
    """The statements of this thread meanwhile."""
    seen: list[str] = []
    thread, execute = threading.get_ident(), Session._execute

    def noted(session: Session, sql: str, parameters: Sequence[Any]) -> Any:
        if threading.get_ident() == thread and not any(word in sql for word in _BESIDE):
            seen.append(sql)
        return execute(session, sql, parameters)

    Session._execute = noted  # type: ignore[method-assign]
    try:
        yield seen
    finally:
        Session._execute = execute  # type: ignore[method-assign]
