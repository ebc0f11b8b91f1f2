"""Words that try to become markup, and what a page may consist of. Whatever of them became an element or an attribute
carries the mark."""

from __future__ import annotations

from dataclasses import dataclass, field
from html.parser import HTMLParser

MARK = "x-mark"
RAN = "window.ran = true"
#: One in a text, so that a test finds its end however it is cut.
WORDS = (
    f"<script {MARK}>{RAN}</script>",
    f'"><script {MARK}>{RAN}</script>',
    f"<{MARK}>",
    f'<img {MARK} src="x" onerror="{RAN}">',
    f"<svg {MARK} onload='{RAN}'><use href='#i-ok'/></svg>",
    f'" autofocus onfocus="{RAN}" {MARK}="',
    f"' onmouseover='{RAN}' {MARK}='",
    f"` onclick={RAN} {MARK}=",
    f"</title></textarea></pre></code></script></style><b {MARK}>",
    f"--></template></noscript><i {MARK}>",
    f"<a {MARK} href=javascript:{RAN}>a link</a>",
    f"javascript:{RAN}//",
    f"data:text/html,<script {MARK}>{RAN}</script>",
    f"[a link](javascript:{RAN})",
    f"<style {MARK}>body{{display:none}}</style>",
    f"<iframe {MARK} srcdoc='<script>parent.{RAN}</script>'></iframe>",
    f"<form {MARK} action=//evil.example><button>go</button></form>",
    f"<meta {MARK} http-equiv=refresh content=0;url=//evil.example>",
    f"<base {MARK} href=//evil.example>",
    "{{7*7}} {% raw %} ${7*7} #{7*7} <%= 7*7 %>",
    f"&lt;b {MARK}&gt; &#60;b {MARK}&#62; %3Cb {MARK}%3E \\u003cb {MARK}\\u003e",
    f"＜b {MARK}＞ ‹b {MARK}› <\u200bb {MARK}>",
    f"\ufeff<b\u2028{MARK}\u2029>",
    "right to left \u202egnp.exe \u2066 and \u2067 without end",
    "../../../../etc/passwd\r\nSet-Cookie: a=b\r\n\r\n",
    "'; DROP TABLE response; -- % _ \\ ",
    "🧑‍💻 e\u0301 \U000e0001 ﷽",
    f"hx-get=/console/sign-out data-live={MARK} <b hx-on:load='{RAN}' {MARK}>",
)
#: Many of them at once.
ALL = " ".join(WORDS)
LONG = "w" * 100_000

_URLS = frozenset({"href", "src", "action", "formaction", "poster", "srcset", "hx-get", "hx-post"})
_OWN = ("/", "#", "?", "data:image/", "https://", "http://", "mailto:")


@dataclass(slots=True)
class Page(HTMLParser):
    """One page as a browser reads it, without its style sheet."""

    faults: list[str] = field(default_factory=list)
    words: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        HTMLParser.__init__(self, convert_charrefs=True)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        names = [name for name, _ in attrs]
        values = {name: value or "" for name, value in attrs}
        if tag == MARK or MARK in names:
            self.faults.append(f"<{tag}> came from outside: {attrs}")
        if handlers := [name for name in names if name.startswith(("on", "hx-on"))]:
            self.faults.append(f"<{tag}> has {handlers}")
        if "style" in names or tag in ("style", "base", "iframe", "object", "embed"):
            self.faults.append(f"<{tag}> is in the page: {attrs}")
        if tag == "script" and not (_is_ours(values) or values.get("type") == "application/json"):
            self.faults.append(f"a script of its own: {attrs}")
        for name in _URLS & values.keys():
            if not values[name].startswith(_OWN) or values[name].startswith("//"):
                self.faults.append(f"<{tag}> leads to {values[name][:80]!r}")
        self.words += values.values()

    def handle_data(self, data: str) -> None:
        self.words.append(data)


def _is_ours(script: dict[str, str]) -> bool:
    return bool(script.get("nonce")) and script.get("src", "").startswith("/console/static/")


def faults_of(html: str) -> list[str]:
    return read(html).faults


def read(html: str) -> Page:
    page = Page()
    page.feed(html)
    page.close()
    return page
