"""antiphon channels: which upstreams there are, how they fare, and whether they answer."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from difflib import get_close_matches
from pathlib import Path
from time import monotonic, time
from typing import Any
from urllib.parse import urlsplit

import click

from app import formats, ids
from app.channels.choice import Channels
from app.channels.table import Channel, Table
from app.channels.watch import WatchedTable
from app.cli.context import CHANNEL_FAILING, NOT_FOUND, as_json, print_json
from app.cli.groups import Group
from app.cli.output import some, table
from app.cli.parameters import Text
from app.cli.states import State, living, state_of
from app.cli.table import read_table
from app.echo import Echo
from app.errors import (
    GatewayError,
    UpstreamBroken,
    UpstreamDenied,
    UpstreamFailed,
    UpstreamLacksModel,
    UpstreamLimited,
    UpstreamRefused,
    UpstreamTimeout,
    UpstreamUnreachable,
)
from app.relay.asking import whole_answer
from app.settings import Settings, load_settings, read_environment
from app.turn import Turn

#: What a channel is asked. Sixteen tokens are the fewest that OpenAI's own models take.
_QUESTION = "ping"
_TINY = 16

#: What to do, by what went wrong; the first that fits.
_FIXES: tuple[tuple[type[GatewayError], str], ...] = (
    (UpstreamDenied, "check its api_key"),
    (UpstreamLacksModel, "check its models: the name behind the ':' is the one that the upstream knows"),
    (UpstreamLimited, "wait, or ask the upstream's operator for a higher limit"),
    (UpstreamUnreachable, "check its base_url and ca_file, and that the server there runs"),
    (UpstreamTimeout, "the server there hangs, or needs longer: --timeout"),
    (UpstreamBroken, "check its format and base_url: what answers there does not speak it"),
    (UpstreamFailed, "look into the log of the server there"),
    (UpstreamRefused, "check its format, and whether the model takes text"),
)


@click.group(cls=Group)
def channels() -> None:
    """Look at the channels of the table, and try them."""


# --- list -------------------------------------------------------------------------------------------------------


@channels.command("list")
@as_json
def list_(as_json: bool) -> None:
    """List the channels and how they fare over all workers. Without a running gateway, what the table says."""
    settings = load_settings()
    rows = rows_of(read_table(settings))
    workers = living(settings)
    states = [state_of(channel, workers) for channel in rows]
    if as_json:
        listed = [_wire(channel, state) for channel, state in zip(rows, states, strict=True)]
        print_json({"workers": len(workers), "channels": listed})
        return
    head = ("name", "state", "in flight", "path", "last error", "priority", "weight", "format", "where", "models")
    click.echo(table(head, map(_row, rows, states)))


def rows_of(channel_table: Table) -> list[Channel]:
    """Every row of the file in its order, those that wait for a key as well."""
    return sorted((*channel_table.channels, *channel_table.waiting), key=lambda channel: channel.line)


def _row(channel: Channel, state: State) -> tuple[object, ...]:
    return (
        channel.name,
        state.text,
        state.in_flight,
        ", ".join(state.paths),
        state.last_error,
        channel.priority,
        channel.weight,
        channel.format,
        _where(channel),
        some((*channel.models, *channel.globs)),
    )


def _wire(channel: Channel, state: State) -> dict[str, Any]:
    return {
        "name": channel.name,
        "format": channel.format,
        "models": dict(channel.models),
        "globs": list(channel.globs),
        "priority": channel.priority,
        "weight": channel.weight,
        "max_concurrency": channel.max_concurrency,
        "base_url": channel.base_url,
        "line": channel.line,
        **state.wire(),
    }


def _where(channel: Channel) -> str:
    return urlsplit(channel.base_url).netloc if channel.base_url else "here"


# --- test -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Tested:
    """What came of asking one channel. Without a model it was not asked, for the reason in `cause`."""

    channel: Channel
    model: str | None
    milliseconds: int = 0
    cause: str = ""
    fix: str = ""

    @property
    def word(self) -> str:
        if self.model is None:
            return "not asked"
        return "failed" if self.cause else "ok"

    def wire(self) -> dict[str, Any]:
        told = {"channel": self.channel.name, "model": self.model, "result": self.word, "ms": self.milliseconds}
        return {**told, "cause": self.cause or None, "fix": self.fix or None}


@channels.command("test")
@click.argument("name", required=False)
@click.option("--model", type=Text(), help="The model to ask for; default: the first that the channel names.")
@click.option("--timeout", default=30, type=click.IntRange(1), help="Seconds for each answer; default 30.")
@as_json
@click.pass_context
def test(ctx: click.Context, name: str | None, model: str | None, timeout: int, as_json: bool) -> None:
    """Ask each channel, or NAME alone, for a word, as a request would. Exit code 3 when one does not answer.

    It costs a few tokens. A channel that has no key or names no model is not asked, and a disabled one only by name.
    """
    settings = load_settings()
    chosen = _chosen(read_table(settings), name)
    if not chosen:
        known = ", ".join(get_close_matches(str(name), [row.name for row in rows_of(read_table(settings))], n=3))
        click.echo(f"antiphon: there is no channel {name!r}" + (f"; there is {known}" if known else ""), err=True)
        ctx.exit(NOT_FOUND)
    results = []
    for tested in _tested(settings, chosen, model, timeout):
        results.append(tested)
        if not as_json:
            click.echo(_told(tested, max(len(channel.name) for channel in chosen), settings.channels))
    if as_json:
        print_json([tested.wire() for tested in results])
    if any(tested.word == "failed" or (name and tested.word != "ok") for tested in results):
        ctx.exit(CHANNEL_FAILING)


def _chosen(channel_table: Table, name: str | None) -> list[Channel]:
    rows = rows_of(channel_table)
    return rows if name is None else [replace(channel, enabled=True) for channel in rows if channel.name == name]


def _tested(settings: Settings, chosen: Sequence[Channel], model: str | None, timeout: int) -> Iterator[Tested]:
    # What it would warn of, a missing key, stands in the result.
    logging.getLogger("app.channels.watch").setLevel(logging.ERROR)
    watched = WatchedTable(settings.channels, lambda: read_environment(settings.home), formats.names())
    at_work = Channels(watched, connections=1)
    try:
        for channel in chosen:
            yield _ask(at_work, _hurried(channel, timeout), model)
    finally:
        at_work.close()


def _hurried(channel: Channel, timeout: int) -> Channel:
    limits = channel.timeouts
    hurried = {name: min(timeout, getattr(limits, name)) for name in ("connect", "first_byte", "idle", "total")}
    return replace(channel, timeouts=replace(limits, **hurried))


def _ask(at_work: Channels, channel: Channel, model: str | None) -> Tested:
    model = model or next(iter(channel.models), None)
    if channel.lacks or not channel.enabled:
        return Tested(channel, None, cause=channel.lacks or "it is disabled")
    if model is None:
        return Tested(channel, None, cause="it names no model, only globs", fix="name one with --model")
    began = monotonic()
    cause, fix = "", ""
    try:
        with at_work.choice(channel, model) as choice:
            answer = whole_answer(_question(model), choice, None)
            if answer.status == "failed":
                raise UpstreamFailed((answer.error or {}).get("message") or "Its answer says that it failed.")
    except GatewayError as error:
        cause, fix = error.message, next((fix for kind, fix in _FIXES if isinstance(error, kind)), "")
    return Tested(channel, model, round((monotonic() - began) * 1000), cause, fix)


def _question(model: str) -> Turn:
    message = {"type": "message", "role": "user", "content": [{"type": "input_text", "text": _QUESTION}]}
    request = {"model": model, "input": [message], "max_output_tokens": _TINY}
    return Turn(
        id=ids.new("resp"),
        owner="",
        created_at=int(time()),
        model=model,
        request=request,
        input=[message],
        echo=Echo.of(request, store=False),
        store=False,
    )


def _told(tested: Tested, width: int, file: Path) -> str:
    line = f"{tested.channel.name:<{width}}  {tested.word:<9}"
    if tested.model is not None:
        line += f"  {tested.milliseconds:>6,} ms  {tested.model}"
    if tested.cause:
        line += f"  {tested.cause}"
    if tested.fix:
        line += f"\n{'':<{width}}  {tested.fix} ({file.name}:{tested.channel.line})"
    return line.rstrip()
