"""How a page looks: what axe-core finds, what makes it scroll sideways, and pictures of it, written to
$ANTIPHON_SCREENSHOTS, if set.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from playwright.sync_api import Page

WIDTHS = (320, 768, 1440)
SCHEMES: tuple[Any, ...] = ("light", "dark")
PICTURES = os.environ.get("ANTIPHON_SCREENSHOTS")
GRAVE = ("serious", "critical")
#: What reaches over the right edge of the page, outside of what may be scrolled by itself.
_WIDE = """() => {
    const wide = (element) => element.getBoundingClientRect().right > document.documentElement.clientWidth + 1;
    if (document.documentElement.scrollWidth <= document.documentElement.clientWidth) return [];
    return [...document.body.querySelectorAll("*")]
        .filter((element) => wide(element) && !element.closest("pre, .scroll"))
        .map((element) => `${element.tagName} ${element.getAttribute("class") ?? ""}`);
}"""


def faults(page: Page, widths: tuple[int, ...]) -> Iterator[str]:
    page.evaluate(_axe_script())
    for width in widths:
        page.set_viewport_size({"width": width, "height": 900})
        yield from (f"{width}: {fault}" for fault in _axe(page))
        yield from (f"{width}: wider than the page: {element}" for element in page.evaluate(_WIDE))
    page.emulate_media(color_scheme="dark", reduced_motion="reduce")
    yield from (f"dark: {fault}" for fault in _axe(page, "color-contrast"))


def open_all(page: Page) -> None:
    """What is folded up is looked at as well. The section of one's own text would ask for it."""
    page.evaluate("document.querySelectorAll('main details:not([data-own])').forEach((part) => { part.open = true })")


def _axe_script() -> str:
    from axe_playwright_python.base import AXE_SCRIPT  # half a megabyte

    script: str = AXE_SCRIPT
    return script


def _axe(page: Page, *rules: str) -> list[str]:
    options: dict[str, Any] = {"resultTypes": ["violations"]}
    if rules:
        options["runOnly"] = {"type": "rule", "values": list(rules)}
    found = page.evaluate("options => axe.run(options).then((found) => found.violations)", options)
    return [
        f"{violation['id']} ({violation['impact']}): {node['html'][:200]} {node['target']}"
        for violation in found
        if violation["impact"] in GRAVE
        for node in violation["nodes"]
    ]


def take_pictures(page: Page, name: str) -> None:
    for scheme in SCHEMES if PICTURES else ():
        page.emulate_media(color_scheme=scheme, reduced_motion="reduce")
        for width in WIDTHS:
            page.set_viewport_size({"width": width, "height": 900})
            page.screenshot(path=f"{PICTURES}/{name}-{width}-{scheme}.png", full_page=True)
    page.emulate_media(color_scheme="light", reduced_motion="reduce")
