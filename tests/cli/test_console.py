"""Where the console is, as a terminal is told it."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from app.cli.console import first_link
from app.settings import Settings
from app.store.store import Store

CONSOLE = "http://127.0.0.1:8080/console"


def _settings(folder: Path, *, role: str | None = "operator", **keys: object) -> Settings:
    """Of a directory with one token of this role."""
    settings = Settings(
        database_url=f"sqlite:///{folder}/antiphon.db", channels=folder / "none", secret_key="k" * 43, **keys
    )
    store = Store(settings.database_url, peppers=settings.keys_for("tokens"))
    store.schema.upgrade()
    store.tokens.create("admin", "admin", console=role)
    store.close()
    return settings


def test_each_start_has_a_link_of_its_own(tmp_path: Path) -> None:
    settings = _settings(tmp_path)
    links = {first_link(settings) for _ in range(2)}
    assert len(links) == 2
    assert all(re.fullmatch(rf"{CONSOLE}/sign-in#code=[\w-]{{32}}", link) for link in links)


@pytest.mark.parametrize("role", [None, "owner"])
def test_without_an_operator_there_is_the_address_alone(tmp_path: Path, role: str | None) -> None:
    assert first_link(_settings(tmp_path, role=role)) == CONSOLE


@pytest.mark.parametrize(
    ("settings", "link"),
    [
        ({"url": "http://antiphon.internal/v1"}, "http://antiphon.internal/console"),
        ({"bind": "10.0.0.7:8080"}, "http://10.0.0.7:8080/console"),
        ({"bind": "unix:/run/antiphon.sock"}, ""),
        ({"console": False}, ""),
    ],
)
def test_a_link_that_would_not_sign_in_is_not_printed(tmp_path: Path, settings: dict[str, object], link: str) -> None:
    assert first_link(_settings(tmp_path, **settings)) == link


def test_behind_a_proxy_the_link_has_the_public_url(tmp_path: Path) -> None:
    settings = _settings(tmp_path, bind="unix:/run/antiphon.sock", url="https://antiphon.internal/v1")
    assert first_link(settings).startswith("https://antiphon.internal/console/sign-in#code=")
