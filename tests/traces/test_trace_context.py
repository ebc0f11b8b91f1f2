"""What is read as W3C Trace Context, and what is not."""

from __future__ import annotations

import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.trace_context import TraceContext, passed_on, traced

TRACE, SPAN = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
PARENT = f"00-{TRACE}-{SPAN}-01"


def always(trace: str, client: TraceContext | None) -> bool:
    return True


@pytest.mark.parametrize(
    "header",
    [
        None,
        "",
        "x",
        f"00-{TRACE}-{SPAN}",
        f"00-{TRACE}-{SPAN}-01-more",
        f"ff-{TRACE}-{SPAN}-01",
        f"00-{TRACE.upper()}-{SPAN}-01",
        f"00-{'0' * 32}-{SPAN}-01",
        f"00-{TRACE}-{'0' * 16}-01",
        f"{PARENT},{PARENT}",
        f"00-{TRACE}-{SPAN}-0g",
        f"01-{TRACE}-{SPAN}-01-a\r\nx: y",
        f"00-{TRACE}-{SPAN}-٠١",
    ],
)
def test_an_invalid_parent_is_ignored(header: str | None) -> None:
    assert passed_on(header, "vendor=1") is None
    begun = traced(header, "vendor=1", always)
    assert begun.parent == begun.state == ""
    assert passed_on(dict(begun.headers())["traceparent"], None) is not None


def test_a_valid_parent_is_sent_as_it_came() -> None:
    context = passed_on(PARENT, "vendor=1")
    assert context is not None
    assert context.headers() == (("traceparent", PARENT), ("tracestate", "vendor=1"))
    assert context.head_lines("1" * 16) == f"traceparent: 00-{TRACE}-{'1' * 16}-01\r\ntracestate: vendor=1\r\n".encode()


def test_a_later_version_is_read_as_far_as_this_one_goes() -> None:
    context = passed_on(f"01-{TRACE}-{SPAN}-01-more", None)
    assert context is not None
    assert context.headers() == (("traceparent", PARENT),)


@given(st.text(), st.text())
def test_no_text_becomes_another_header(parent: str, state: str) -> None:
    for context in (passed_on(parent, state), passed_on(PARENT, state), traced(parent, state, always)):
        if context is not None:
            assert context.head_lines().count(b"\r\n") == len(context.headers())


def test_the_gateway_imports_no_exporter_by_itself() -> None:
    # Packages that the gateway uses import the API of OpenTelemetry, and some its SDK, if they are there.
    program = "import sys, app.gateway, app.web.application; print('opentelemetry.exporter' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
