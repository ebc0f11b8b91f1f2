"""Prints the table of the README: `make caches`."""

import tempfile
from pathlib import Path

from tests.caches.sessions import SESSIONS
from tests.caches.share_table import SERVERS, house, measured, written

with tempfile.TemporaryDirectory() as directory, house(Path(directory)) as running:
    print(written({(name, server): measured(running, name, server) for name in SESSIONS for server in SERVERS}))
