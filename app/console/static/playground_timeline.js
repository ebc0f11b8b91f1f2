/** The events of one answer with their times, folded so that thousands of deltas are a few rows. Pure. */

/** Rows that are shown; the file has all events. */
export const MOST_ROWS = 2000;
/** Events and characters that are kept for the file and for the details. */
export const MOST_EVENTS = 50_000;
export const MOST_CHARACTERS = 32 * 1024 * 1024;

/** Times of deltas that are kept for the drawing of one item. */
export const MOST_TIMES = 2000;

/** Kinds of output in the drawing, by the type of the item. */
const KINDS = new Map([["reasoning", "reasoning"], ["message", "text"]]);

export class Timeline {
  constructor() {
    /** `{at, text, value}`: milliseconds since the request, the data as it came, and its JSON; null for a comment. */
    this.events = [];
    /** `{at, type, count, first, last, gap}`; `first` and `last` are places in `events`. */
    this.rows = [];
    /** What was being made, for the drawing: `{kind, from, to, deltas, times}`, with the times of some deltas. */
    this.spans = [];
    this.seen = 0;
    this.rowsLeftOut = 0;
    this.#characters = 0;
  }

  #characters;
  #fold = null;
  #open = new Map();

  get eventsLeftOut() {
    return this.seen - this.events.length;
  }

  /**
   * Adds what the stream has brought: `{data, value}`, where `value` is the data's JSON or null, or `{comment}`.
   * @param {number} at milliseconds since the request
   */
  add(found, at) {
    const text = found.comment === undefined ? found.data : `: ${found.comment}`;
    const value = found.value ?? null;
    this.seen += 1;
    this.#characters += text.length;
    if (this.events.length < MOST_EVENTS && this.#characters <= MOST_CHARACTERS) {
      this.events.push({ at, text, value });
      this.#addRow(value?.type ?? nameOf(found), value, at);
    }
    if (value?.type) this.#addSpan(value, at);
  }

  /** The first of several deltas of one item has a row, the last one has, and those between share one. */
  #addRow(type, value, at) {
    const place = this.events.length - 1;
    const row = { at, type, count: 1, first: place, last: place, gap: 0 };
    const item = value && type.endsWith(".delta") ? `${type} ${value.item_id ?? value.output_index}` : null;
    const fold = this.#fold;
    if (item === null || fold?.item !== item) {
      this.#fold = item === null ? null : { item, at, between: null, last: null };
      this.#append(row);
      return;
    }
    const gap = at - fold.at;
    fold.at = at;
    if (fold.last === null) {
      fold.last = row;
      row.gap = gap;
      this.#append(row);
      return;
    }
    if (fold.between === null) {
      fold.between = fold.last;
      fold.last = { ...row, gap };
      this.#append(fold.last);
      return;
    }
    const { between, last } = fold;
    between.count += 1;
    between.last = last.last;
    between.gap = Math.max(between.gap, last.gap);
    Object.assign(last, row, { gap });
  }

  #append(row) {
    if (this.rows.length < MOST_ROWS) this.rows.push(row);
    else this.rowsLeftOut += 1;
  }

  #addSpan(event, at) {
    const { type, output_index: place } = event;
    if (type === "response.output_item.added") {
      const kind = KINDS.get(event.item?.type) ?? "call";
      const span = { kind, from: at, to: null, deltas: 0, times: [] };
      this.#open.set(place, span);
      this.spans.push(span);
      return;
    }
    const span = this.#open.get(place);
    if (!span) return;
    if (type.endsWith(".delta")) addTime(span, at);
    if (type === "response.output_item.done") {
      span.to = at;
      this.#open.delete(place);
    }
  }

  /** A line of JSON for each event: the milliseconds, and the event as it came. */
  asLines() {
    return this.events.map(({ at, text, value }) => `${JSON.stringify({ at, event: value ?? text })}\n`).join("");
  }
}

/** Of too many times every second one goes: the drawing is no finer. */
function addTime(span, at) {
  span.deltas += 1;
  span.times.push(at);
  if (span.times.length > MOST_TIMES) span.times = span.times.filter((_, place) => place % 2 === 0);
}

function nameOf(found) {
  if (found.comment !== undefined) return "comment";
  return found.name || found.data;
}

/**
 * What a row says beside its type.
 * @param {Timeline} timeline
 */
export function summary(timeline, row) {
  const { value, text } = timeline.events[row.first];
  if (row.count > 1) return `×${row.count}, ${rate(timeline, row)}longest gap ${Math.round(row.gap)} ms`;
  if (!value) return size(text);
  const facts = [];
  if (value.sequence_number !== undefined) facts.push(`seq ${value.sequence_number}`);
  facts.push(...factsOf(value));
  facts.push(size(text));
  return facts.join(", ");
}

/** Milliseconds for which a rate says something. */
const LEAST_PASSED = 50;

function rate(timeline, row) {
  const passed = timeline.events[row.last].at - timeline.events[row.first].at;
  return passed >= LEAST_PASSED ? `${Math.round((row.count * 1000) / passed)}/s, ` : "";
}

const LONGEST = 60;

function factsOf({ delta, item, response, error, arguments: given }) {
  if (typeof delta === "string") return [shortened(JSON.stringify(delta))];
  if (typeof given === "string") return [shortened(given)];
  if (item) return [[item.type, item.name ?? item.server_label].filter(Boolean).join(" ")];
  if (error) return [shortened(error.message ?? "error")];
  if (response?.error) return [shortened(response.error.message ?? "")];
  if (response?.usage) return [`${response.usage.total_tokens} tokens`];
  return [];
}

function shortened(text) {
  return text.length > LONGEST ? `${text.slice(0, LONGEST)}…` : text;
}

function size(text) {
  const bytes = new TextEncoder().encode(text).length;
  return bytes < 1000 ? `${bytes} B` : `${(bytes / 1000).toFixed(1)} kB`;
}
