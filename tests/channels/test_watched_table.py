import logging
import os

import pytest

from app.channels.watched_table import WatchedTable, stamp_of
from app.channels.yaml_document import ChannelsInvalid
from tests.channels.tables import CANARY, DEMO, FORMATS, rows, write


def replace(path, text):
    beside = path.with_name("new")
    beside.write_text(text)
    os.replace(beside, path)


@pytest.fixture
def watched(tmp_path):
    return WatchedTable(write(tmp_path, DEMO), dict, FORMATS)


def test_a_changed_file_is_swapped_in_and_readers_keep_theirs(watched, caplog):
    caplog.set_level(logging.INFO)
    before = watched.current
    replace(watched.path, DEMO.replace("name: demo", "name: other"))
    assert watched.current is before
    watched.poll()
    assert [channel.name for channel in watched.current.channels] == ["other"]
    assert [channel.name for channel in before.channels] == ["demo"]
    assert watched.current.digest != before.digest
    assert "+other -demo" in caplog.text


def test_an_unchanged_file_is_not_read_again(watched):
    before = watched.current
    watched.poll()
    assert watched.current is before


@pytest.mark.parametrize("text", ["", DEMO[:30], DEMO + "zzz: 1\n", DEMO + "'"])
def test_a_bad_file_keeps_the_old_table_and_says_why_once(watched, caplog, text):
    before = watched.current
    replace(watched.path, text)
    watched.poll()
    watched.poll()
    assert watched.current is before
    assert "channels.yaml:" in watched.rejected
    assert len(caplog.records) == 1
    replace(watched.path, DEMO)
    watched.poll()
    assert watched.rejected is None


def test_a_file_written_in_place_is_followed_to_its_end(watched):
    with watched.path.open("w") as file:
        for half in (DEMO[:40], DEMO[40:].replace("demo]", "demo, more]")):
            file.write(half)
            file.flush()
            watched.poll()
    watched.poll()
    assert watched.rejected is None
    assert watched.current.names() == ["demo", "more"]


def test_a_deleted_file_keeps_the_old_table_until_it_is_back(watched):
    before = watched.current
    watched.path.unlink()
    watched.poll()
    assert watched.current is before
    assert "cannot be read" in watched.rejected
    write(watched.path.parent, DEMO)
    watched.poll()
    assert watched.rejected is None


def test_touching_the_stamp_reads_the_environment_again(tmp_path):
    path = write(tmp_path, rows("- {name: a, format: demo, models: [m], api_key: '${K}'}"))
    environment = {}
    watched = WatchedTable(path, lambda: dict(environment), FORMATS)
    assert watched.current.channels == ()
    environment["K"] = CANARY
    watched.poll()
    assert watched.current.channels == ()
    stamp_of(path).touch()
    watched.poll()
    assert watched.current.channels[0].api_key == CANARY


def test_an_environment_that_cannot_be_read_keeps_the_old_table(tmp_path):
    dotenv = tmp_path / ".env"
    dotenv.write_text("")
    watched = WatchedTable(write(tmp_path, DEMO), lambda: {"ALL": dotenv.read_text()}, FORMATS)
    before = watched.current
    dotenv.unlink()
    replace(watched.path, DEMO + "\n")
    watched.poll()
    assert watched.current is before
    assert watched.rejected


def test_a_bad_file_stops_the_start(tmp_path):
    with pytest.raises(ChannelsInvalid):
        WatchedTable(write(tmp_path, "version: 3\n"), dict, FORMATS)


def test_a_change_of_the_tool_servers_alone_is_swapped_in_with_the_channels(watched, caplog):
    caplog.set_level(logging.INFO)
    server = "tools:\n  servers:\n    - {label: docs, url: 'http://mcp.test/mcp', headers: {X-Key: one}}\n"
    replace(watched.path, DEMO + server)
    watched.poll()
    before = watched.current
    assert list(before.tools.servers) == ["docs"]
    assert "+tools/docs" in caplog.text
    replace(watched.path, DEMO + server.replace("one", "two"))
    watched.poll()
    assert "~tools/docs" in caplog.text
    assert before.tools.servers["docs"].headers == {"X-Key": "one"}
    replace(watched.path, DEMO + server.replace("url", "uri"))
    watched.poll()
    assert watched.current.tools.servers["docs"].headers == {"X-Key": "two"}
    replace(watched.path, DEMO)
    watched.poll()
    assert not watched.current.tools
