"""Types of options. An empty value is a usage error; it never means the default or "all"."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click
from marshmallow import ValidationError

from app.contract.limits import MOST, NO_LIMIT, Budget, budgets
from app.errors import ConfigurationError
from app.schemas.table_values import Scalar, identifier
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


class Names(click.ParamType[tuple[str, ...]]):
    """Names or globs, separated by commas. An empty list is an error: an unset variable of a script makes one."""

    name = "names"

    def convert(
        self, value: str | tuple[str, ...], param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[str, ...]:
        if isinstance(value, tuple):
            return value
        names = tuple(name.strip() for name in value.split(","))
        if not all(names):
            self.fail(f"{value!r} holds an empty name; leave the option out for its default", param, ctx)
        return names


#: Words in place of a limit: none at all, and the one that the channel table sets for all tokens.
NONE, DEFAULT = "none", "default"


class Tags(Names):
    """Tags of channels, separated by commas; `*` for every channel, as an empty tuple, or `default`."""

    name = "tags"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if value == DEFAULT:
            return value
        tags = super().convert(value, param, ctx)
        if tags == ("*",):
            return ()
        for tag in tags:
            try:
                identifier(Scalar(tag))
            except ValidationError as error:
                self.fail(f"{tag!r}: a tag {error.messages[0]}", param, ctx)
        return tags


class Amount(click.ParamType[int | str]):
    """A whole number above zero, `none` (`NO_LIMIT`) or `default`."""

    name = "number"

    def convert(self, value: str | int, param: click.Parameter | None, ctx: click.Context | None) -> int | str:
        if isinstance(value, int) or value == DEFAULT:
            return value
        if value == NONE:
            return NO_LIMIT
        if not (value.isascii() and value.isdigit() and 0 < int(value) <= MOST):
            self.fail(f"{value!r} is neither a number above 0 nor {NONE} or {DEFAULT}", param, ctx)
        return int(value)


class Budgets(click.ParamType[tuple[Budget, ...] | str]):
    """Budgets, separated by commas: `2Mtok/day,50usd/month`; `none` or `default`."""

    name = "budget"

    def convert(
        self, value: str | tuple[Budget, ...], param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[Budget, ...] | str:
        if isinstance(value, tuple) or value == DEFAULT:
            return value
        if value == NONE:
            return ()
        try:
            return budgets(value.split(","))
        except ValueError as error:
            self.fail(f"{value!r} {error}; or {NONE}, or {DEFAULT}", param, ctx)


class DatabaseUrl(click.ParamType[str]):
    """The URL of a database, in the form of ANTIPHON_DATABASE_URL."""

    name = "url"

    def convert(self, value: str, param: click.Parameter | None, ctx: click.Context | None) -> str:
        try:
            return checked_database_url(value, home())
        except ConfigurationError as error:
            # The URL may hold a password and is not shown.
            self.fail(error.message.replace("ANTIPHON_DATABASE_URL", "the URL"), param, ctx)
