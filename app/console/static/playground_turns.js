/** The turns of the page's conversation, each with the one before it. Pure. */

const CHAINABLE = new Set(["completed", "incomplete"]);

export class Turn {
  /**
   * @param {{before: Turn | null, items?: object[], replaces?: boolean}} turn `items`: its input; `replaces`: it stands
   *   for all that came before
   */
  constructor({ before, items = [], replaces = false }) {
    this.before = before;
    this.items = items;
    this.replaces = replaces;
    this.id = null;
    this.stored = false;
    this.status = null;
    this.output = [];
    this.usage = null;
    /** In millionths; null while it is not known. */
    this.cost = null;
    /** Why it has failed: as `failureOf` makes it. */
    this.failure = null;
  }

  /** Takes what a response object says. `stored`: what is assumed where it does not say. */
  note(response, stored) {
    this.id = response.id;
    this.status = response.status ?? "completed";
    this.stored = response.store ?? stored;
    this.output = response.output;
    this.usage = response.usage ?? null;
  }

  /** Other turns may continue it. */
  get isChainable() {
    return CHAINABLE.has(this.status);
  }
}

/**
 * What a turn after this one needs of those before: the newest stored response, and the items since then.
 * @param {Turn | null} tip
 */
export function contextAfter(tip) {
  const items = [];
  let turn = tip;
  while (turn && !turn.stored) {
    items.unshift(...turn.items, ...turn.output);
    if (turn.replaces) return { previous: null, items };
    turn = turn.before;
  }
  return { previous: turn?.id ?? null, items };
}

/**
 * The tokens and the cost of a turn and those before it that this page has made. The cost is null if one is not known.
 * @param {Turn | null} tip
 */
export function totals(tip) {
  const turns = lineOf(tip).filter((turn) => !turn.opened);
  const tokens = turns.reduce((sum, turn) => sum + (turn.usage?.total_tokens ?? 0), 0);
  const known = turns.every((turn) => turn.cost !== null);
  return { count: turns.length, tokens, cost: known ? turns.reduce((sum, turn) => sum + turn.cost, 0) : null };
}

/** A turn and those before it, the newest first. */
export function lineOf(tip) {
  const turns = [];
  for (let turn = tip; turn; turn = turn.before) turns.push(turn);
  return turns;
}
