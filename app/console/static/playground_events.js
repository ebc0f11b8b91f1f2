/** The table and the drawing of an answer's events. */

import { badge, element, svg } from "./elements.js";
import { seconds } from "./numbers.js";
import { summary } from "./playground_timeline.js";

/** Rows at the end that may still change: the first delta, those between, the last. */
const OPEN_ROWS = 3;
/** Deltas that the details of a folded row list. */
const MOST_DETAILS = 200;
const PREFIX = "response.";

export class EventsView {
  /**
   * @param {HTMLTableSectionElement} body of the table
   * @param {HTMLElement} figure for the drawing
   */
  constructor(body, figure) {
    this.#body = body;
    this.#figure = figure;
  }

  #body;
  #figure;
  #timeline = null;
  #rows = [];
  #waiting = null;

  show(timeline) {
    this.#timeline = timeline;
    this.#rows = [];
    this.#body.replaceChildren();
    this.#waiting = null;
  }

  /** Draws what is new. `at`: milliseconds since the request; `running`: more may come. */
  draw(at, running) {
    const timeline = this.#timeline;
    const from = Math.max(0, this.#rows.length - OPEN_ROWS);
    timeline.rows.slice(from).forEach((row, place) => this.#draw(row, from + place));
    this.#drawEnd(at, running);
    this.#figure.replaceChildren(drawing(timeline, Math.max(at, 1)));
  }

  #draw(row, place) {
    const known = this.#rows[place];
    if (known?.last === row.last) return;
    // A row that was opened stays open while it grows.
    const { made, at, what } = known ?? this.#row(row);
    made.className = row.count > 1 ? "run" : "";
    at.textContent = `+${Math.round(row.at)} ms`;
    what.textContent = summary(this.#timeline, row);
    if (!known) this.#body.insertBefore(made, this.#waiting);
    this.#rows[place] = { made, at, what, last: row.last };
  }

  #row(row) {
    const known = row.type.startsWith(PREFIX);
    const name = [known ? element("span", { class: "muted" }, PREFIX) : null, known ? row.type.slice(PREFIX.length) : row.type];
    const opener = element("button", { type: "button", class: "ev-open", "aria-expanded": "false" }, ...name);
    const at = element("td", { class: "at" });
    const what = element("td", { class: "pay" });
    const made = element("tr", {}, at, element("th", { scope: "row", class: "name" }, opener), what);
    opener.addEventListener("click", () => this.#toggle(made, opener, row));
    return { made, at, what };
  }

  #toggle(made, opener, row) {
    const open = opener.getAttribute("aria-expanded") === "true";
    opener.setAttribute("aria-expanded", String(!open));
    if (open) {
      made.nextElementSibling.remove();
      return;
    }
    const pre = element("pre", { class: "wrap", tabindex: "0" }, this.#details(row));
    made.after(element("tr", { class: "plain" }, element("td", { colspan: "3" }, pre)));
  }

  #details(row) {
    const events = this.#timeline.events.slice(row.first, row.last + 1);
    if (row.count === 1) return events[0].value ? JSON.stringify(events[0].value, null, 2) : events[0].text;
    const lines = events.slice(0, MOST_DETAILS).map(({ at, value }) => {
      return `+${Math.round(at)} ms  seq ${value.sequence_number}  ${JSON.stringify(value.delta)}`;
    });
    if (events.length > lines.length) lines.push(`… and ${events.length - lines.length} more: download the .jsonl`);
    return lines.join("\n");
  }

  #drawEnd(at, running) {
    const left = this.#timeline.rowsLeftOut + this.#timeline.eventsLeftOut;
    const first = running ? badge("live", seconds(at)) : null;
    const words = running ? "waiting for the next" : left ? `${left} more rows are not shown` : null;
    this.#waiting?.remove();
    this.#waiting = null;
    if (words === null) return;
    this.#waiting = element(
      "tr",
      {},
      element("td", { class: "at" }, first),
      element("th", { scope: "row", class: "muted" }, words),
      element("td", { class: "pay" }),
    );
    this.#body.append(this.#waiting);
  }
}

// --- the drawing: what was made when

const HEIGHT = 46;
/** Deltas are drawn at most once in so many hundredths of the width. */
const GRAIN = 0.25;

/** @param {number} total milliseconds of the whole width */
function drawing(timeline, total) {
  const x = (at) => Math.min(100, (100 * at) / total);
  const spans = timeline.spans;
  const shapes = spans.map((span) => shape(span, x, total));
  const chart = svg(
    "svg",
    { class: "chart", height: HEIGHT, role: "img", "aria-label": sentence(timeline, total) },
    svg("svg", { width: "100%", height: HEIGHT, viewBox: `0 0 100 ${HEIGHT}`, preserveAspectRatio: "none", "aria-hidden": "true" }, ...shapes),
    svg("line", { class: "base", x1: 0, x2: "100%", y1: 30, y2: 30 }),
    ...labels(spans, x),
    ...axis(total),
  );
  return chart;
}

function shape(span, x, total) {
  if (span.kind === "text") {
    const places = new Set(span.times.map((at) => Math.round(x(at) / GRAIN) * GRAIN));
    return svg("path", { class: "acc", d: [...places].map((at) => `M${at} 14h.18v12h-.18z`).join("") });
  }
  const width = Math.max(0.3, x(span.to ?? total) - x(span.from));
  return svg("rect", { class: span.kind === "reasoning" ? "b1" : "b2", x: x(span.from), y: 14, width, height: 12 });
}

/** A label for each span whose place is free. */
function labels(spans, x) {
  const made = [];
  let free = -1;
  for (const span of spans) {
    const at = x(span.kind === "text" ? (span.times[0] ?? span.from) : span.from);
    const words = span.kind === "text" ? `text, ${span.deltas} deltas` : span.kind;
    const width = span.kind === "text" ? 26 : 12;
    // What begins late has its label at the right end.
    const from = Math.min(at, 100 - width);
    if (from < free) continue;
    free = from + width;
    const place = from < at ? { x: "100%", "text-anchor": "end" } : { x: `${at}%` };
    made.push(svg("text", { class: span.kind === "text" ? "acc" : null, y: 10, ...place }, words));
  }
  return made;
}

const STEPS = [10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10_000, 20_000, 60_000, 120_000, 300_000, 600_000, 3_600_000];

function axis(total) {
  const step = STEPS.find((each) => total / each <= 4) ?? total;
  const marks = [svg("text", { x: 0, y: 43 }, "0")];
  for (let at = step; at < total * 0.88; at += step) {
    const words = at < 1000 ? `${at} ms` : `${at / 1000} s`;
    marks.push(svg("text", { x: `${(100 * at) / total}%`, y: 43, "text-anchor": "middle" }, words));
  }
  const end = total < 1000 ? `${Math.round(total)} ms` : seconds(total);
  return [...marks, svg("text", { x: "100%", y: 43, "text-anchor": "end" }, end)];
}

function sentence(timeline, total) {
  const parts = timeline.spans.map((span) => {
    const from = Math.round(span.kind === "text" ? (span.times[0] ?? span.from) : span.from);
    return span.kind === "text" ? `text from ${from} ms in ${span.deltas} deltas` : `${span.kind} from ${from} ms`;
  });
  return `Events over ${seconds(total)}: ${parts.join(", ") || "none yet"}`;
}
