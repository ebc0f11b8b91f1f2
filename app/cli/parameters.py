"""What an option of a command may hold: an empty one is a usage error, never a default or "all of them"."""

from __future__ import annotations

from pathlib import Path

import click

from app.settings import checked_bind


class Text(click.ParamType[str]):
    """Some text, not blank."""

    name = "text"

    def convert(self, value: str, param: click.Parameter | None, ctx: click.Context | None) -> str:
        if not value.strip():
            self.fail("it is empty; leave the option out for its default", param, ctx)
        return value


class Address(click.ParamType[str]):
    """Where to listen, as ANTIPHON_BIND has it."""

    name = "address"

    def convert(self, value: str, param: click.Parameter | None, ctx: click.Context | None) -> str:
        try:
            return checked_bind(value, Path.cwd())
        except ValueError as error:
            self.fail(f"{value!r}: {error}", param, ctx)


class Names(click.ParamType[tuple[str, ...]]):
    """Names or globs between commas. A script's unset variable makes an empty list, which must not mean all."""

    name = "names"

    def convert(
        self, value: str | tuple[str, ...], param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[str, ...]:
        if isinstance(value, tuple):
            return value
        names = tuple(name.strip() for name in value.split(","))
        if not all(names):
            self.fail(f"{value!r} holds an empty name; leave the option out for no restriction", param, ctx)
        return names
