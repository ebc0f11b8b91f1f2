from pathlib import Path

import pytest

from app.errors import ConfigurationError
from app.settings import read_settings

SECRET = "s" * 40


def test_relative_paths_start_at_the_directory_of_env(tmp_path: Path) -> None:
    settings = read_settings({"ANTIPHON_SECRET_KEY": SECRET, "ANTIPHON_DATABASE_URL": "sqlite:///x.db"}, tmp_path)
    assert settings.database_url == f"sqlite:///{tmp_path}/x.db"
    assert settings.channels == tmp_path / "channels.yaml"


def test_a_secret_may_come_from_a_file(tmp_path: Path) -> None:
    (tmp_path / "key").write_text(SECRET + "\n")
    assert read_settings({"ANTIPHON_SECRET_KEY_FILE": "key"}, tmp_path).secret_key == SECRET


@pytest.mark.parametrize(
    ("environment", "names"),
    [
        ({}, "ANTIPHON_SECRET_KEY"),
        ({"ANTIPHON_SECRET_KEY": "short"}, "ANTIPHON_SECRET_KEY"),
        ({"ANTIPHON_SECRET_KEY": SECRET, "ANTIPHON_WORKERS": "many"}, "ANTIPHON_WORKERS"),
        ({"ANTIPHON_SECRET_KEY": SECRET, "ANTIPHON_THREADS": "0"}, "ANTIPHON_THREADS"),
        ({"ANTIPHON_SECRET_KEY": SECRET, "ANTIPHON_MOVER": "magic"}, "ANTIPHON_MOVER"),
        ({"ANTIPHON_SECRET_KEY": SECRET, "ANTIPHON_PIN": "maybe"}, "ANTIPHON_PIN"),
        ({"ANTIPHON_SECRET_KEY": SECRET, "ANTIPHON_DATABASE_URL": "sqlite:///"}, "ANTIPHON_DATABASE_URL"),
        ({"ANTIPHON_SECRET_KEY_FILE": "missing"}, "ANTIPHON_SECRET_KEY_FILE"),
    ],
)
def test_a_wrong_variable_is_named_with_its_fix(tmp_path: Path, environment: dict[str, str], names: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        read_settings(environment, tmp_path)
    assert names in caught.value.message
    assert caught.value.fix


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
