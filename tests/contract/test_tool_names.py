"""The names under which a model sees tools: usable everywhere, unique, and the same in every turn."""

from __future__ import annotations

import re
from collections.abc import Sequence
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.contract.tool_names import ServerTool, exposed, fallback, function_names

FIT = re.compile(r"[A-Za-z_][A-Za-z0-9_-]{0,63}")

#: Names as servers have them: usual ones that collide, and any text at all.
WORDS = st.sampled_from(["search", "get", "docs", "docs__search", "web search", "1st", "搜索", "a" * 64, "x.y", ""])
NAMES = WORDS | st.text(max_size=80)
TOOLS = st.lists(st.tuples(NAMES, NAMES), max_size=12)


@given(TOOLS, st.lists(NAMES, max_size=5))
def test_names_are_usable_and_unique(tools: Sequence[ServerTool], taken: Sequence[str]) -> None:
    names = exposed(tools, taken)

    assert names.keys() == set(tools)
    assert all(FIT.fullmatch(name) for name in names.values())
    assert len(set(names.values())) == len(names)
    assert not set(names.values()) & set(taken)


@given(TOOLS, st.lists(NAMES, max_size=5))
def test_names_are_the_same_in_every_turn(tools: Sequence[ServerTool], taken: Sequence[str]) -> None:
    assert exposed(tools, taken) == exposed(list(tools), list(reversed(taken)))


@given(TOOLS, TOOLS)
def test_a_server_that_is_added_changes_no_name(tools: Sequence[ServerTool], added: Sequence[ServerTool]) -> None:
    before = exposed(tools)

    assert {tool: name for tool, name in exposed([*tools, *added]).items() if tool in before} == before


@given(TOOLS, TOOLS, st.randoms())
def test_a_server_that_is_put_in_front_changes_no_name(
    tools: Sequence[ServerTool], added: Sequence[ServerTool], random: Random
) -> None:
    """Once the conversation has listed the others."""
    first, mixed = exposed(tools), [*tools, *added]
    random.shuffle(mixed)
    second = exposed(mixed, listed=lambda: tools)
    listed = [*tools, *mixed]
    random.shuffle(mixed)
    third = exposed(mixed, listed=lambda: listed)

    assert {tool: name for tool, name in second.items() if tool in first} == first
    assert third == second


@given(st.tuples(NAMES, NAMES), st.tuples(NAMES, NAMES))
def test_a_tool_that_is_gone_keeps_a_name_of_its_own(one: ServerTool, other: ServerTool) -> None:
    assert FIT.fullmatch(fallback(one))
    # Two tools may share the plain form of a fallback: `a__b` and `c`, `a` and `b__c`.
    if "__".join(one) != "__".join(other):
        assert fallback(one) != fallback(other)


@pytest.mark.parametrize(
    ("tools", "taken", "names"),
    [
        ([("docs", "search")], [], ["search"]),
        ([("docs", "search"), ("web", "search")], [], ["search", "web__search"]),
        ([("docs", "search")], ["search"], ["docs__search"]),
        ([("docs", "get-page_2")], [], ["get-page_2"]),
    ],
)
def test_a_name_is_plain_where_it_can_be(tools: list[ServerTool], taken: list[str], names: list[str]) -> None:
    assert [*exposed(tools, taken).values()] == names


@pytest.mark.parametrize("name", ["web search", "x.y", "搜索", "1st", "", "n" * 65])
def test_a_name_that_an_upstream_refuses_is_replaced(name: str) -> None:
    (replaced,) = exposed([("docs", name)]).values()

    assert replaced.startswith("docs__")
    assert FIT.fullmatch(replaced)


def test_the_names_of_the_clients_own_tools() -> None:
    tools = [
        {"type": "function", "name": "look"},
        {"type": "custom", "name": "patch"},
        {"type": "namespace", "name": "crm", "tools": [{"type": "function", "name": "find"}]},
        {"type": "mcp", "server_label": "docs"},
    ]
    assert {*function_names(tools)} == {"look", "patch", "find", "crm__find"}
