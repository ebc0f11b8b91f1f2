"""What a scripted model does, whatever the format: which tools it calls, how it fills a schema, how it cuts words."""

from __future__ import annotations

import hashlib
import itertools
import re
from collections.abc import Iterable, Iterator
from typing import Any

from tests.upstream.exchange import JSON, Refused

CREATED_AT = 1795353600


class Ids:
    """Ids that look random and follow from the port and the number of the request."""

    def __init__(self, seed: str) -> None:
        self._seed = seed
        self._count = itertools.count()

    def __call__(self, prefix: str, digits: int = 48) -> str:
        long = "".join(hashlib.sha256(f"{self._seed}/{next(self._count)}".encode()).hexdigest() for _ in range(4))
        return f"{prefix}_{long[:digits]}"


def model_card(name: str) -> JSON:
    return {"id": name, "object": "model", "created": CREATED_AT, "owned_by": "scripted"}


def tools_to_call(body: JSON, question: str, answered: bool) -> list[JSON]:
    """Which tools a body of OpenAI's makes the model call. `answered`: the newest items are tool outputs."""
    tools = list(_callable(body.get("tools") or ()))
    choice = body.get("tool_choice") or "auto"
    named = _chosen_names(choice)
    if named:
        tools = [tool for tool in tools if tool["name"] in named]
        if not tools:
            raise Refused(400, f"Tool choice '{named[0]}' not found in 'tools' parameter.", None, "tool_choice")
    demanded = choice == "required" or (
        isinstance(choice, dict) and (choice["type"] != "allowed_tools" or choice["mode"] == "required")
    )
    wanted = "weather" in question and not answered and choice != "none"
    if not tools or not (demanded or wanted):
        return []
    both = "both" in question and body.get("parallel_tool_calls") is not False
    return [tools[0], tools[-1]] if both else tools[:1]


def _callable(tools: Iterable[JSON]) -> Iterator[JSON]:
    for tool in tools:
        if tool["type"] == "namespace":
            yield from ({**inner, "namespace": tool["name"]} for inner in tool["tools"])
        elif tool["type"] in ("function", "custom"):
            yield _flat(tool)


def _chosen_names(choice: Any) -> list[str]:
    if not isinstance(choice, dict):
        return []
    chosen = choice["tools"] if choice["type"] == "allowed_tools" else [choice]
    return [_flat(tool)["name"] for tool in chosen if tool["type"] in ("function", "custom")]


def _flat(tool: JSON) -> JSON:
    """Chat completions put a function's fields one level down."""
    inner = tool.get(tool["type"])
    return {"type": tool["type"], **inner} if isinstance(inner, dict) else tool


def example(schema: JSON, number: int = 0, root: JSON | None = None) -> Any:
    """A value that fits a JSON schema."""
    root = schema if root is None else root
    if "$ref" in schema:
        name = schema["$ref"].rpartition("/")[2]
        return example(root["$defs"][name], number, root)
    if "const" in schema or "enum" in schema:
        return schema.get("const", schema.get("enum", [None])[0])
    if "anyOf" in schema:
        return example(schema["anyOf"][0], number, root)
    kind = schema.get("type", "object")
    kind = kind[0] if isinstance(kind, list) else kind
    if kind == "object":
        return {name: example(inner, number, root) for name, inner in schema.get("properties", {}).items()}
    if kind == "array":
        return [example(schema.get("items", {"type": "string"}), number, root)]
    simple = {"string": ("Oslo", "Bergen")[number % 2], "boolean": True, "null": None}
    return simple.get(kind, schema.get("minimum", 7))


def words(text: str) -> list[str]:
    return re.findall(r"\s*\S+|\s+\Z", text)


def fragments(text: str, size: int = 9) -> list[str]:
    return [text[start : start + size] for start in range(0, len(text), size)]


def logprobs_of(text: str) -> list[JSON]:
    return [{"token": word, "logprob": -0.5, "bytes": list(word.encode()), "top_logprobs": []} for word in words(text)]


def snapshot(body: JSON) -> str:
    return f"{body['model']}-2026-01-01"
