"""antiphon reload, on a gateway that runs."""

from __future__ import annotations

from pathlib import Path

from app.channels.watched_table import stamp_of
from tests.conftest import MakeGateway
from tests.gateway import Gateway
from tests.relay.conftest import eventually
from tests.upstream import ScriptedUpstream

CONFIGURATION = 78


def test_a_variable_changed_in_env_is_used_after_a_reload(gateway: MakeGateway, upstream: ScriptedUpstream) -> None:
    running = gateway([upstream.channel(models=["${MODEL:-before}"])])
    assert _models(running) == ["before"]
    with (running.directory / ".env").open("a") as file:
        file.write("MODEL=after\n")
    assert "channels.yaml ok" in running.command("reload")
    eventually(lambda: _models(running) == ["after"], "the workers to read the table again")


def test_a_wrong_table_is_refused_with_its_exit_code(tmp_path: Path) -> None:
    directory = Gateway(tmp_path, [{"name": "broken", "format": "responses"}])
    directory.command("reload", exit_code=CONFIGURATION)
    assert not stamp_of(directory.channels_file).exists()


def test_a_stamp_that_cannot_be_touched_is_an_error(tmp_path: Path) -> None:
    directory = Gateway(tmp_path, [{"name": "demo", "format": "demo", "models": ["demo"]}])
    stamp_of(directory.channels_file).symlink_to("/proc/self/nothing")
    directory.command("reload", exit_code=CONFIGURATION)


def _models(running: Gateway) -> list[str]:
    return [model["id"] for model in running.get("/models").json()["data"]]
