"""Types of options. An empty value is a usage error; it never means the default or "all"."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import click

from app.errors import ConfigurationError
from app.settings import checked_bind, checked_database_url, home


class Text(click.ParamType[str]):
    """Text that is not blank."""

    name = "text"

    def convert(self, value: str, param: click.Parameter | None, ctx: click.Context | None) -> str:
        if not value.strip():
            self.fail("the value is empty; leave the option out for its default", param, ctx)
        return value


class Address(click.ParamType[str]):
    """A listening address, in the form of ANTIPHON_BIND."""

    name = "address"

    def convert(self, value: str, param: click.Parameter | None, ctx: click.Context | None) -> str:
        try:
            return checked_bind(value, Path.cwd())
        except ValueError as error:
            self.fail(f"{value!r}: {error}", param, ctx)


class Stated(NamedTuple):
    """The value of an option that was given; click has None for one that was not."""

    value: Any


class Read(click.ParamType[Stated]):
    """A text that a function reads, which raises ValueError for what it does not know."""

    def __init__(self, name: str, read: Callable[[str], Any]) -> None:
        self.name = name
        self._read = read

    def convert(self, value: str | Stated, param: click.Parameter | None, ctx: click.Context | None) -> Stated:
        if isinstance(value, Stated):
            return value
        try:
            return Stated(self._read(value))
        except ValueError as error:
            self.fail(str(error), param, ctx)


class DatabaseUrl(click.ParamType[str]):
    """The URL of a database, in the form of ANTIPHON_DATABASE_URL."""

    name = "url"

    def convert(self, value: str, param: click.Parameter | None, ctx: click.Context | None) -> str:
        try:
            return checked_database_url(value, home())
        except ConfigurationError as error:
            # The URL may hold a password and is not shown.
            self.fail(error.message.replace("ANTIPHON_DATABASE_URL", "the URL"), param, ctx)
