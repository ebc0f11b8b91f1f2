"""The channel table, for the commands that show it."""

from __future__ import annotations

from app import formats
from app.channels.table import Table, load
from app.settings import Settings, read_environment


def read_table(settings: Settings) -> Table:
    """Reads the file of the settings. Raises ConfigurationError."""
    return load(settings.channels, read_environment(settings.home), formats.names())
