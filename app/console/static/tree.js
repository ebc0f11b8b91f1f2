// The page of one conversation: keys, selecting without a new page, texts, live rows. All of it works without script.
// `isTyping` and `keysAreOn` are those of console.js.
"use strict";

(() => {
  const tree = () => document.getElementById("tree");
  const visible = (element) => element.checkVisibility({ contentVisibilityAuto: true, visibilityProperty: true });

  // --- selecting: the page with another selection takes the place of this one; folds and scroll stay

  const openFolds = () => [...document.querySelectorAll(".fold > details[open]")].map((fold) => fold.parentElement.id);

  // The address without its fragment: a jump to a row asks for nothing.
  const address = (url) => url.pathname + url.search;
  let shown = address(location);

  async function go(url, { push = true, focus = null } = {}) {
    const target = new URL(url, location.href);
    const answer = await fetch(address(target), { headers: { Accept: "text/html" } });
    const main = answer.ok ? new DOMParser().parseFromString(await answer.text(), "text/html").getElementById("main") : null;
    if (!main) {
      location.assign(target);
      return;
    }
    const folds = openFolds();
    const own = document.adoptNode(main);
    document.getElementById("main").replaceWith(own);
    htmx.process(own);
    folds.forEach((id) => document.getElementById(id)?.querySelector("details")?.setAttribute("open", ""));
    if (push) history.pushState(null, "", target);
    shown = address(target);
    const row = focus ?? decodeURIComponent(target.hash.slice(1));
    document.getElementById(row)?.querySelector(".no")?.focus({ preventScroll: true });
    keysSwitch();
  }

  document.addEventListener("click", (event) => {
    const link = event.target.closest?.("#tree a[href], .chart a[href]");
    if (!link || event.ctrlKey || event.metaKey || event.shiftKey || event.button) return;
    const href = link.getAttribute("href") ?? "";
    if (!href.startsWith("?") && !link.hasAttribute("data-close")) return;
    event.preventDefault();
    go(link.href);
  });
  window.addEventListener("popstate", () => {
    if (tree() && address(location) !== shown) go(location.href, { push: false });
  });

  // --- the text of a turn: one's own is shown when its section opens

  document.addEventListener("toggle", (event) => {
    const section = event.target;
    if (section.id !== "text" || !section.open || !section.hasAttribute("data-own")) return;
    const form = section.querySelector("form");
    if (form && !document.getElementById("said").childElementCount) form.requestSubmit();
  }, true);

  document.addEventListener("htmx:afterSwap", (event) => {
    if (event.target.id !== "said") return;
    const form = event.target.parentElement.querySelector(":scope > form");
    if (form && event.target.closest("[data-own]")) form.hidden = true;
  });

  function showText() {
    const section = document.getElementById("text");
    if (!section) return;
    section.open = true;
    section.scrollIntoView({ block: "nearest" });
    (section.querySelector("#reason") ?? section.querySelector("summary")).focus();
  }

  // --- keys

  function keysSwitch() {
    const box = document.getElementById("keys-on");
    if (!box) return;
    box.checked = keysAreOn();
    box.onchange = () => localStorage.setItem("antiphon-keys", box.checked ? "on" : "off");
  }

  function nextTip() {
    const tips = [...document.querySelectorAll("#tree [data-tip]")].filter(visible);
    if (!tips.length) return;
    const here = document.activeElement;
    const next = tips.find((tip) => here.compareDocumentPosition(tip) & Node.DOCUMENT_POSITION_FOLLOWING && tree().contains(here));
    (next ?? tips[0]).focus();
  }

  function close() {
    const link = document.querySelector("[data-close]");
    if (link) go(link.href);
  }

  function unfoldOrShow() {
    const summary = document.activeElement.closest?.(".fold summary");
    if (summary) summary.parentElement.open = !summary.parentElement.open;
    else showText();
  }

  const KEYS = { o: unfoldOrShow, t: nextTip, Escape: close, "?": () => document.getElementById("keys")?.showModal() };

  document.addEventListener("keydown", (event) => {
    if (!tree() || isTyping(event) || !keysAreOn()) return;
    if (document.querySelector("dialog[open]") || !(event.key in KEYS)) return;
    event.preventDefault();
    KEYS[event.key]();
  });
  document.addEventListener("click", (event) => {
    if (event.target.closest?.("[data-keys]")) document.getElementById("keys")?.showModal();
  });

  // --- live: new rows are put in, changed ones redrawn; what is open, selected or has the focus stays

  let asking = false;
  let again = false;

  async function refresh() {
    const here = tree();
    if (!here) return;
    if (asking) {
      again = true;
      return;
    }
    asking = true;
    try {
      const answer = await fetch(here.dataset.liveUrl, { headers: { "HX-Request": "true" } });
      if (answer.ok) merge(here, new DOMParser().parseFromString(await answer.text(), "text/html").getElementById("tree"));
    } finally {
      asking = false;
      if (again) {
        again = false;
        refresh();
      }
    }
  }

  function merge(here, fresh) {
    if (!fresh || here !== tree()) return;
    here.className = fresh.className;
    here.dataset.liveUrl = fresh.dataset.liveUrl;
    const tips = here.querySelector("#tips");
    const focused = tips.contains(document.activeElement);
    if (!focused) tips.replaceWith(fresh.querySelector("#tips"));
    for (const form of fresh.querySelectorAll("form[id^=cancel-]")) {
      if (!document.getElementById(form.id)) here.querySelector(".tree").append(form);
    }
    mergeRows(here.querySelector("ol.turns"), [...fresh.querySelector("ol.turns").children]);
  }

  function mergeRows(list, rows) {
    let last = null;
    for (const row of rows) {
      const known = document.getElementById(row.id);
      const place = last ? last.nextElementSibling : list.firstElementChild;
      if (known && list.contains(known)) {
        redraw(known, row);
        // A row that was put into a fold meanwhile stays where the reader saw it.
        last = known.parentElement === list ? known : last;
      } else if (!coveredHere(list, row)) {
        const own = document.adoptNode(row);
        list.insertBefore(own, place);
        htmx.process(own);
        last = own;
      }
    }
    const ids = new Set(rows.map((row) => row.id));
    for (const row of [...list.children]) {
      // A turn in flight has its name only when it ends.
      if (row.classList.contains("live") && !ids.has(row.id)) row.remove();
    }
  }

  // A fold whose turns stand in the page as rows.
  function coveredHere(list, row) {
    const first = row.classList.contains("fold") ? row.id.replace(/^f-/, "") : "";
    return first !== "" && document.getElementById(first) !== null && list.contains(document.getElementById(first));
  }

  function redraw(known, row) {
    const before = known.querySelector(":scope > .row");
    const after = row.querySelector(":scope > .row");
    if (!before || !after || before.outerHTML === after.outerHTML) return;
    const focused = before.contains(document.activeElement);
    before.replaceWith(after);
    known.className = row.className;
    if (focused) after.querySelector(".no")?.focus({ preventScroll: true });
  }

  const root = document.body.dataset.live?.match(/tree:(\S+)/)?.[1];
  document.body.addEventListener("live:tree", refresh);
  if (root) document.body.addEventListener(`live:tree:${root}`, refresh);

  keysSwitch();
})();
