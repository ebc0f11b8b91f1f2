"""antiphon channels: the channels of the table, their state, and a test whether they answer."""

from __future__ import annotations

import getpass
import logging
from collections.abc import Iterator, Sequence
from dataclasses import replace
from difflib import get_close_matches
from pathlib import Path
from typing import NoReturn

import click

from app.channels.table import Table
from app.cli.command_line import as_typed
from app.cli.context import CHANNEL_FAILING, NOT_FOUND, as_json, open_ready_store, print_json
from app.cli.groups import Group
from app.cli.output import counted, moment, pairs, some, table
from app.cli.parameters import Text
from app.cli.states import channel_pauses, learnt_remedies, worker_statuses
from app.cli.table import read_table
from app.contract.channel import Channel
from app.contract.pauses import LONGEST, Pause
from app.contract.remedies import LearntRemedy
from app.reports.channel_states import ChannelReport, all_channels, channel_reports
from app.reports.channel_test import ChannelTestResult, StepResult, try_channels
from app.settings import load_settings, parse_duration

_HEAD = ("name", "state", "in flight", "path", "last error", "priority", "weight", "format", "where", "models")


@click.group(cls=Group)
def channels() -> None:
    """List, test and pause the channels of the table."""


# --- list -------------------------------------------------------------------------------------------------------


@channels.command("list")
@as_json
def list_(as_json: bool) -> None:
    """List the channels: state over all workers, pauses, remedies learnt.

    Below them stands what was learnt of their upstreams. Without a running gateway, the state is unknown.
    """
    settings = load_settings()
    channel_table = read_table(settings)
    workers = worker_statuses(settings)
    reports = channel_reports(channel_table, workers, learnt_remedies(settings), channel_pauses(settings))
    if as_json:
        print_json({"workers": len(workers), "channels": [report.wire() for report in reports]})
        return
    click.echo(table(_HEAD, map(_row, reports)))
    if learnt := [(report.channel.name, _learnt(report.learnt)) for report in reports if report.learnt]:
        click.echo(
            "\nlearnt from refusals; a channel's row can say it for good, antiphon channels forget NAME deletes it"
        )
        click.echo(pairs(learnt))


def _row(report: ChannelReport) -> tuple[object, ...]:
    channel, state = report.channel, report.state
    return (
        channel.name,
        state.text or state.label,
        state.in_flight,
        ", ".join(state.paths),
        state.last_error,
        channel.priority,
        channel.weight,
        channel.format,
        report.host,
        some((*channel.models, *channel.globs)),
    )


def _learnt(remedies: Sequence[LearntRemedy]) -> str:
    return "\n".join(f"{one.model}: {one.remedy}, {moment(one.learnt_at)} UTC" for one in remedies)


# --- pause, drain, resume, end a cooldown -----------------------------------------------------------------------


class PauseDuration(click.ParamType[int]):
    """How long a pause lasts, in seconds."""

    name = "duration"

    def convert(self, value: str | int, param: click.Parameter | None, ctx: click.Context | None) -> int:
        seconds = value if isinstance(value, int) else parse_duration(value)
        if seconds is None or not 0 < seconds <= LONGEST:
            self.fail(f"{value!r} is not a duration such as 90s, 10m or 2h, of at most 7d", param, ctx)
        return seconds


_reason = click.option("--reason", type=Text(), help="Shown with the state of the channel.")


@channels.command("pause")
@click.argument("name")
@click.option("--for", "seconds", type=PauseDuration(), default="10m", help="How long; default 10m.")
@_reason
@as_json
@click.pass_context
def pause(ctx: click.Context, name: str, seconds: int, reason: str | None, as_json: bool) -> None:
    """Send no new requests to channel NAME for a while.

    Every worker notices within two seconds. Running requests go on to their end; conversations go on elsewhere. The
    pause ends by itself, or by `antiphon channels resume`.
    """
    _exit_unless_known(ctx, name)
    with open_ready_store() as store:
        store.pauses.pause(name, seconds, _operator(), reason or "")
        _print_pause(name, store.pauses.load(), as_json)


@channels.command("drain")
@click.argument("name")
@_reason
@as_json
@click.pass_context
def drain(ctx: click.Context, name: str, reason: str | None, as_json: bool) -> None:
    """Send no new requests to channel NAME until it is resumed.

    Every worker notices within two seconds. Running requests go on to their end: `antiphon channels list` shows how
    many are left.
    """
    _exit_unless_known(ctx, name)
    with open_ready_store() as store:
        store.pauses.drain(name, _operator(), reason or "")
        _print_pause(name, store.pauses.load(), as_json)


@channels.command("resume")
@click.argument("name")
@as_json
@click.pass_context
def resume(ctx: click.Context, name: str, as_json: bool) -> None:
    """End the pause of channel NAME.

    Every worker notices within two seconds. Exit code 4 when the channel is not paused.
    """
    with open_ready_store() as store:
        resumed = store.pauses.resume(name)
    if as_json:
        print_json({"channel": name, "resumed": resumed})
    else:
        click.echo(f"{name}: resumed" if resumed else f"{name} is not paused")
    if not resumed:
        ctx.exit(NOT_FOUND)


@channels.command("retry")
@click.argument("name")
@as_json
@click.pass_context
def retry(ctx: click.Context, name: str, as_json: bool) -> None:
    """Try channel NAME again now, although it is in cooldown.

    Every worker notices within two seconds. Its next request tests whether the channel works; the others wait for its
    outcome or go elsewhere. Exit code 4 when the channel is paused or drained: resume it first.
    """
    _exit_unless_known(ctx, name)
    with open_ready_store() as store:
        ended = store.pauses.end_cooldown(name, _operator())
    if as_json:
        print_json({"channel": name, "cooldown_ended": ended})
    else:
        click.echo(f"{name}: tried again from now on" if ended else f"{name} is out of service: resume it first")
    if not ended:
        ctx.exit(NOT_FOUND)


def _operator() -> str:
    """Who runs the command."""
    try:
        return f"{getpass.getuser()} (command line)"
    except (KeyError, OSError):
        # A container may have a user without a name.
        return "the command line"


def _print_pause(name: str, pauses: Sequence[Pause], as_json: bool) -> None:
    # A pause of a second may have ended by now.
    found = next((pause for pause in pauses if pause.channel == name), None)
    if as_json:
        print_json({"channel": name, "pause": found.wire() if found else None})
    else:
        click.echo(f"{name}: {found.described() if found else 'the pause has ended'}")


def _exit_unless_known(ctx: click.Context, name: str) -> None:
    channel_table = read_table(load_settings())
    if not _chosen(channel_table, name):
        _exit_not_found(ctx, channel_table, name)


# --- forget -----------------------------------------------------------------------------------------------------


@channels.command("forget")
@click.argument("name")
@click.option("--model", type=Text(), help="The upstream's name of a model; default: all of them.")
@as_json
def forget(name: str, model: str | None, as_json: bool) -> None:
    """Forget what was learnt from the refusals of channel NAME.

    Running workers notice within seconds. The channel NAME may be one that the table no longer has.
    """
    with open_ready_store() as store:
        count = store.remedies.forget(name, model)
    if as_json:
        print_json({"channel": name, "model": model, "forgotten": count})
    else:
        click.echo(f"{name}: {counted(count, 'remedy') if count == 1 else f'{count:,} remedies'} forgotten")


# --- test -------------------------------------------------------------------------------------------------------


@channels.command("test")
@click.argument("name", required=False)
@click.option("--model", type=Text(), help="The model to request; default: the first that the channel names.")
@click.option("--timeout", default=30, type=click.IntRange(1), help="Seconds to wait for each answer; default 30.")
@as_json
@click.pass_context
def test(ctx: click.Context, name: str | None, model: str | None, timeout: int, as_json: bool) -> None:
    """Try a text, a tool call, a second turn and an image on each channel, or on NAME alone.

    For each step the result is `ok`, `mended` with what the upstream did not take as a client sends it, `not taken`
    for images, or `failed` with the cause and the fix. Exit code 3 when a step of a channel has failed.

    The test costs some hundred tokens a channel. It skips channels that have no key or name no model; a disabled
    channel is tested only by name.
    """
    settings = load_settings()
    channel_table = read_table(settings)
    chosen = _chosen(channel_table, name)
    if not chosen:
        _exit_not_found(ctx, channel_table, str(name))
    # The results name missing keys, failures and remedies; the warnings in the log would repeat them.
    logging.getLogger("app.channels").setLevel(logging.ERROR)
    width = max(len(channel.name) for channel in chosen)
    results = []
    for result in try_channels(settings, chosen, model, timeout):
        results.append(result)
        if not as_json:
            click.echo("\n".join(_result_lines(result, width, settings.channels)))
    if as_json:
        print_json([result.wire() for result in results])
    if any(result.label == "failed" or (name and result.label != "ok") for result in results):
        ctx.exit(CHANNEL_FAILING)


def _chosen(channel_table: Table, name: str | None) -> list[Channel]:
    rows = all_channels(channel_table)
    return rows if name is None else [replace(channel, enabled=True) for channel in rows if channel.name == name]


def _exit_not_found(ctx: click.Context, channel_table: Table, name: str) -> NoReturn:
    near = ", ".join(get_close_matches(name, [row.name for row in all_channels(channel_table)], n=3))
    hint = f"did you mean {near}?" if near else as_typed("see the channels: antiphon channels list")
    click.echo(f"antiphon: there is no channel {name!r}\n  {hint}", err=True)
    ctx.exit(NOT_FOUND)


def _result_lines(result: ChannelTestResult, width: int, file: Path) -> Iterator[str]:
    line = f"{result.channel.name:<{width}}  {result.label:<9}"
    if result.model is not None:
        line += f"  {result.milliseconds:>6,} ms  {result.model}"
    elif result.reason:
        line += f"  {result.reason}"
    yield line.rstrip()
    if result.hint:
        yield f"{'':<{width}}  {result.hint} ({file.name}:{result.channel.line})"
    for step in result.steps:
        yield from _step_lines(step, width, f"{file.name}:{result.channel.line}")


def _step_lines(step: StepResult, width: int, place: str) -> Iterator[str]:
    details = step.cause or "; ".join(step.mended)
    yield f"{'':<{width}}  {step.label:<9}  {step.milliseconds:>6,} ms  {step.step:<11}  {details}".rstrip()
    if step.fix:
        yield f"{'':<{width}}  {step.fix} ({place})"
