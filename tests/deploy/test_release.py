"""A built wheel works as a checkout does: it is installed into an empty environment, far from the source."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tarfile
import venv
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from app import __version__
from tests.gateway import ROOT, ExecutedGateway

pytestmark = pytest.mark.release

#: What work in a checkout leaves behind.
NOT_SOURCE = (".*", "*.egg-info", "build", "dist", "__pycache__", "results")
SHIPPED = ("README.md", "CHANGELOG.md", "channels.yaml", *(path.relative_to(ROOT) for path in ROOT.glob("deploy/**/*")))


class InstalledGateway(ExecutedGateway):
    """A gateway of an environment that has the wheel only."""

    @property
    def environment(self) -> dict[str, str]:
        return {name: value for name, value in super().environment.items() if name != "PYTHONPATH"}


@pytest.fixture(scope="module")
def release(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The directory with the wheel and the source archive."""
    directory = tmp_path_factory.mktemp("release")
    source = shutil.copytree(ROOT, directory / "source", ignore=shutil.ignore_patterns(*NOT_SOURCE))
    run(sys.executable, "-m", "build", "--outdir", str(directory / "dist"), str(source))
    return directory / "dist"


@pytest.fixture(scope="module")
def prefix(release: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An environment with the wheel and what it requires."""
    prefix = tmp_path_factory.mktemp("installed") / "venv"
    venv.create(prefix, with_pip=True)
    run(str(prefix / "bin" / "pip"), "install", "--quiet", "--disable-pip-version-check", str(wheel_in(release)))
    return prefix


@pytest.fixture(scope="module")
def installed(prefix: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[InstalledGateway]:
    channels = yaml.safe_load((prefix / "share" / "antiphon" / "channels.yaml").read_text())["channels"]
    gateway = InstalledGateway(tmp_path_factory.mktemp("gateway"), channels, worker_processes=1)
    gateway.program = (str(prefix / "bin" / "antiphon"),)
    with gateway:
        yield gateway


def run(*command: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def wheel_in(directory: Path) -> Path:
    (wheel,) = directory.glob("*.whl")
    return wheel


def test_the_file_names_hold_the_version_of_the_code(release: Path) -> None:
    assert wheel_in(release).name == f"antiphon-{__version__}-py3-none-any.whl"
    assert (release / f"antiphon-{__version__}.tar.gz").exists()


def test_the_changelog_has_a_section_for_the_version() -> None:
    headings = [line for line in (ROOT / "CHANGELOG.md").read_text().splitlines() if line.startswith("## ")]
    assert any(heading.startswith(f"## [{__version__}]") for heading in headings)


def test_the_wheel_brings_what_a_deployment_copies(prefix: Path) -> None:
    shared = prefix / "share" / "antiphon"
    files = [name for name in SHIPPED if (ROOT / name).is_file() and Path(name).name != "Containerfile"]
    files = [name for name in files if "__pycache__" not in Path(name).parts]
    assert len(files) > 10
    assert {str(name) for name in files if (shared / name).read_bytes() != (ROOT / name).read_bytes()} == set()


def test_the_source_archive_builds_the_same_program(release: Path) -> None:
    with tarfile.open(release / f"antiphon-{__version__}.tar.gz") as archive:
        names = {name.split("/", 1)[1] for name in archive.getnames() if "/" in name}
    missing = {str(path.relative_to(ROOT)) for path in (ROOT / "app").rglob("*.py")} - names
    assert not missing
    assert {"setup.cfg", "pyproject.toml", "deploy/systemd/antiphon.service", "app/cli/channels.yaml"} <= names


def test_an_installed_command_has_the_schema_of_the_table(prefix: Path) -> None:
    shipped = (ROOT / "app" / "cli" / "channels.schema.json").read_text()
    assert run(str(prefix / "bin" / "antiphon"), "schema") == shipped
    assert (prefix / "share" / "antiphon" / "channels.schema.json").read_text() == shipped


def test_an_installed_gateway_answers(installed: InstalledGateway) -> None:
    with installed.client() as client:
        response = client.responses.create(model="demo", input="Hello")
        follower = client.responses.create(model="demo", input="Again", previous_response_id=response.id)
    assert (response.status, follower.status) == ("completed", "completed")


def test_an_installed_gateway_streams_and_works_in_the_background(installed: InstalledGateway) -> None:
    with installed.client() as client:
        with client.responses.stream(model="demo", input="Hello") as stream:
            assert stream.get_final_response().status == "completed"
        later = client.responses.create(model="demo", input="Later", background=True, stream=True)
        assert [event.type for event in later][-1] == "response.completed"


def test_the_installed_command_knows_its_version_and_table(installed: InstalledGateway) -> None:
    assert installed.command("--version").strip().endswith(__version__)
    assert "demo" in installed.command("models")
    installed.command("check")
