/** Server-sent events of a fetched answer. Source: the HTML standard, "Server-sent events", §9.2.6. */

const LINE_END = /\r\n|[\r\n]/;

/** Puts the lines of a stream together to events, wherever the text was split. */
export class EventParser {
  #line = "";
  #data = [];
  #name = "";
  #endedWithCr = false;

  /**
   * The events and comments that this text completes: `{name, data}` or `{comment}`. An event without data is none.
   * @param {string} text
   */
  feed(text) {
    if (!text) return [];
    // The second half of a line end whose first half came with the text before.
    const rest = this.#endedWithCr && text.startsWith("\n") ? text.slice(1) : text;
    this.#endedWithCr = text.endsWith("\r");
    const lines = rest.split(LINE_END);
    lines[0] = this.#line + lines[0];
    this.#line = lines.pop();
    return lines.map((line) => this.#read(line)).filter(Boolean);
  }

  #read(line) {
    if (line === "") return this.#dispatch();
    if (line.startsWith(":")) return { comment: line.slice(1).trim() };
    const colon = line.indexOf(":");
    const field = colon < 0 ? line : line.slice(0, colon);
    const value = colon < 0 ? "" : line.slice(colon + 1).replace(/^ /, "");
    if (field === "data") this.#data.push(value);
    else if (field === "event") this.#name = value;
    return null;
  }

  #dispatch() {
    const [name, data] = [this.#name, this.#data];
    this.#name = "";
    this.#data = [];
    return data.length ? { name, data: data.join("\n") } : null;
  }
}

/**
 * The events and comments of an answer, as they arrive. What stands after the last blank line is no event.
 * @param {ReadableStream<Uint8Array>} body
 */
export async function* eventsOf(body) {
  const parser = new EventParser();
  const reader = body.getReader();
  // It keeps a character that was split, and drops a byte order mark.
  const decoder = new TextDecoder();
  try {
    for (;;) {
      const { done, value } = await reader.read();
      if (done) return;
      yield* parser.feed(decoder.decode(value, { stream: true }));
    }
  } finally {
    reader.releaseLock();
  }
}
