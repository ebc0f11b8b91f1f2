"""antiphon tools: the tool servers of the table, their tools, a call of one, and a demo server."""

from __future__ import annotations

import logging
import socket
from collections.abc import Iterator, Sequence
from difflib import get_close_matches
from importlib import import_module
from typing import NoReturn

import click
import orjson

from app import __version__, mcp_sdk
from app.cli.command_line import as_typed
from app.cli.context import CHANNEL_FAILING, FAILED, NOT_FOUND, as_json, print_json
from app.cli.groups import Group
from app.cli.output import clipped, pairs, plain
from app.cli.parameters import Address
from app.cli.table import read_table
from app.contract.tools import ListedTool, ToolOutcome, ToolTable, placeholder
from app.errors import ConfigurationError, ToolListFailed
from app.reports.tool_servers import ToolServerReport, call_tool, list_tool_servers
from app.settings import load_settings

_DESCRIBED = 80


@click.group(cls=Group)
def tools() -> None:
    """List and call the tools of the tool servers, or run a demo server."""


# --- list -------------------------------------------------------------------------------------------------------


@tools.command("list")
@click.argument("server", required=False)
@as_json
@click.pass_context
def list_(ctx: click.Context, server: str | None, as_json: bool) -> None:
    """List the tool servers and their tools.

    Of all servers of the table, or of SERVER alone; the command asks each of them. The printed `server_url` is for
    clients whose SDK demands one: it means the label.
    Exit code 3 when a server does not list its tools.
    """
    table = read_table(load_settings()).tools
    labels = [*table.servers, *table.left_out]
    if server is not None and server not in labels:
        _exit_not_found(ctx, f"tool server {server!r}", server, labels)
    _quieten()
    reports = []
    for report in list_tool_servers(table, labels if server is None else [server]):
        reports.append(report)
        if not as_json:
            click.echo(_shown(report))
    if as_json:
        print_json([report.wire() for report in reports])
    elif not reports:
        click.echo("no tool server stands under 'tools' in the channel table")
    if any(report.state == "failed" for report in reports):
        ctx.exit(CHANNEL_FAILING)


def _shown(report: ToolServerReport) -> str:
    fulfils = f"  fulfils {', '.join(report.fulfils)}" if report.fulfils else ""
    head = f"{report.label}  {report.state}  server_url {placeholder(report.label)}{fulfils}"
    return "\n".join([head, *(f"  {line}" for line in _lines(report))]) + "\n"


def _lines(report: ToolServerReport) -> Iterator[str]:
    if report.failure:
        yield plain(report.failure)
    yield from pairs((tool.name, _described(report, tool)) for tool in report.tools).splitlines()


def _described(report: ToolServerReport, tool: ListedTool) -> str:
    marks = [
        *(["reads only"] if tool.read_only else []),
        *(["needs approval"] if report.needs_approval(tool) else []),
    ]
    return clipped(tool.description, _DESCRIBED) + (f" ({', '.join(marks)})" if marks else "")


# --- call -------------------------------------------------------------------------------------------------------


class Arguments(click.ParamType[str]):
    """A JSON object."""

    name = "json"

    def convert(self, value: str, param: click.Parameter | None, ctx: click.Context | None) -> str:
        try:
            is_object = isinstance(orjson.loads(value), dict)
        except ValueError:
            is_object = False
        if not is_object:
            self.fail(f'{value!r} is no JSON object, such as \'{{"query": "cooldown"}}\'', param, ctx)
        return value


@tools.command("call")
@click.argument("server")
@click.argument("tool")
@click.argument("arguments", metavar="[JSON]", type=Arguments(), default="{}")
@as_json
@click.pass_context
def call(ctx: click.Context, server: str, tool: str, arguments: str, as_json: bool) -> None:
    """Call a tool and print its result.

    The tool is TOOL of SERVER, and JSON an object with its arguments. Exit code 1 when the call fails, 3 when the
    server does not list its tools.
    """
    table = read_table(load_settings()).tools
    _exit_unless_known(ctx, table, server)
    _quieten()
    try:
        report = call_tool(table.servers[server], tool, arguments)
    except ToolListFailed as error:
        if as_json:
            print_json({"server": server, "tool": tool, "output": None, "error": error.error()})
        click.echo(f"antiphon: {error.message}", err=True)
        ctx.exit(CHANNEL_FAILING)
    if report.outcome is None:
        _exit_not_found(ctx, f"tool {tool!r} at {server}", tool, report.known)
    if as_json:
        print_json(report.wire())
    else:
        _print_outcome(tool, report.outcome)
    if report.outcome.error is not None:
        ctx.exit(FAILED)


def _print_outcome(tool: str, outcome: ToolOutcome) -> None:
    if outcome.error is None:
        click.echo(outcome.output)
    else:
        click.echo(f"antiphon: {tool} has failed: {outcome.text_for_model}", err=True)


def _exit_unless_known(ctx: click.Context, table: ToolTable, server: str) -> None:
    if server in table.left_out:
        raise ConfigurationError(f"tool server {server!r} is left out: {table.left_out[server]}", "set the variable")
    if server not in table.servers:
        _exit_not_found(ctx, f"tool server {server!r}", server, [*table.servers])


def _exit_not_found(ctx: click.Context, what: str, name: str, known: Sequence[str]) -> NoReturn:
    near = get_close_matches(name, known, n=1)
    hint = f"did you mean {near[0]!r}?" if near else as_typed("see what there is: antiphon tools list")
    click.echo(f"antiphon: there is no {what}\n  {hint}", err=True)
    ctx.exit(NOT_FOUND)


def _quieten() -> None:
    """The results name what fails; the warnings in the log would repeat it."""
    logging.getLogger("app.tools").setLevel(logging.CRITICAL)


# --- serve-demo -------------------------------------------------------------------------------------------------


@tools.command("serve-demo")
@click.option("--bind", type=Address(), default="127.0.0.1:8090", help="Address to listen on; default 127.0.0.1:8090.")
def serve_demo(bind: str) -> None:
    """Run a tool server for a first try.

    It has a clock, a calculator and a search over Antiphon's README. The shipped channels.yaml has a row for it. It
    needs no network and no key, and stores nothing.
    """
    if lack := mcp_sdk.lack():
        raise ConfigurationError(lack, mcp_sdk.FIX)
    with _listener(bind) as listener:
        host, port = listener.getsockname()[:2]
        shown = f"[{host}]" if ":" in host else host
        click.echo(f"demo tool server   http://{shown}:{port}/mcp\n  Ctrl-C to stop")
        import_module("app.tools.demo_server").serve(listener, __version__)


def _listener(bind: str) -> socket.socket:
    host, _, port = bind.rpartition(":")
    if bind.startswith("unix:") or not port.isdecimal():
        raise ConfigurationError(f"the demo server cannot listen on {bind}", "use an address such as 127.0.0.1:8090")
    try:
        return socket.create_server(
            (host.strip("[]"), int(port)), family=socket.AF_INET6 if ":" in host else socket.AF_INET
        )
    except OSError as error:
        raise ConfigurationError(
            f"cannot listen on {bind}: {error.strerror}", "stop the program that listens there, or use --bind"
        ) from error
