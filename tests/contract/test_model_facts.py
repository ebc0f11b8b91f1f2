"""Facts about models that several sources tell."""

from __future__ import annotations

from app.contract.model_facts import NOTHING, ModelFacts, common


def test_the_first_source_wins_member_by_member() -> None:
    first, second = ModelFacts(10, verbosity=False), ModelFacts(20, 5, verbosity=True)
    assert first.or_else(second) == ModelFacts(10, 5, verbosity=False)
    assert NOTHING.or_else(first) == first.or_else(NOTHING) == first


def test_of_several_servers_only_what_holds_for_each_is_said() -> None:
    large = ModelFacts(1000, 100, ("text", "image"), ("low", "high", "max"), display_name="Large")
    small = ModelFacts(500, None, ("text",), ("low", "max"), display_name="Small")
    assert common([large, NOTHING, small]) == ModelFacts(500, 100, ("text",), ("low", "max"), display_name="Large")
    assert common([NOTHING, large]) == large
    assert common([]) == common([NOTHING, NOTHING]) == NOTHING
