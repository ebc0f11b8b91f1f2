"""What is known about a model: its window, its longest answer, what it reads, and how hard it can think."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, fields, replace

#: What a model may read, in the order of the lists.
MODALITIES = ("text", "image", "audio", "video", "file")


@dataclass(frozen=True, slots=True)
class ModelFacts:
    """Facts about one model. None: nothing tells."""

    context_window: int | None = None
    """Tokens of input and answer together."""
    max_output_tokens: int | None = None
    modalities: tuple[str, ...] | None = None
    """Those of `MODALITIES` that it reads."""
    efforts: tuple[str, ...] | None = None
    """The values of `reasoning.effort` that it takes, lowest first."""
    compact_at: float | None = None
    """Share of the window at which a compaction is due."""
    display_name: str | None = None
    parallel_tools: bool | None = None
    """It makes several calls at once."""
    verbosity: bool | None = None
    """It takes `text.verbosity`."""
    patch_tool: str | None = None
    """How it edits files in Codex: `freeform`, by the tool apply_patch, or `none`, by commands."""
    tool_output_tokens: int | None = None
    """Tokens after which Codex cuts the output of a tool."""
    catalogue: bool | None = None
    """Whether Codex's catalogue has the model; None leaves it to the name."""

    def or_else(self, other: ModelFacts) -> ModelFacts:
        """These facts, and the other's where nothing is known."""
        return replace(self, **{name: getattr(other, name) for name in _NAMES if getattr(self, name) is None})


_NAMES = tuple(field.name for field in fields(ModelFacts))

NOTHING = ModelFacts()


def common(facts: Iterable[ModelFacts]) -> ModelFacts:
    """What holds for each of several servers of one model, as far as they tell: the smallest window and the shared
    modalities. For the rest the first one that tells."""
    known = [one for one in facts if one != NOTHING]
    found = NOTHING
    for one in known:
        found = found.or_else(one)
    return replace(
        found,
        context_window=_smallest(one.context_window for one in known),
        max_output_tokens=_smallest(one.max_output_tokens for one in known),
        modalities=_shared(one.modalities for one in known),
        efforts=_shared(one.efforts for one in known),
    )


def _smallest(numbers: Iterable[int | None]) -> int | None:
    return min((number for number in numbers if number is not None), default=None)


def _shared(lists: Iterable[tuple[str, ...] | None]) -> tuple[str, ...] | None:
    known = [names for names in lists if names is not None]
    return tuple(name for name in known[0] if all(name in names for names in known)) if known else None
