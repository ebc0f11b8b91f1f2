"""Objects that a forked child must not share register here. The child resets them before any other code runs."""

from __future__ import annotations

import os
import weakref
from typing import Protocol


class Resettable(Protocol):
    def reset(self) -> None: ...


_known: weakref.WeakSet[Resettable] = weakref.WeakSet()


def reset_after_fork(resettable: Resettable) -> None:
    _known.add(resettable)


def _reset_all() -> None:
    for resettable in list(_known):
        resettable.reset()


os.register_at_fork(after_in_child=_reset_all)
