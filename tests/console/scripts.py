"""Runs those scripts of the console that need no page, in Node.

with Scripts() as scripts:
    scripts.run("tools", text="docs", servers=["docs"])      # a job of scripts.mjs
"""

from __future__ import annotations

import select
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import Any, Self

import orjson

ROOT = Path(__file__).resolve().parent
STATIC = ROOT.parent.parent / "app" / "console" / "static"
PATIENCE = 60.0


class Scripts:
    def __enter__(self) -> Self:
        self._folder = tempfile.TemporaryDirectory()
        place = Path(self._folder.name)
        for file in (*STATIC.glob("*.js"), ROOT / "scripts.mjs"):
            shutil.copy(file, place)
        # Without it Node takes them for scripts of CommonJS.
        (place / "package.json").write_text('{"type": "module"}')
        self._process = subprocess.Popen(
            ["node", str(place / "scripts.mjs")], stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0
        )
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        for pipe in (self._process.stdin, self._process.stdout):
            assert pipe is not None
            pipe.close()
        self._process.wait()
        self._folder.cleanup()

    def run(self, job: str, **values: Any) -> Any:
        """The outcome of a job. An error in the script fails the test."""
        written, read = self._process.stdin, self._process.stdout
        assert written is not None
        assert read is not None
        written.write(orjson.dumps({"job": job, **values}) + b"\n")
        assert select.select([read], [], [], PATIENCE)[0], f"the scripts have said nothing for {PATIENCE:.0f} s"
        line = bytearray(read.readline())
        while not line.endswith(b"\n"):
            line += read.readline() or b"\n"
        outcome = orjson.loads(line)
        assert "error" not in outcome, outcome["error"]
        return outcome["value"]
