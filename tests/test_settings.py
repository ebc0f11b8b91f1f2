import contextlib
import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.errors import ConfigurationError
from app.settings import database_file, load_environment, read_settings
from app.store.store import Store
from tests.gateway import ROOT

SECRET = "s" * 40
README = ROOT / "README.md"


def test_relative_paths_start_at_the_directory_of_env(tmp_path: Path) -> None:
    settings = read_settings({"ANTIPHON_SECRET_KEY": SECRET, "ANTIPHON_DATABASE_URL": "sqlite:///x.db"}, tmp_path)
    assert settings.database_url == f"sqlite:///{tmp_path}/x.db"
    assert settings.channels == tmp_path / "channels.yaml"


def test_a_secret_may_come_from_a_file(tmp_path: Path) -> None:
    (tmp_path / "key").write_text(SECRET + "\n")
    assert read_settings({"ANTIPHON_SECRET_KEY_FILE": "key"}, tmp_path).secret_key == SECRET


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("SECRET_KEY", ""),
        ("SECRET_KEY", "short"),
        ("SECRET_KEY_FILE", "missing"),
        ("OLD_SECRET_KEYS", "short"),
        ("OLD_SECRET_KEYS", f"{SECRET},"),
        ("OLD_SECRET_KEYS", ","),
        ("WORKERS", "many"),
        ("WORKERS", "-1"),
        ("WORKERS", "1.5"),
        ("WORKERS", "١"),
        ("WORKERS", "9" * 5000),
        ("WORKERS", "1000000"),
        ("THREADS", "0"),
        ("WORKER_PROCESSES", "-2"),
        ("WORKER_THREADS", "0"),
        ("SOCKETS", "-1"),
        ("SOCKET_LIFETIME", "1h"),
        ("MAX_BODY", "64MB"),
        ("HEARTBEAT", "0"),
        ("HEARTBEAT", "15s"),
        ("HEADER_AFTER", "0.05"),
        ("HEADER_AFTER", "1.25"),
        ("HEADER_AFTER", "nan"),
        ("STALL", "nan"),
        ("LEASE", "1"),
        ("DRAIN", "-5"),
        ("RETENTION", "1h"),
        ("RETENTION", "forever"),
        ("EVENTS_KEPT", "0s"),
        ("MOVER", "magic"),
        ("PIN", "maybe"),
        ("LOG", "xml"),
        ("URL", "antiphon.example.com"),
        ("URL", "ftp://antiphon.example.com"),
        ("URL", "https://"),
        ("URL", "https://h:port"),
        ("QUEUE_URL", "amqp://host"),
        ("QUEUE_URL", "redis://"),
        ("QUEUE_URL", "redis://host:99999"),
        ("BIND", "8462"),
        ("BIND", "127.0.0.1"),
        ("BIND", "127.0.0.1:"),
        ("BIND", "127.0.0.1:0"),
        ("BIND", "127.0.0.1:99999"),
        ("BIND", "127.0.0.1:http"),
        ("BIND", ":8080"),
        ("BIND", "::1:8080"),
        ("BIND", "http://127.0.0.1:8080"),
        ("BIND", "unix:"),
        ("BIND", "unix:/" + "x" * 200),
        ("DATABASE_URL", "foo"),
        ("DATABASE_URL", "antiphon.db"),
        ("DATABASE_URL", "postgres://host/name"),
        ("DATABASE_URL", "sqlite:x.db"),
        ("DATABASE_URL", "sqlite://x.db"),
        ("DATABASE_URL", "sqlite:///"),
        ("DATABASE_URL", "sqlite:///:memory:"),
        ("DATABASE_URL", "sqlite:///x.db?mode=ro"),
        ("DATABASE_URL", "mysql://host"),
        ("DATABASE_URL", "mysql:///name"),
        ("DATABASE_URL", "mysql://u:canary@host:port/name"),
        ("DATABASE_URL", "mysql://u:canary@host:99999/name"),
        ("DATABASE_URL", "mysql://u:canary#x@host/name"),
        ("DATABASE_URL", "mysql://u:canary/x@host/name"),
        ("DATABASE_URL_FILE", "missing"),
        ("BIND_FILE", "."),
        ("CHANNELS_FILE", "binary"),
        ("CHANNELS_FILE", "empty"),
    ],
    ids=lambda text: text[:24],
)
def test_a_wrong_variable_is_named_with_its_fix(tmp_path: Path, name: str, value: str) -> None:
    (tmp_path / "binary").write_bytes(b"\xff\xfe")
    (tmp_path / "empty").write_text("\n")
    with pytest.raises(ConfigurationError) as caught:
        read_settings({"ANTIPHON_SECRET_KEY": SECRET, f"ANTIPHON_{name}": value}, tmp_path)
    assert f"ANTIPHON_{name}" in caught.value.message
    assert caught.value.fix
    shown = caught.value.message + caught.value.fix
    assert "\n" not in shown
    assert len(shown) < 400
    assert "canary" not in shown


@given(value=st.text(max_size=80), name=st.sampled_from(["BIND", "DATABASE_URL", "QUEUE_URL", "URL", "WORKERS"]))
def test_any_text_is_a_setting_or_is_refused_by_name(value: str, name: str) -> None:
    refusal = None
    try:
        read_settings({"ANTIPHON_SECRET_KEY": SECRET, f"ANTIPHON_{name}": value}, Path("/tmp"))
    except ConfigurationError as error:
        refusal = error
    assert refusal is None or (f"ANTIPHON_{name}" in refusal.message and refusal.fix)


@pytest.mark.parametrize(
    ("value", "bind"),
    [
        ("0.0.0.0:80", "0.0.0.0:80"),
        (" [::1]:8080 ", "[::1]:8080"),
        ("gateway.internal:65535", "gateway.internal:65535"),
        ("unix:/run/a.sock", "unix:/run/a.sock"),
        ("unix:///run/a.sock", "unix:/run/a.sock"),
        ("unix:a.sock", "unix:{}/a.sock"),
    ],
)
def test_an_address_is_a_host_with_a_port_or_a_socket(tmp_path: Path, value: str, bind: str) -> None:
    settings = read_settings({"ANTIPHON_SECRET_KEY": SECRET, "ANTIPHON_BIND": value}, tmp_path)
    assert settings.bind == bind.format(tmp_path)


@pytest.mark.parametrize(("written", "name"), [("x y.db", "x y.db"), ("x%23y.db", "x#y.db")])
def test_the_file_of_a_database_may_have_any_name(tmp_path: Path, written: str, name: str) -> None:
    here = tmp_path / "a#b%20?c"
    here.mkdir()
    chosen = {"ANTIPHON_SECRET_KEY": SECRET, "ANTIPHON_DATABASE_URL": f"sqlite:///{written}"}
    url = read_settings(chosen, here).database_url
    assert database_file(url) == here / name
    with contextlib.closing(Store(url, peppers=[b"p"])) as store:
        store.schema.upgrade()
    assert (here / name).is_file()


class ReadNames(dict[str, str]):
    """An environment that remembers the names that were read."""

    def __init__(self, environment: dict[str, str]) -> None:
        super().__init__(environment)
        self.names: set[str] = set()

    def get(self, name: str, default: Any = None) -> Any:
        self.names.add(name)
        return super().get(name, default)


def variables_read(tmp_path: Path) -> set[str]:
    """Every variable that the settings are read from."""
    context = ReadNames({"ANTIPHON_SECRET_KEY": SECRET})
    read_settings(context, tmp_path)
    return {name for name in context.names if not name.endswith("_FILE")}


def test_every_variable_may_stand_in_a_file(tmp_path: Path) -> None:
    context = ReadNames({"ANTIPHON_SECRET_KEY": SECRET})
    read_settings(context, tmp_path)
    assert {f"{name}_FILE" for name in variables_read(tmp_path)} <= context.names
    (tmp_path / "workers").write_text("7\n")
    chosen = {"ANTIPHON_SECRET_KEY": SECRET, "ANTIPHON_WORKERS_FILE": "workers"}
    assert read_settings(chosen, tmp_path).workers == 7
    with pytest.raises(ConfigurationError, match="ANTIPHON_WORKERS and ANTIPHON_WORKERS_FILE"):
        read_settings({**chosen, "ANTIPHON_WORKERS": "3"}, tmp_path)


def test_the_readme_has_every_variable_and_no_other_with_its_default(tmp_path: Path) -> None:
    table = dict(re.findall(r"^\| `(ANTIPHON_\w+)` \| (.*?) \|", README.read_text(), re.M))
    assert table.keys() == variables_read(tmp_path)
    defaults = read_settings({"ANTIPHON_SECRET_KEY": SECRET}, tmp_path)
    for name, default in table.items():
        if written := re.fullmatch(r"`(.*)`", default):
            stated = read_settings({"ANTIPHON_SECRET_KEY": SECRET, name: written[1]}, tmp_path)
            assert stated == defaults, name


def test_an_environment_that_cannot_be_read_is_a_mistake_of_configuration(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="ANTIPHON_HOME"):
        load_environment(tmp_path / "none")
    (tmp_path / ".env").write_bytes(b"A=\xff\n")
    with pytest.raises(ConfigurationError, match="not UTF-8"):
        load_environment(tmp_path)


def test_each_purpose_has_a_key_of_its_own_and_none_shows_the_secret(tmp_path: Path) -> None:
    settings = read_settings({"ANTIPHON_SECRET_KEY": SECRET}, tmp_path)
    assert settings.key_for("tokens") != settings.key_for("compaction")
    assert len(settings.key_for("tokens")) == 32
    assert SECRET not in repr(settings)


@pytest.mark.parametrize(("threads", "sockets", "held"), [(512, 128, 127), (512, 64, 64), (32, 128, 7), (4, 9, 0)])
def test_sockets_take_less_than_a_quarter_of_the_threads(tmp_path: Path, threads: int, sockets: int, held: int) -> None:
    chosen = {"ANTIPHON_THREADS": str(threads), "ANTIPHON_SOCKETS": str(sockets)}
    settings = read_settings({"ANTIPHON_SECRET_KEY": SECRET, **chosen}, tmp_path)
    assert settings.max_sockets == held
    assert settings.max_sockets < settings.threads / 4
