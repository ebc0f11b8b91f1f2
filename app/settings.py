"""Settings, read once from the environment and `.env`, frozen before anything is built from them."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from dotenv import dotenv_values

from app.errors import ConfigurationError

ENV_FILE = ".env"
MIN_SECRET = 32
DAY = 86_400
#: Streams are told to end this many seconds before gunicorn would kill them.
DRAIN_RESERVE = 5
LOGS = ("text", "json")
MOVERS = ("pump", "generator")

_DURATION = re.compile(r"(\d{1,9})([smhdw])\Z", re.ASCII)
_UNITS = {"s": 1, "m": 60, "h": 3600, "d": DAY, "w": 7 * DAY}
_PINS = ("auto", "on", "off")


@dataclass(frozen=True, slots=True)
class Settings:
    """Paths are absolute, durations seconds, sizes bytes."""

    channels: Path
    database_url: str = field(repr=False)
    secret_key: str = field(repr=False)
    old_secret_keys: tuple[str, ...] = field(default=(), repr=False)
    bind: str = "127.0.0.1:8080"
    url: str = ""
    """The base URL that people use, where it is not this address."""
    log: str = "text"
    """What a line of the log is: text, or a JSON object."""
    workers: int = 2
    threads: int = 512
    sockets: int = 128
    """WebSockets that one worker may hold, as far as it has threads for them; see `max_sockets`."""
    socket_lifetime: int = 3600
    max_body: int = 64 * 1024 * 1024
    heartbeat: float = 15.0
    stall: float = 60.0
    """For so long the client of a stream may take nothing of it."""
    mover: str = "pump"
    """Who moves the bytes of streams: the pump, one thread for all of them, or each request's own thread."""
    lease: int = 60
    drain: int = 20
    retention: int = 30 * DAY
    """What was not used for so long may be pruned."""
    pin: str = "auto"
    """Whether each worker keeps to one core: on, off, or auto, where there are no more workers than cores."""
    queue_url: str | None = field(default=None, repr=False)
    """Where the doorbells of background responses wait; None for the database."""
    worker_processes: int = 1
    """Workers for background responses beside `antiphon serve`; 0 where `antiphon worker` runs by itself."""
    worker_threads: int = 32
    """Background responses that one worker makes at once."""
    events_kept: int = 600
    """For how long the events of a background response can be streamed again after its end."""
    home: Path = Path()
    """Where `.env` lies; relative paths start here."""

    @property
    def max_in_flight(self) -> int:
        """Requests that may be at work in one worker; the threads above it answer `/healthz` and refusals."""
        return max(1, self.threads - max(2, self.threads // 16))

    @property
    def max_sockets(self) -> int:
        """Each holds a thread however idle it is: below a quarter of them, so that requests always find one."""
        return min(self.sockets, (self.threads - 1) // 4)

    def key_for(self, purpose: str) -> bytes:
        """A 32-byte key for one purpose only, derived from the secret key."""
        return _derived(self.secret_key, purpose)

    def keys_for(self, purpose: str) -> list[bytes]:
        """The same, then those of the keys that were in use before: they still open what they closed."""
        return [_derived(secret, purpose) for secret in (self.secret_key, *self.old_secret_keys)]


def home() -> Path:
    """The directory whose `.env` counts: the current one, unless `antiphon serve` came from another."""
    return Path(os.environ.get("ANTIPHON_HOME") or Path.cwd()).resolve()


def load_settings() -> Settings:
    """The settings of this process. Raises ConfigurationError."""
    directory = home()
    return read_settings(read_environment(directory), directory)


def read_environment(directory: Path) -> dict[str, str]:
    """The variables of this process over those of `.env` in `directory`."""
    file = {name: value for name, value in dotenv_values(directory / ENV_FILE).items() if value is not None}
    return {**file, **os.environ}


def read_settings(environment: Mapping[str, str], directory: Path) -> Settings:
    """Settings from variables. Relative paths are taken from `directory`. Raises ConfigurationError."""
    secret = _secret(environment, "ANTIPHON_SECRET_KEY", directory)
    if len(secret) < MIN_SECRET:
        raise ConfigurationError(
            f"ANTIPHON_SECRET_KEY has {len(secret)} characters, at least {MIN_SECRET} are needed",
            "run `antiphon init` in a new directory and copy the key that it writes",
        )
    old = _optional(environment, "ANTIPHON_OLD_SECRET_KEYS", directory) or ""
    threads = _integer(environment, "ANTIPHON_THREADS", 512, minimum=4)
    return Settings(
        channels=(directory / environment.get("ANTIPHON_CHANNELS", "channels.yaml")).resolve(),
        database_url=absolute_database_url(
            _optional(environment, "ANTIPHON_DATABASE_URL", directory) or "sqlite:///antiphon.db", directory
        ),
        secret_key=secret,
        old_secret_keys=tuple(filter(None, (key.strip() for key in old.split(",")))),
        bind=environment.get("ANTIPHON_BIND", "127.0.0.1:8080"),
        url=environment.get("ANTIPHON_URL", ""),
        log=_choice(environment, "ANTIPHON_LOG", LOGS),
        workers=_integer(environment, "ANTIPHON_WORKERS", 2, minimum=1),
        threads=threads,
        sockets=_integer(environment, "ANTIPHON_SOCKETS", 128, minimum=0),
        socket_lifetime=_integer(environment, "ANTIPHON_SOCKET_LIFETIME", 3600, minimum=1),
        max_body=_integer(environment, "ANTIPHON_MAX_BODY", 64 * 1024 * 1024, minimum=1024),
        heartbeat=float(_integer(environment, "ANTIPHON_HEARTBEAT", 15, minimum=1)),
        stall=float(_integer(environment, "ANTIPHON_STALL", 60, minimum=1)),
        mover=_choice(environment, "ANTIPHON_MOVER", MOVERS),
        drain=_integer(environment, "ANTIPHON_DRAIN", 20, minimum=0),
        lease=_integer(environment, "ANTIPHON_LEASE", 60, minimum=4),
        retention=_duration(environment, "ANTIPHON_RETENTION", "30d", minimum=DAY),
        pin=_choice(environment, "ANTIPHON_PIN", _PINS),
        queue_url=_queue_url(environment, directory),
        worker_processes=_integer(environment, "ANTIPHON_WORKER_PROCESSES", 1, minimum=0),
        worker_threads=_integer(environment, "ANTIPHON_WORKER_THREADS", 32, minimum=1),
        events_kept=_duration(environment, "ANTIPHON_EVENTS_KEPT", "10m", minimum=1),
        home=directory,
    )


def absolute_database_url(url: str, directory: Path) -> str:
    """A relative SQLite path made absolute, so that it means the same file from every directory."""
    scheme, separator, path = url.partition(":///")
    if scheme != "sqlite" or not separator:
        return url
    if not path:
        raise ConfigurationError("ANTIPHON_DATABASE_URL names no file", "write it as sqlite:///antiphon.db")
    return f"sqlite:///{(directory / path).resolve()}"


def parse_duration(text: str) -> int | None:
    """The seconds of `90s`, `15m`, `12h`, `30d` or `4w`; None for what is none of these."""
    match = _DURATION.match(text)
    return int(match[1]) * _UNITS[match[2]] if match else None


def _derived(secret: str, purpose: str) -> bytes:
    return HKDF(SHA256(), 32, None, f"antiphon/{purpose}/v1".encode()).derive(secret.encode())


def _secret(environment: Mapping[str, str], name: str, directory: Path) -> str:
    value = _optional(environment, name, directory)
    if value is None:
        raise ConfigurationError(f"{name} is not set", "run `antiphon init` here, or start where .env lies")
    return value


def _optional(environment: Mapping[str, str], name: str, directory: Path) -> str | None:
    """The variable, or the content of the file that its twin `NAME_FILE` names."""
    if value := environment.get(name):
        return value
    file = environment.get(f"{name}_FILE")
    if not file:
        return None
    try:
        return (directory / file).read_text().strip()
    except OSError as error:
        raise ConfigurationError(
            f"cannot read {name}_FILE {file}: {error.strerror}", "check its path and owner"
        ) from error


def _integer(environment: Mapping[str, str], name: str, default: int, *, minimum: int) -> int:
    text = environment.get(name, "").strip()
    if not text:
        return default
    if not text.isdecimal() or int(text) < minimum:
        raise ConfigurationError(f"{name} is {text!r}", f"it is a whole number from {minimum} on")
    return int(text)


def _choice(environment: Mapping[str, str], name: str, choices: Sequence[str]) -> str:
    """One of `choices`, by default the first."""
    text = environment.get(name, "").strip() or choices[0]
    if text not in choices:
        raise ConfigurationError(f"{name} is {text!r}", f"it is {' or '.join(choices)}")
    return text


def _duration(environment: Mapping[str, str], name: str, default: str, *, minimum: int) -> int:
    text = environment.get(name, "").strip() or default
    seconds = parse_duration(text)
    if seconds is None or seconds < minimum:
        raise ConfigurationError(
            f"{name} is {text!r}", f"it is a duration such as 15m, 30d or 12w, {_shortest(minimum)} at least"
        )
    return seconds


def _shortest(seconds: int) -> str:
    return f"{seconds // DAY}d" if seconds >= DAY else f"{seconds}s"


def _queue_url(environment: Mapping[str, str], directory: Path) -> str | None:
    url = _optional(environment, "ANTIPHON_QUEUE_URL", directory)
    if url and not url.startswith(("redis://", "rediss://", "unix://")):
        raise ConfigurationError(
            "ANTIPHON_QUEUE_URL does not start with redis://", "leave it out to use the database as the queue"
        )
    return url
