"""antiphon doctor: checks the settings, the database, the servers and the machine. One line a finding, with its fix."""

from __future__ import annotations

import os
import resource
import shutil
import socket
import stat
import sys
from collections.abc import Generator, Iterator, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from http import HTTPStatus
from http.client import HTTPConnection, HTTPException, HTTPSConnection
from importlib.metadata import version
from pathlib import Path
from time import time
from typing import Any
from urllib.parse import urlsplit

import click

from app import __version__
from app.channels.table import Table
from app.channels.yaml_document import ChannelsInvalid
from app.cli.address import EVERYWHERE, can_sign_in, is_local, url_of, url_of_console
from app.cli.command_line import as_typed
from app.cli.context import CONFIGURATION, FAILED, as_json, open_store, print_json
from app.cli.output import counted
from app.cli.states import channel_pauses
from app.cli.table import read_table
from app.contract.limits import Limits
from app.contract.records import Token, WorkerStatus
from app.contract.tools import ToolTable
from app.errors import ConfigurationError, StoreUnavailable
from app.reports.attention import stored_problems
from app.reports.channel_states import COOLDOWN, FULL, HALF_OPEN, channel_reports
from app.server.job_queue import open_queue
from app.settings import ENV_FILE, Settings, database_file, home, load_settings, read_environment, read_settings
from app.store.store import Store

OK, WARNING, PROBLEM = "ok", "warning", "problem"

_GUNICORN = (27, 0, 1)
#: File descriptors of a worker beside those of its requests: the database, the log, the listening sockets.
_DESCRIPTORS = 128
_PER_REQUEST = 2
_GIB = 1 << 30
_MIB = 1024 * 1024
_SKEW = 5
#: Seconds to wait for a server's answer.
_WAIT = 3
#: The header of `/readyz` with the fingerprints of the server's settings.
_SETTINGS = "X-Antiphon-Settings"
_SAME = "run doctor with the variables of the server, or restart the server with these"
_VARIABLES = {
    "secret_key": "ANTIPHON_SECRET_KEY",
    "database": "ANTIPHON_DATABASE_URL",
    "channels": "ANTIPHON_CHANNELS",
}
_CONSOLE_FIXES = {
    403: "let the proxy set X-Forwarded-Proto, as in deploy/nginx",
    404: "restart the gateway, which may run without the console, and let the proxy pass /console",
}
_LETTERS = 10
_NGINX = (Path("/etc/nginx/sites-enabled"), Path("/etc/nginx/conf.d"))
_HEARTBEATS = Path("/dev/shm")  # noqa: S108 - gunicorn's workers keep their heartbeat files here


@dataclass(frozen=True, slots=True)
class Finding:
    grade: str
    """ok, warning, problem."""
    subject: str
    text: str
    fix: str = ""
    exit_code: int = 0

    def __str__(self) -> str:
        return f"{self.grade:<8} {self.subject:<12} {self.text}" + (f"; {self.fix}" if self.fix else "")

    def wire(self) -> dict[str, Any]:
        return {"grade": self.grade, "subject": self.subject, "text": self.text, "fix": self.fix or None}


@click.command(short_help="Check settings, database, channels, server and machine.")
@as_json
@click.pass_context
def doctor(ctx: click.Context, as_json: bool) -> None:
    """Check the settings, the database, the channels, the server and the machine.

    The command sends no request to an upstream and changes nothing.

    Exit code 78 when the configuration has an error, 1 for any other problem, 0 when there are only warnings.
    """
    findings = list(_findings())
    if as_json:
        print_json([finding.wire() for finding in findings])
    else:
        click.echo(as_typed("\n".join(map(str, findings))))
    ctx.exit(max(finding.exit_code for finding in findings))


def _findings() -> Iterator[Finding]:
    yield from _programs()
    yield from _env_file(home() / ENV_FILE)
    try:
        settings = load_settings()
    except ConfigurationError as error:
        yield _misconfigured("settings", error)
        return
    yield from _settings(settings)
    workers = yield from _database(settings)
    yield from _channels(settings, workers)
    yield from _serving(settings, workers)
    yield _console(settings)
    yield from _limits(settings)
    yield from _disk(settings)
    yield from _nginx(settings)


def _misconfigured(subject: str, error: ConfigurationError) -> Finding:
    return Finding(PROBLEM, subject, error.message.rstrip("."), _clause(error.fix), CONFIGURATION)


def _clause(sentence: str) -> str:
    """A sentence as the second half of a line."""
    return sentence[:1].lower() + sentence[1:].rstrip(".")


# --- the installation and the settings ---------------------------------------------------------------------------


def _programs() -> Iterator[Finding]:
    found = version("gunicorn")
    yield Finding(OK, "programs", f"antiphon {__version__}, Python {sys.version.split()[0]}, gunicorn {found}")
    if _numbers(found) < _GUNICORN:
        wanted = ".".join(map(str, _GUNICORN))
        yield Finding(PROBLEM, "gunicorn", f"{found} is older than {wanted}", "pip install -U gunicorn", FAILED)


def _numbers(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in text.split(".")[:3] if part.isdecimal())


def _env_file(path: Path) -> Iterator[Finding]:
    try:
        mode = path.stat().st_mode
    except FileNotFoundError:
        yield Finding(OK, ENV_FILE, f"no file in {path.parent}: all variables come from the environment")
        return
    if mode & stat.S_IROTH:
        yield Finding(PROBLEM, ENV_FILE, f"every user can read {path}", f"chmod o-r {path}", FAILED)
    elif not os.access(path, os.R_OK):
        yield Finding(
            PROBLEM, ENV_FILE, f"this user cannot read {path}", "run this as the gateway's user", CONFIGURATION
        )
    else:
        yield Finding(OK, ENV_FILE, str(path))


def _settings(settings: Settings) -> Iterator[Finding]:
    processes = f"{counted(settings.workers, 'worker')} x {settings.threads} threads"
    yield Finding(OK, "settings", f"{processes} on {settings.bind}")
    if len(set(settings.secret_key)) < _LETTERS:
        yield Finding(
            WARNING, "secret key", "it is easy to guess", "create another: antiphon init, in an empty directory"
        )
    environment = _Read(read_environment(settings.home))
    read_settings(environment, settings.home)
    for name in environment.unread():
        near = get_close_matches(name, environment.names, n=1)
        meant = f"did you mean {near[0]}?" if near else "there is no such setting"
        yield Finding(WARNING, "settings", f"{name} is set but has no effect", meant)


class _Read(dict[str, str]):
    """An environment that records which names are read: these are the names of all settings."""

    def __init__(self, environment: Mapping[str, str]) -> None:
        super().__init__(environment)
        self.names = {"ANTIPHON_HOME"}

    def get(self, name: str, default: Any = None) -> Any:
        self.names.add(name)
        return super().get(name, default)

    def unread(self) -> list[str]:
        return sorted(name for name in self if name.startswith("ANTIPHON_") and name not in self.names)


# --- database, queue, channels, servers -------------------------------------------------------------------------


def _database(settings: Settings) -> Generator[Finding, None, list[WorkerStatus]]:
    """Returns the status of the living workers; empty when the database does not answer."""
    try:
        with open_store(settings) as store:
            store.schema.check()
            yield _reached(settings, store)
            yield from _packet(settings, store)
            yield from _clock(store)
            yield from _background(settings, store)
            return store.leases.statuses()
    except ConfigurationError as error:
        yield _misconfigured("database", error)
    except StoreUnavailable:
        yield Finding(
            PROBLEM, "database", "it does not answer", "check ANTIPHON_DATABASE_URL and the database server", FAILED
        )
    return []


def _reached(settings: Settings, store: Store) -> Finding:
    tokens = sum(token.revoked_at is None for token in store.tokens.all())
    kind = settings.database_url.partition(":")[0]
    text = f"{kind}, schema {store.schema.version()}, {counted(tokens, 'token')}"
    if not tokens:
        return Finding(WARNING, "database", text, "create a token for clients: antiphon tokens create NAME")
    return Finding(OK, "database", text)


def _packet(settings: Settings, store: Store) -> Iterator[Finding]:
    """Bodies over MySQL's largest statement cannot be stored."""
    packet = store.database.packet
    if packet is None:
        return
    text = f"max_allowed_packet is {packet / _MIB:.0f} MiB"
    if packet <= settings.max_body:
        text += f": larger bodies cannot be stored, and ANTIPHON_MAX_BODY is {settings.max_body / _MIB:.0f} MiB"
        fix = f"raise max_allowed_packet on the MySQL server to {2 * settings.max_body // _MIB}M"
        yield Finding(WARNING, "database", text, fix)
    else:
        yield Finding(OK, "database", text)


def _clock(store: Store) -> Iterator[Finding]:
    """Tokens expire by this clock, leases by the database's."""
    ahead = round(time()) - store.leases.clock()
    if abs(ahead) > _SKEW:
        yield Finding(WARNING, "clock", f"it is {ahead} s ahead of the database's", "set both by NTP")


def _background(settings: Settings, store: Store) -> Iterator[Finding]:
    if waiting := store.jobs.unattended():
        text = f"{counted(waiting, 'response')} waiting, and no worker for background responses runs on any host"
        yield Finding(PROBLEM, "background", text, "start antiphon serve or antiphon worker", FAILED)
    if settings.queue_url is None:
        return
    if open_queue(settings.queue_url, store.database).answers():
        yield Finding(OK, "queue", "Redis answers")
    else:
        text = "Redis does not answer: background responses start late"
        yield Finding(PROBLEM, "queue", text, "start Redis, or correct ANTIPHON_QUEUE_URL", FAILED)


def _channels(settings: Settings, workers: list[WorkerStatus]) -> Iterator[Finding]:
    try:
        channel_table = read_table(settings)
    except ChannelsInvalid as error:
        for problem in error.problems:
            yield Finding(PROBLEM, "channels", str(problem), exit_code=CONFIGURATION)
        return
    for warning in channel_table.warnings:
        yield Finding(WARNING, "channels", str(warning))
    yield _usable(settings, channel_table)
    yield from _tools(settings, channel_table.tools)
    yield from _stored(settings, channel_table.limits)
    for report in channel_reports(channel_table, workers, pauses=channel_pauses(settings)):
        if report.state.pause is not None:
            name = report.channel.name
            yield Finding(WARNING, "channels", f"{name}: {report.state.text}", f"antiphon channels resume {name}")
        if report.state.label in (COOLDOWN, FULL, HALF_OPEN):
            name = report.channel.name
            yield Finding(WARNING, "channels", f"{name}: {report.state.text}", f"antiphon channels test {name}")


def _stored(settings: Settings, defaults: Limits) -> Iterator[Finding]:
    """Budgets, expiries and the backup; nothing when the database cannot say it."""
    try:
        with open_store(settings) as store:
            store.schema.check()
            standing = store.standing.read(None)
    except (ConfigurationError, StoreUnavailable):
        return
    for problem in stored_problems(standing, defaults):
        subject = "tokens" if problem.named else "backup"
        text = f"{problem.subject} {problem.text.rstrip('.')}"
        yield Finding(WARNING, subject, text, _clause(problem.remedy))


def _usable(settings: Settings, channel_table: Table) -> Finding:
    usable = [channel for channel in channel_table.channels if channel.enabled]
    text = f"{settings.channels.name}: {len(usable)} in use, {counted(len(channel_table.names()), 'model')}"
    if not usable:
        return Finding(PROBLEM, "channels", text, "set the key of a channel, or enable one", CONFIGURATION)
    return Finding(OK, "channels", text)


def _tools(settings: Settings, tools: ToolTable) -> Iterator[Finding]:
    """The tool servers of the table. Like the upstreams, they get no request."""
    if not tools:
        return
    yield Finding(OK, "tools", f"{counted(len(tools.servers), 'tool server')}; antiphon tools list asks them")
    for label, server in tools.servers.items():
        parts = urlsplit(server.url)
        if parts.scheme == "http" and server.headers and not is_local(parts.hostname or ""):
            text = f"{label}: its headers leave this machine without TLS"
            yield Finding(WARNING, "tools", text, "use an https:// URL, or a proxy with TLS on the server's machine")
    for type, hosted in tools.hosted.items():
        if hosted.server not in tools.servers:
            text = f"{type} is dropped: its server '{hosted.server}' is left out or disabled"
            yield Finding(WARNING, "tools", text, "see the warnings of antiphon check")
    for label in _without_token(settings, tools):
        fix = f"antiphon tokens create NAME --tools {label}"
        yield Finding(WARNING, "tools", f"{label}: no token may use it", fix)


def _without_token(settings: Settings, tools: ToolTable) -> list[str]:
    """The labels that no token may use; none when the database cannot say it."""
    tokens = _valid_tokens(settings)
    if tokens is None:
        return []
    return [label for label in tools.servers if not any(token.may_use_tools(label) for token in tokens)]


def _valid_tokens(settings: Settings) -> list[Token] | None:
    """The tokens that work; None when the database cannot say it."""
    try:
        with open_store(settings) as store:
            store.schema.check()
            return [token for token in store.tokens.all() if token.is_valid]
    except (ConfigurationError, StoreUnavailable):
        return None


def _serving(settings: Settings, workers: list[WorkerStatus]) -> Iterator[Finding]:
    """The servers that use the database, then the server at the address of the settings. Each may have been started
    with other variables than this command.
    """
    if workers:
        yield Finding(OK, "workers", f"{counted(len(workers), 'worker')} on this database")
    servers = {tuple(sorted(worker.server.items())): worker for worker in workers if worker.server}
    for worker in servers.values():
        yield from _differences(settings, worker)
    addresses = {worker.server["bind"] for worker in servers.values() if worker.host == _host()}
    for address in sorted(addresses | {settings.bind}):
        yield _answers(settings, address, bool(addresses))


def _console(settings: Settings) -> Finding:
    """Whether people can sign in: by the public URL, else by the address that the gateway listens on."""
    if not settings.console:
        return Finding(OK, "console", "off, by ANTIPHON_CONSOLE")
    if not (settings.url or url_of(settings.bind)):
        return Finding(OK, "console", "on; behind the proxy at /console, which must be https")
    url = url_of_console(settings)
    if not can_sign_in(url):
        text = f"on, and {url} is not https: it shows no pages to other machines"
        return Finding(WARNING, "console", text, "set ANTIPHON_URL to the https URL of the proxy: deploy/README.md")
    operators = _operators(settings)
    if operators == 0:
        text = f"on, at {url}; no token of an operator signs in"
        return Finding(WARNING, "console", text, "antiphon tokens create NAME --console operator")
    return _reached_by_https(url) if settings.url else Finding(OK, "console", f"on, at {url}")


def _reached_by_https(console: str) -> Finding:
    """Asks for the sign-in page by the public URL, as a browser does."""
    try:
        status = _status(f"{console}/sign-in")
    except (OSError, HTTPException) as error:
        text = f"on, but {console} cannot be reached from here ({_reason(error)})"
        return Finding(WARNING, "console", text, "check ANTIPHON_URL, the proxy and its certificate")
    if status == HTTPStatus.OK:
        return Finding(OK, "console", f"on, and reached at {console}")
    text = f"on, but {console}/sign-in answers {status}"
    return Finding(WARNING, "console", text, _CONSOLE_FIXES.get(status, "check ANTIPHON_URL and the proxy"))


def _status(url: str) -> int:
    parts = urlsplit(url)
    make = HTTPSConnection if parts.scheme == "https" else HTTPConnection
    connection = make(parts.hostname or "", parts.port, timeout=_WAIT)
    try:
        connection.request("GET", parts.path)
        return connection.getresponse().status
    finally:
        connection.close()


def _reason(error: Exception) -> str:
    return getattr(error, "verify_message", None) or getattr(error, "strerror", None) or type(error).__name__


def _operators(settings: Settings) -> int | None:
    """Tokens of operators that work; None when the database cannot say it."""
    tokens = _valid_tokens(settings)
    return None if tokens is None else sum(token.console == "operator" for token in tokens)


def _differences(settings: Settings, worker: WorkerStatus) -> Iterator[Finding]:
    own, server = settings.server_facts(), worker.server
    where = f"the server on {server['bind']}" + (f" of {worker.host}" if worker.host != _host() else "")
    if server["secret_key"] != own["secret_key"]:
        text = f"{where} uses this database with another ANTIPHON_SECRET_KEY: tokens made here do not work there"
        yield Finding(PROBLEM, "secret key", text, _SAME, FAILED)
    if worker.host != _host():
        return
    if server["table"] != own["table"]:
        yield Finding(WARNING, "channels", f"{where} reads {server['table']}, not {own['table']}", _SAME)
    if server["bind"] != own["bind"]:
        yield Finding(WARNING, "serving", f"{where} was started with another ANTIPHON_BIND or --bind", _SAME)


def _answers(settings: Settings, address: str, others: bool) -> Finding:
    """What `/readyz` at the address answers."""
    try:
        status, prints, reasons = _readyz(address)
    except (OSError, HTTPException) as error:
        why = getattr(error, "strerror", None) or type(error).__name__
        text = f"no server answers on {address} ({why})"
        if others:
            return Finding(OK, "serving", text)
        return Finding(WARNING, "serving", text, "run antiphon serve, or set ANTIPHON_BIND to the server's address")
    if prints is None:
        return Finding(
            PROBLEM,
            "serving",
            f"the server on {address} is not this version of Antiphon",
            "find out which program listens there",
            FAILED,
        )
    other = [_VARIABLES[name] for name, print in settings.fingerprints().items() if prints.get(name) != print]
    if other:
        # The fingerprints depend on the key: with another key, none of the others can be compared.
        named = other[0] if _VARIABLES["secret_key"] in other else " and ".join(other)
        return Finding(PROBLEM, "serving", f"the server on {address} was started with another {named}", _SAME, FAILED)
    if status == HTTPStatus.OK:
        return Finding(OK, "serving", f"ready on {address}")
    return Finding(PROBLEM, "serving", f"{address} answers {status}: {reasons}", exit_code=FAILED)


def _readyz(address: str) -> tuple[int, dict[str, str] | None, str]:
    """The status, the fingerprints of the server's settings (None for another program), the body."""
    connection = _connection(address)
    try:
        connection.request("GET", "/readyz", headers={"Host": "localhost"})
        answer = connection.getresponse()
        text = answer.getheader(_SETTINGS)
        prints = dict(part.split("=", 1) for part in text.split(", ")) if text else None
        return answer.status, prints, answer.read(2000).decode(errors="replace")
    finally:
        connection.close()


def _connection(address: str) -> HTTPConnection:
    if address.startswith("unix:"):
        return _UnixConnection(address.removeprefix("unix:"))
    host, _, port = address.rpartition(":")
    return HTTPConnection("127.0.0.1" if host in EVERYWHERE else host.strip("[]"), int(port), timeout=_WAIT)


class _UnixConnection(HTTPConnection):
    def __init__(self, path: str) -> None:
        super().__init__("localhost", timeout=_WAIT)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(_WAIT)
        self.sock.connect(self._path)


def _host() -> str:
    """The host name, as the names of workers have it."""
    return socket.gethostname()[:100]


# --- the machine ------------------------------------------------------------------------------------------------


def _limits(settings: Settings) -> Iterator[Finding]:
    """The limits of this shell; a systemd unit has its own."""
    wanted = settings.threads * _PER_REQUEST + _DESCRIPTORS
    files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if files != resource.RLIM_INFINITY and files < wanted:
        text = f"the limit here is {files}; {settings.threads} threads may need {wanted} in each worker"
        yield Finding(WARNING, "open files", text, f"ulimit -n {wanted}, or LimitNOFILE={wanted} in the unit")
    else:
        yield Finding(OK, "open files", f"the limit here is {files}; a worker may need {wanted}")


def _disk(settings: Settings) -> Iterator[Finding]:
    if (file := database_file(settings.database_url)) is not None:
        folder = file.parent
        yield from _free(folder)
        if not os.access(folder, os.W_OK):
            text = f"this user cannot write {folder}, and SQLite keeps files beside the database"
            yield Finding(PROBLEM, "disk", text, "run this as the gateway's user", FAILED)
    if not os.access(_HEARTBEATS, os.W_OK):
        yield Finding(
            PROBLEM, "disk", f"this user cannot write {_HEARTBEATS}, which gunicorn's workers need", "", FAILED
        )


def _free(folder: Path) -> Iterator[Finding]:
    try:
        free = shutil.disk_usage(folder).free / _GIB
    except OSError:
        return
    fix = "antiphon db prune, or a larger disk"
    if free < 1:
        yield Finding(PROBLEM if free < 0.1 else WARNING, "disk", f"only {free:.1f} GiB free for the database", fix)
    else:
        yield Finding(OK, "disk", f"{free:.0f} GiB free for the database")


def _nginx(settings: Settings) -> Iterator[Finding]:
    """Reads the files in the directories where Debian keeps nginx's sites. It does not run nginx."""
    sites = [text for folder in _NGINX if folder.is_dir() for text in _texts(folder) if "antiphon" in text]
    host = settings.bind.rpartition(":")[0]
    if sites and not any("proxy_buffering off" in text for text in sites):
        yield Finding(
            WARNING, "nginx", "it buffers the events of a stream", "set proxy_buffering off, as in deploy/nginx"
        )
    elif sites:
        yield Finding(OK, "nginx", "its site does not buffer events")
    if not sites and host not in ("127.0.0.1", "localhost", "[::1]") and not settings.bind.startswith("unix:"):
        text = f"{settings.bind} is open to the network, without TLS"
        yield Finding(WARNING, "nginx", text, "put a proxy in front: deploy/README.md")


def _texts(folder: Path) -> Iterator[str]:
    for path in sorted(folder.iterdir()):
        try:
            yield path.read_text(errors="replace")
        except OSError:
            continue
