"""An upstream that all tests of a file share, for files that also share a gateway. A file imports both fixtures."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.upstream import ScriptedUpstream

__all__ = ["module_upstream", "upstream"]


@pytest.fixture(scope="module")
def module_upstream() -> Iterator[ScriptedUpstream]:
    """For fixtures that start a gateway in front of it."""
    with ScriptedUpstream() as upstream:
        yield upstream


@pytest.fixture
def upstream(module_upstream: ScriptedUpstream) -> Iterator[ScriptedUpstream]:
    """For tests: it has no scripts and no requests of another test."""
    module_upstream.reset()
    yield module_upstream
    module_upstream.reset()
