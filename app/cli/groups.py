"""Groups of commands."""

from __future__ import annotations

from difflib import get_close_matches

import click


class Group(click.Group):
    """A group that suggests the nearest command for a mistyped one."""

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        known = self.list_commands(ctx)
        near = get_close_matches(args[0], known, n=1)
        if near and args[0] not in known:
            ctx.fail(f"No such command {args[0]!r}. Did you mean {near[0]!r}?")
        return super().resolve_command(ctx, args)
