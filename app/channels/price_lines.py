"""Puts prices into the text of a channel table. Lines are added or extended and none is rewritten, so that comments
and the order stay as they are.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping

import yaml

from app.channels.yaml_document import is_null

_PLAIN = re.compile(r"[A-Za-z][A-Za-z0-9_./-]*")


class NotEditable(Exception):
    """The file is written in a way that has no place for another line."""


def with_prices(text: str, prices: Mapping[str, str]) -> str:
    """The text with prices (in flow style, by model): of a model that has one, the price becomes the newest of its
    list. Raises NotEditable."""
    for model, price in prices.items():
        text = _with_price(text, model, price)
    return text


def _with_price(text: str, model: str, price: str) -> str:
    root = yaml.compose(text, Loader=yaml.SafeLoader)
    if not isinstance(root, yaml.MappingNode) or root.flow_style:
        raise NotEditable("the file is not a mapping of lines")
    models = _entry(root, "models")
    if models is None:
        return f"{text.rstrip()}\n\nmodels:\n  {_key(model)}:\n    price: {price}\n"
    row = _entry(models[1], model)
    if row is None:
        return _added(text, *models, f"{_key(model)}: {{price: {price}}}")
    known = _entry(row[1], "price")
    if known is None:
        return _added(text, *row, f"price: {price}")
    return _appended(text, known[1], price)


def _entry(node: yaml.Node, name: str) -> tuple[yaml.Node, yaml.Node] | None:
    """The key and the value."""
    if not isinstance(node, yaml.MappingNode):
        return None
    return next(((key, value) for key, value in node.value if key.value == name), None)


def _key(model: str) -> str:
    escaped = model.replace("'", "''")
    return model if _PLAIN.fullmatch(model) else f"'{escaped}'"


def _added(text: str, key: yaml.Node, value: yaml.Node, entry: str) -> str:
    """The text with an entry at the beginning of a mapping."""
    if isinstance(value, yaml.MappingNode) and value.flow_style:
        return _inserted(text, value.start_mark.index + 1, f"{entry}, " if value.value else entry)
    if isinstance(value, yaml.MappingNode):
        indent = value.value[0][0].start_mark.column
    elif is_null(value):
        indent = key.start_mark.column + 2
    else:
        raise NotEditable(f"{key.value!r} is no mapping")
    # Behind the line of the key: a comment above the first entry stays above that.
    return _inserted_line(text, key.end_mark.index, f"{' ' * indent}{entry}")


def _appended(text: str, known: yaml.Node, price: str) -> str:
    """The text with another price behind those that are known."""
    if isinstance(known, yaml.SequenceNode) and known.flow_style:
        return _inserted(text, known.end_mark.index - 1, f", {price}")
    if isinstance(known, yaml.SequenceNode):
        # A mark of an element stands behind its dash.
        dash = text.rindex("-", 0, known.value[-1].start_mark.index)
        column = dash - (text.rfind("\n", 0, dash) + 1)
        return _inserted_line(text, _end(known), f"{' ' * column}- {price}")
    if isinstance(known, yaml.MappingNode) and known.flow_style:
        text = _inserted(text, known.end_mark.index, f", {price}]")
        return _inserted(text, known.start_mark.index, "[")
    if isinstance(known, yaml.MappingNode):
        return _made_list(text, known, price)
    raise NotEditable("a price is no mapping")


def _made_list(text: str, known: yaml.MappingNode, price: str) -> str:
    """A price of several lines becomes the first element of a list."""
    start = text.rfind("\n", 0, known.start_mark.index) + 1
    end = _line_end(text, _end(known))
    margin = " " * known.start_mark.column
    lines = [f"  {line}" if line.strip() else line for line in text[start:end].splitlines(keepends=True)]
    lines[0] = f"{margin}- {lines[0].lstrip()}"
    body = "".join(lines)
    return f"{text[:start]}{body}{'' if body.endswith(chr(10)) else chr(10)}{margin}- {price}\n{text[end:]}"


def _end(node: yaml.Node) -> int:
    """Where the last value within a node ends. The mark of the node itself is behind the comments that follow."""
    return max((leaf.end_mark.index for leaf in _leaves(node)), default=node.end_mark.index)


def _leaves(node: yaml.Node) -> Iterator[yaml.Node]:
    if isinstance(node, yaml.ScalarNode) or getattr(node, "flow_style", False):
        yield node
    elif isinstance(node, yaml.MappingNode):
        for _, value in node.value:
            yield from _leaves(value)
    elif isinstance(node, yaml.SequenceNode):
        for value in node.value:
            yield from _leaves(value)


def _inserted(text: str, index: int, addition: str) -> str:
    return f"{text[:index]}{addition}{text[index:]}"


def _line_end(text: str, index: int) -> int:
    """Behind the line break that follows, or the end of the text."""
    found = text.find("\n", index)
    return len(text) if found < 0 else found + 1


def _inserted_line(text: str, index: int, line: str) -> str:
    end = _line_end(text, index)
    before = text[:end] if text[:end].endswith("\n") else f"{text[:end]}\n"
    return f"{before}{line}\n{text[end:]}"
