// What every page shares: sign-in links, copy buttons, keys of lists, live updates. All pages work without it.
"use strict";

const csrf = document.querySelector('meta[name="csrf"]')?.content ?? "";

// A sign-in link carries its code in the fragment, which no server and no log gets.
function signInByCode() {
  const form = document.getElementById("by-code");
  const code = new URLSearchParams(location.hash.slice(1)).get("code");
  if (!form || !code) return;
  history.replaceState(null, "", location.pathname);
  form.elements.code.value = code;
  form.submit();
}

// <button data-copy="ID"> copies the text of the element with that id.
document.addEventListener("click", async (event) => {
  const button = event.target.closest("[data-copy]");
  if (!button) return;
  const words = button.textContent;
  try {
    await navigator.clipboard.writeText(document.getElementById(button.dataset.copy).textContent);
    button.textContent = "Copied";
  } catch {
    button.textContent = "Select it and copy";
  }
  setTimeout(() => { button.textContent = words; }, 2000);
});

document.addEventListener("htmx:configRequest", (event) => {
  event.detail.headers["X-CSRF-Token"] = csrf;
  // What follows an event shows no one at the page, and does not keep the session.
  if (event.detail.triggeringEvent?.type.startsWith("live:")) event.detail.headers["X-Unattended"] = "1";
});

// --- keys: j and k go through the rows of [data-rows], enter opens one, / goes to the search

function isTyping(event) {
  const target = event.target;
  return event.ctrlKey || event.altKey || event.metaKey || target.isContentEditable || /^(INPUT|TEXTAREA|SELECT)$/.test(target.tagName);
}

function keysAreOn() {
  return localStorage.getItem("antiphon-keys") !== "off";
}

function rowLinks() {
  return [...document.querySelectorAll("[data-rows] [data-row]")].filter((link) => link.checkVisibility({ contentVisibilityAuto: true }));
}

document.addEventListener("keydown", (event) => {
  if (isTyping(event) || !keysAreOn()) return;
  const step = { j: 1, k: -1 }[event.key];
  const links = step ? rowLinks() : [];
  if (links.length) {
    const place = links.indexOf(document.activeElement);
    const next = place < 0 ? (step > 0 ? 0 : links.length - 1) : Math.min(links.length - 1, Math.max(0, place + step));
    links[next].focus();
    event.preventDefault();
  } else if (event.key === "/") {
    const search = document.querySelector("input[type=search]");
    if (search) {
      search.focus();
      event.preventDefault();
    }
  }
});

// --- live: one stream a page, closed while the page is hidden; each event becomes `live:NAME` on the body

// The browser opens a stream again that broke. One that was refused it gives up, so the page tries again, ever later.
const FIRST_PAUSE = 5000, LAST_PAUSE = 60000;

function follow() {
  const topics = document.body.dataset.live;
  if (!topics || !window.EventSource) return;
  const url = `/console/live?topics=${encodeURIComponent(topics.trim().replace(/\s+/g, ","))}`;
  let source = null, timer = 0, pause = FIRST_PAUSE;
  const close = () => {
    clearTimeout(timer);
    source?.close();
    source = null;
    delete document.body.dataset.stream;
  };
  const open = () => {
    if (source || document.hidden) return;
    source = new EventSource(url);
    source.onopen = () => {
      pause = FIRST_PAUSE;
      document.body.dataset.stream = "on";
    };
    source.onerror = () => {
      document.body.dataset.stream = "off";
      if (source?.readyState !== EventSource.CLOSED) return;
      source = null;
      timer = setTimeout(open, pause);
      pause = Math.min(2 * pause, LAST_PAUSE);
    };
    source.onmessage = (message) => {
      document.body.dispatchEvent(new CustomEvent(`live:${message.data}`, { detail: message.data }));
    };
  };
  document.addEventListener("visibilitychange", () => (document.hidden ? close() : open()));
  window.addEventListener("pagehide", close);
  window.addEventListener("pageshow", open);
  open();
}

// --- how long something has been at work: [data-elapsed] holds the seconds at loading, and goes on

function duration(seconds) {
  for (const [large, small, first, second] of [[86400, 3600, "d", "h"], [3600, 60, "h", "m"], [60, 1, "m", "s"]]) {
    if (seconds < large) continue;
    const rest = Math.floor((seconds % large) / small);
    return `${Math.floor(seconds / large)} ${first}${rest ? ` ${rest} ${second}` : ""}`;
  }
  return `${seconds} s`;
}

const begun = new WeakMap();

function showElapsed() {
  if (document.hidden) return;
  for (const element of document.querySelectorAll("[data-elapsed]")) {
    if (!begun.has(element)) begun.set(element, performance.now() - 1000 * element.dataset.elapsed);
    const words = duration(Math.floor((performance.now() - begun.get(element)) / 1000));
    if (element.textContent !== words) element.textContent = words;
  }
}

setInterval(showElapsed, 1000);
showElapsed();

signInByCode();
follow();
