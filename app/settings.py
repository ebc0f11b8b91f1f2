"""Settings, read once from the environment and `.env`, frozen before anything is built from them."""

from __future__ import annotations

import hmac
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import quote, unquote, urlsplit

from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from dotenv import dotenv_values

from app.errors import ConfigurationError

ENV_FILE = ".env"
MIN_SECRET = 32
_LIVE_PAGES = 32
DAY = 86_400
#: Seconds between the end of running streams and the time at which gunicorn kills their worker.
DRAIN_RESERVE = 5
LOGS = ("text", "json")
TRANSPORTS = ("pump", "generator")

_DURATION = re.compile(r"(\d{1,9})([smhdw])\Z", re.ASCII)
_UNITS = {"s": 1, "m": 60, "h": 3600, "d": DAY, "w": 7 * DAY}
#: Least ratio of the memory budget to the largest body.
_BODIES_IN_MEMORY = 4
_PINS = ("auto", "on", "off")
_SWITCH = ("off", "on")
_SWITCH_ON = ("on", "off")
"""The first one is the default."""
_DATABASES = ("sqlite", "mysql")
_WHOLE = re.compile(r"[0-9]{1,10}", re.ASCII)
_TENTHS = re.compile(r"[0-9]{1,5}(\.[0-9])?", re.ASCII)
_LONGEST_SECONDS = 86_400
_MOST = 2**31 - 1
#: A name, an IPv4 address, or an IPv6 one in brackets.
_HOST = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._-]{0,252})|\[[0-9A-Fa-f:.]+\]", re.ASCII)
LAST_PORT = 65_535
#: Where a collector takes traces, unless its URL says another path.
_TRACES_PATH = "/v1/traces"
#: Longest path of a unix socket in bytes, a limit of the kernel.
_LONGEST_SOCKET = 107
#: Hex digits of a fingerprint.
_PRINT = 12
#: Characters of a wrong value that a message quotes.
_QUOTED = 60


@dataclass(frozen=True, slots=True)
class Settings:
    """Paths are absolute, durations seconds, sizes bytes."""

    channels: Path
    database_url: str = field(repr=False)
    secret_key: str = field(repr=False)
    old_secret_keys: tuple[str, ...] = field(default=(), repr=False)
    bind: str = "127.0.0.1:8080"
    url: str = ""
    """The public base URL, when it is not the bind address."""
    metrics: bool = False
    """Whether the processes count what they do."""
    metrics_bind: str = ""
    """Where `/metrics` is served without a token: host and port; empty for nowhere."""
    traces: str = field(default="", repr=False)
    """The URL of the collector that gets the spans, by OTLP over HTTP; empty for none."""
    console: bool = True
    """Whether `/console` serves the web pages."""
    log: str = "text"
    """The format of a log line: `text` or `json`."""
    workers: int = 2
    threads: int = 512
    sockets: int = 128
    """WebSockets of one worker, as far as it has threads for them; see `max_sockets`."""
    socket_lifetime: int = 3600
    max_body: int = 64 * 1024 * 1024
    memory: int = 256 * 1024 * 1024
    """Bytes that large bodies may take of one worker together: those of requests and of answers, and histories."""
    heartbeat: float = 15.0
    header_after: float = 10.0
    """Seconds after which a stream starts although no upstream has accepted the request yet."""
    client_write_timeout: float = 60.0
    """Write timeout in seconds: the client of a stream may make no progress for so long."""
    stream_transport: str = "pump"
    """The transport of streams: `pump`, one thread for all of them, or `generator`, each request's own thread."""
    lease: int = 60
    drain: int = 20
    retention: int = 30 * DAY
    """Seconds after which an unused response may be pruned."""
    pin: str = "auto"
    """Whether each worker binds to one core: `on`, `off`, or `auto`, when there are no more workers than cores."""
    queue_url: str | None = field(default=None, repr=False)
    """The Redis queue of background responses; None for the database."""
    worker_processes: int = 1
    """Workers for background responses beside `antiphon serve`; 0 where `antiphon worker` runs by itself."""
    worker_threads: int = 32
    """Background responses at the same time in one worker."""
    events_kept: int = 600
    """Seconds after the end of a background response during which its events can be streamed again."""
    home: Path = Path()
    """The directory of `.env`; relative paths start here."""

    @property
    def max_in_flight(self) -> int:
        """Requests that may be at work in one worker; the threads above it answer `/healthz` and refusals."""
        return max(1, self.threads - max(2, self.threads // 16))

    @property
    def max_sockets(self) -> int:
        """Each holds a thread however idle it is: below a quarter of them, so that requests always find one."""
        return min(self.sockets, (self.threads - 1) // 4)

    @property
    def max_live_pages(self) -> int:
        """Pages of the console that learn of changes at once, in one worker. Each holds a thread."""
        return min(_LIVE_PAGES, (self.threads - 1) // 4)

    def fingerprints(self) -> dict[str, str]:
        """Digests that compare the settings of two processes without showing them: each is keyed by the secret."""
        key = self.key_for("fingerprints")
        values = {"secret_key": "", "database": self.database_url, "channels": str(self.channels)}
        return {name: hmac.digest(key, value.encode(), "sha256").hex()[:_PRINT] for name, value in values.items()}

    def server_facts(self) -> dict[str, str]:
        """The facts of a server that its row shows to the commands of operators."""
        return {**self.fingerprints(), "bind": self.bind, "table": str(self.channels)}

    def key_for(self, purpose: str) -> bytes:
        """A 32-byte key for one purpose only, derived from the secret key."""
        return _derived(self.secret_key, purpose)

    def keys_for(self, purpose: str) -> list[bytes]:
        """The key for this purpose, then those of earlier secret keys, which still open old items."""
        return [_derived(secret, purpose) for secret in (self.secret_key, *self.old_secret_keys)]


#: The settings whose variables do not have their names.
_OTHER_NAMES = {"client_write_timeout": "ANTIPHON_STALL", "stream_transport": "ANTIPHON_MOVER"}


def variable_of(setting: str) -> str:
    """The variable that a field of `Settings` is read from."""
    return _OTHER_NAMES.get(setting, f"ANTIPHON_{setting.upper()}")


def home() -> Path:
    """The directory whose `.env` counts: the current one, unless `antiphon serve` came from another. Raises
    ConfigurationError.
    """
    return resolved("ANTIPHON_HOME", os.environ.get("ANTIPHON_HOME") or ".")


def resolved(name: str, path: str | Path) -> Path:
    """The path that the variable `name` gives, made absolute. Raises ConfigurationError for one that leads nowhere."""
    try:
        return Path(path).resolve()
    except OSError as error:
        raise ConfigurationError(f"{name} cannot be followed: {error.strerror}", "check the path") from error
    except RuntimeError as error:
        raise ConfigurationError(f"{name} is a link that leads back to itself", "check the path") from error


def load_settings() -> Settings:
    """The settings of this process. Raises ConfigurationError."""
    directory = home()
    return read_settings(load_environment(directory), directory)


def load_environment(directory: Path) -> dict[str, str]:
    """As `read_environment`. Raises ConfigurationError when the directory or its `.env` cannot be read."""
    if not directory.is_dir():
        raise ConfigurationError(
            f"ANTIPHON_HOME is {str(directory)!r}, which is not a directory", "name the directory with .env"
        )
    path = directory / ENV_FILE
    try:
        return read_environment(directory)
    except OSError as error:
        raise ConfigurationError(f"cannot read {path}: {error.strerror}", "check its owner and mode") from error
    except UnicodeError as error:
        raise ConfigurationError(f"cannot read {path}: it is not UTF-8", "save it as UTF-8") from error


def read_env_file(directory: Path) -> dict[str, str]:
    """The variables of `.env` in `directory`; none without that file."""
    return {name: value for name, value in dotenv_values(directory / ENV_FILE).items() if value is not None}


def read_environment(directory: Path) -> dict[str, str]:
    """The variables of this process over those of `.env` in `directory`."""
    file = read_env_file(directory)
    return {name: value for name, value in file.items() if _twin(name) not in os.environ} | os.environ


def _twin(name: str) -> str:
    """`NAME_FILE` and `NAME` stand for each other: one of this process goes before the other one in `.env`."""
    return name.removesuffix("_FILE") if name.endswith("_FILE") else f"{name}_FILE"


def channels_path(environment: Mapping[str, str], directory: Path) -> Path:
    """Where the channel table is. Raises ConfigurationError."""
    name = "ANTIPHON_CHANNELS"
    return resolved(name, directory / Variables(environment, directory).text(name, "channels.yaml"))


def read_settings(environment: Mapping[str, str], directory: Path) -> Settings:
    """Settings from variables. Relative paths are taken from `directory`. Raises ConfigurationError."""
    variables = Variables(environment, directory)
    max_body = variables.integer("ANTIPHON_MAX_BODY", 64 * 1024 * 1024, minimum=1024)
    return Settings(
        channels=channels_path(environment, directory),
        database_url=_database_url(variables),
        secret_key=_secret_key(variables),
        old_secret_keys=_old_secret_keys(variables),
        bind=_bind(variables),
        url=_url(variables),
        metrics=variables.choice("ANTIPHON_METRICS", _SWITCH) == "on" or bool(variables.text("ANTIPHON_METRICS_BIND")),
        metrics_bind=_metrics_bind(variables),
        traces=_traces(variables),
        console=variables.choice("ANTIPHON_CONSOLE", _SWITCH_ON) == "on",
        log=variables.choice("ANTIPHON_LOG", LOGS),
        workers=variables.integer("ANTIPHON_WORKERS", 2, minimum=1, maximum=1024),
        threads=variables.integer("ANTIPHON_THREADS", 512, minimum=4),
        sockets=variables.integer("ANTIPHON_SOCKETS", 128, minimum=0),
        socket_lifetime=variables.integer("ANTIPHON_SOCKET_LIFETIME", 3600, minimum=1),
        max_body=max_body,
        memory=_memory(variables, max_body),
        heartbeat=variables.seconds("ANTIPHON_HEARTBEAT", 15.0),
        header_after=variables.seconds("ANTIPHON_HEADER_AFTER", 10.0),
        client_write_timeout=float(variables.integer("ANTIPHON_STALL", 60, minimum=1)),
        stream_transport=variables.choice("ANTIPHON_MOVER", TRANSPORTS),
        drain=variables.integer("ANTIPHON_DRAIN", 20, minimum=0),
        lease=variables.integer("ANTIPHON_LEASE", 60, minimum=4),
        retention=variables.duration("ANTIPHON_RETENTION", "30d", minimum=DAY),
        pin=variables.choice("ANTIPHON_PIN", _PINS),
        queue_url=_queue_url(variables),
        worker_processes=variables.integer("ANTIPHON_WORKER_PROCESSES", 1, minimum=0, maximum=1024),
        worker_threads=variables.integer("ANTIPHON_WORKER_THREADS", 32, minimum=1),
        events_kept=variables.duration("ANTIPHON_EVENTS_KEPT", "10m", minimum=1),
        home=directory,
    )


class Variables:
    """Values by name, each of which may be the content of the file that its twin `NAME_FILE` names."""

    def __init__(self, environment: Mapping[str, str], directory: Path) -> None:
        self.directory = directory
        self._environment = environment

    def text(self, name: str, default: str = "") -> str:
        """Without blanks around it; an empty one is the default."""
        value = self._environment.get(name, "").strip()
        file = self._environment.get(f"{name}_FILE", "").strip()
        if value and file:
            raise ConfigurationError(f"{name} and {name}_FILE are both set", "unset one of them")
        return (self._content(f"{name}_FILE", file) if file else value) or default

    def integer(self, name: str, default: int, *, minimum: int, maximum: int = _MOST) -> int:
        text = self.text(name)
        if not text:
            return default
        if not _WHOLE.fullmatch(text) or not minimum <= int(text) <= maximum:
            raise ConfigurationError(f"{name} is {_shown(text)}", f"it is a whole number from {minimum} to {maximum}")
        return int(text)

    def seconds(self, name: str, default: float) -> float:
        """Tenths are the finest that is worth saying."""
        text = self.text(name)
        if not text:
            return default
        if not _TENTHS.fullmatch(text) or not 0.1 <= float(text) <= _LONGEST_SECONDS:
            raise ConfigurationError(
                f"{name} is {_shown(text)}", f"it is a number of seconds from 0.1 to {_LONGEST_SECONDS}"
            )
        return float(text)

    def choice(self, name: str, choices: Sequence[str]) -> str:
        """One of `choices`, by default the first."""
        text = self.text(name, choices[0])
        if text not in choices:
            raise ConfigurationError(f"{name} is {_shown(text)}", f"it is {' or '.join(choices)}")
        return text

    def duration(self, name: str, default: str, *, minimum: int) -> int:
        text = self.text(name, default)
        seconds = parse_duration(text)
        if seconds is None or seconds < minimum:
            raise ConfigurationError(
                f"{name} is {_shown(text)}",
                f"it is a duration such as 15m, 30d or 12w, {_shortest(minimum)} at least",
            )
        return seconds

    def _content(self, name: str, file: str) -> str:
        try:
            content = (self.directory / file).read_text().strip()
        except OSError as error:
            raise ConfigurationError(
                f"cannot read {name} {file}: {error.strerror}", "check its path and owner"
            ) from error
        except ValueError as error:
            raise ConfigurationError(f"cannot read {name} {file}: it is not UTF-8", "name a text file") from error
        if not content:
            raise ConfigurationError(f"the file of {name} is empty: {file}", "write the value into it")
        return content


def checked_bind(text: str, directory: Path) -> str:
    """An address to listen on: `host:port`, `[v6]:port` or `unix:/path`. Raises ValueError with the valid form."""
    if text.startswith("unix:"):
        return _checked_socket(text.removeprefix("unix:").removeprefix("//"), directory)
    host, colon, port = text.rpartition(":")
    if not colon or not host or not _HOST.fullmatch(host):
        wanted = f"127.0.0.1:{text.strip(':')}" if text.strip(":").isdecimal() else "127.0.0.1:8080"
        raise ValueError(f"it must be a host and a port, such as {wanted} or [::1]:8080, or unix:/path")
    if not _WHOLE.fullmatch(port) or not 1 <= int(port) <= LAST_PORT:
        raise ValueError(f"the port must be a whole number from 1 to {LAST_PORT}")
    return text


def _checked_socket(path: str, directory: Path) -> str:
    if not path:
        raise ValueError("unix: must be followed by a path, such as unix:/run/antiphon/antiphon.sock")
    absolute = os.path.abspath(directory / path)
    if len(os.fsencode(absolute)) > _LONGEST_SOCKET:
        raise ValueError(f"the path of a socket may have at most {_LONGEST_SOCKET} bytes")
    return f"unix:{absolute}"


def database_file(url: str) -> Path | None:
    """The file of a SQLite database; None of a server's."""
    return Path(unquote(url.removeprefix("sqlite:///"))) if url.startswith("sqlite:///") else None


def parse_duration(text: str) -> int | None:
    """The seconds of `90s`, `15m`, `12h`, `30d` or `4w`; None for any other text."""
    match = _DURATION.match(text)
    return int(match[1]) * _UNITS[match[2]] if match else None


def _derived(secret: str, purpose: str) -> bytes:
    return HKDF(SHA256(), 32, None, f"antiphon/{purpose}/v1".encode()).derive(secret.encode())


def _memory(variables: Variables, max_body: int) -> int:
    """Checks that one body of the largest size fits, with its values and copies."""
    least = _BODIES_IN_MEMORY * max_body
    return variables.integer("ANTIPHON_MEMORY", max(256 * 1024 * 1024, least), minimum=least, maximum=2**40)


def _secret_key(variables: Variables) -> str:
    value = variables.text("ANTIPHON_SECRET_KEY")
    if not value:
        raise ConfigurationError("ANTIPHON_SECRET_KEY is not set", "run `antiphon init` here, or start where .env lies")
    return _long_enough("ANTIPHON_SECRET_KEY", value)


def _old_secret_keys(variables: Variables) -> tuple[str, ...]:
    name = "ANTIPHON_OLD_SECRET_KEYS"
    text = variables.text(name)
    return tuple(_long_enough(name, key.strip()) for key in text.split(",")) if text else ()


def _long_enough(name: str, key: str) -> str:
    """A secret; a message never shows it."""
    if len(key) < MIN_SECRET:
        held = "has" if name == "ANTIPHON_SECRET_KEY" else "holds a key of"
        raise ConfigurationError(
            f"{name} {held} {len(key)} character{'s' * (len(key) != 1)}, at least {MIN_SECRET} are needed",
            "run `antiphon init` in a new directory and copy the key that it writes",
        )
    return key


def _bind(variables: Variables) -> str:
    text = variables.text("ANTIPHON_BIND", "127.0.0.1:8080")
    try:
        return checked_bind(text, variables.directory)
    except ValueError as error:
        raise ConfigurationError(f"ANTIPHON_BIND is {_shown(text)}", str(error)) from None


def _metrics_bind(variables: Variables) -> str:
    name = "ANTIPHON_METRICS_BIND"
    if not (text := variables.text(name)):
        return ""
    try:
        if not text.startswith("unix:"):
            return checked_bind(text, variables.directory)
        why = "Prometheus reads no unix sockets: it must be a host and a port, such as 127.0.0.1:9464"
    except ValueError as error:
        why = str(error).replace("8080", "9464")
    raise ConfigurationError(f"{name} is {_shown(text)}", why) from None


def _traces(variables: Variables) -> str:
    """It may hold a password, so a message never shows it."""
    url = variables.text("ANTIPHON_TRACES")
    if url and not _is_url(url, ("http", "https")):
        raise ConfigurationError(
            "ANTIPHON_TRACES is not the URL of a collector", "write it as http://127.0.0.1:4318/v1/traces"
        )
    return f"{url.rstrip('/')}{_TRACES_PATH}" if url and urlsplit(url).path in ("", "/") else url


def _url(variables: Variables) -> str:
    url = variables.text("ANTIPHON_URL")
    if url and not _is_url(url, ("http", "https")):
        raise ConfigurationError(
            f"ANTIPHON_URL is {_shown(url)}, which is no base URL", "write it as https://antiphon.example.com/v1"
        )
    return url


def _queue_url(variables: Variables) -> str | None:
    url = variables.text("ANTIPHON_QUEUE_URL")
    if not url:
        return None
    if not (url.startswith("unix:///") or _is_url(url, ("redis", "rediss"))):
        raise ConfigurationError(
            "ANTIPHON_QUEUE_URL is not the URL of a Redis",
            "write it as redis://host:6379/0, or leave it out to use the database as the queue",
        )
    return url


def _database_url(variables: Variables) -> str:
    """It may hold a password, so a message never shows it."""
    return checked_database_url(variables.text("ANTIPHON_DATABASE_URL", "sqlite:///antiphon.db"), variables.directory)


def checked_database_url(url: str, directory: Path) -> str:
    """The URL, with an absolute path for SQLite. Raises ConfigurationError."""
    scheme = url.partition(":")[0]
    if scheme not in _DATABASES or "://" not in url:
        raise _database_error("begins with neither sqlite:/// nor mysql://")
    if scheme == "sqlite":
        return f"sqlite:///{_database_file(url.removeprefix('sqlite://'), directory)}"
    if "?" in url or "#" in url:
        raise _database_error("holds a '?' or '#', which a password must write as %3F or %23")
    if not _is_url(url, ("mysql",)):
        raise _database_error("has no host, or a port that is none; a password must write '/' and '@' as %2F and %40")
    if not urlsplit(url).path.strip("/"):
        raise _database_error("names no database")
    return url


def _database_file(path: str, directory: Path) -> str:
    """Made absolute, so that it means the same file from every directory."""
    name = path.removeprefix("/")
    if not path.startswith("/") or not name or name == ":memory:":
        raise _database_error("names no file: three slashes and a path follow sqlite:")
    if "?" in name or "#" in name:
        raise _database_error("holds a '?' or '#': the path of a file takes no options")
    return quote(str(resolved("ANTIPHON_DATABASE_URL", directory / unquote(name))))


def _database_error(why: str) -> ConfigurationError:
    return ConfigurationError(
        f"ANTIPHON_DATABASE_URL {why}", "write it as sqlite:///antiphon.db or mysql://user:password@host:3306/name"
    )


def _is_url(text: str, schemes: Sequence[str]) -> bool:
    """With a host, and a port that is one where it has any."""
    try:
        parts = urlsplit(text)
        _ = parts.port
    except ValueError:
        return False
    return parts.scheme in schemes and bool(parts.hostname) and not re.search(r"\s", text)


def _shown(text: str) -> str:
    """As a message may quote it."""
    return repr(text if len(text) <= _QUOTED else f"{text[:_QUOTED]}…")


def _shortest(seconds: int) -> str:
    return f"{seconds // DAY}d" if seconds >= DAY else f"{seconds}s"
