"""antiphon check, on files that are right and files that are not."""

from __future__ import annotations

from pathlib import Path

import orjson

from tests.gateway import Gateway

TABLE = """\
version: 1
models:
  price:                 # a model of this name, not the key
    context_window: 1000
  demo:
    price:
      input: 1.5
      output: 6
    compact_at: 0.8
channels:
  - name: demo
    format: demo
    tags: [cheap, local]
    models: {demo: , tags: }
"""


def _directory(path: Path, text: str) -> Gateway:
    directory = Gateway(path, [])
    (path / "channels.yaml").write_text(text)
    return directory


def test_keys_without_effect_are_noted_with_their_place(tmp_path: Path) -> None:
    done = _directory(tmp_path, TABLE).attempt("check")
    assert done.returncode == 0
    assert [line.split("channels.yaml:")[1] for line in done.stderr.splitlines()] == ["13:5: 'tags' is not used yet"]
    assert all(line.startswith("note: ") for line in done.stderr.splitlines())
    assert done.stdout.endswith("1 channel, 2 models, 0 warnings\n")


def test_programs_read_the_same_as_json(tmp_path: Path) -> None:
    read = orjson.loads(_directory(tmp_path, TABLE).command("check", "--json"))
    assert [(note["line"], note["message"]) for note in read["unused"]] == [(13, "'tags' is not used yet")]
    assert (read["ok"], read["errors"], read["warnings"], read["channels"]) == (True, [], [], ["demo"])


def test_a_table_of_used_keys_has_no_notes(tmp_path: Path) -> None:
    done = _directory(tmp_path, "version: 1\nchannels: [{name: demo, format: demo, models: [tags, price]}]\n").attempt(
        "check"
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_a_wrong_table_is_the_errors_alone(tmp_path: Path) -> None:
    done = _directory(tmp_path, TABLE.replace("0.8", "8")).attempt("check", "--json")
    read = orjson.loads(done.stdout)
    assert (done.returncode, read["ok"], [error["line"] for error in read["errors"]]) == (78, False, [9])
    assert read["warnings"] == []
