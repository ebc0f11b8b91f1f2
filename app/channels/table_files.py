"""Keys and certificates of the table's rows: in files that a row names, or written into the table itself."""

from __future__ import annotations

import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from app.channels.interpolation import REFERENCE, Interpolation, Place
from app.channels.yaml_document import Document


def warn_of_literal(document: Document, node: yaml.Node) -> None:
    """Warns of a key that the table itself contains."""
    references = [match for match in REFERENCE.finditer(node.value) if match["name"]]
    if references and not any(match["default"] for match in references):
        return
    document.warn(node, "this file contains the key itself; put it into the environment and write ${NAME} here")
    if document.mode & stat.S_IROTH:
        document.warn(node, "every user of this machine can read this file, which contains a key: chmod o-r")


def key_in_file(path: Path) -> tuple[str, str]:
    """The key that a file holds, and the reason when it holds none."""
    try:
        return _contents(path).decode("ascii").strip(), ""
    except OSError as error:
        return "", f"api_key_file cannot be read: {error.strerror or 'not a file'}"
    except ValueError:
        return "", "api_key_file does not hold a key"


def certificates(values: Interpolation, place: Place, row: Mapping[str, Any]) -> str | None:
    """The path of the row's `ca_file`. Reports one that cannot be read."""
    if "ca_file" not in row:
        return None
    path = values.document.path.parent / row["ca_file"]
    try:
        _contents(path)
    except (OSError, ValueError):
        values.report((*place, "ca_file"), "is not a file that can be read")
    return str(path)


def _contents(path: Path) -> bytes:
    """The bytes of a regular file. A read from a pipe or a device could block."""
    if path.exists() and not path.is_file():
        raise OSError("not a file")
    return path.read_bytes()
