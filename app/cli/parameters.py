"""Types of options. An empty value is a usage error; it never means the default or "all"."""

from __future__ import annotations

from pathlib import Path

import click

from app.settings import checked_bind


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
