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


def test_a_right_table_is_counted(tmp_path: Path) -> None:
    done = _directory(tmp_path, TABLE).attempt("check")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.endswith("1 channel, 2 models, 0 warnings\n")


def test_programs_read_the_same_as_json(tmp_path: Path) -> None:
    read = orjson.loads(_directory(tmp_path, TABLE).command("check", "--json"))
    assert (read["ok"], read["errors"], read["warnings"], read["channels"]) == (True, [], [], ["demo"])


def test_a_wrong_table_is_the_errors_alone(tmp_path: Path) -> None:
    done = _directory(tmp_path, TABLE.replace("0.8", "8")).attempt("check", "--json")
    read = orjson.loads(done.stdout)
    assert (done.returncode, read["ok"], [error["line"] for error in read["errors"]]) == (78, False, [9])
    assert read["warnings"] == []
