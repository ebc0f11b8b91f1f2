/** Builds elements. Texts become text nodes, so that what a model writes is never markup. */

const SVG = "http://www.w3.org/2000/svg";

/**
 * @param {string} tag
 * @param {Record<string, unknown>} attributes `false`, null and undefined leave one out, `true` is an empty value
 * @param {...(Node | string | null)} children
 */
export function element(tag, attributes = {}, ...children) {
  return filled(document.createElement(tag), attributes, children);
}

export function svg(tag, attributes = {}, ...children) {
  return filled(document.createElementNS(SVG, tag), attributes, children);
}

function filled(made, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (value === false || value === null || value === undefined) continue;
    made.setAttribute(name, value === true ? "" : String(value));
  }
  made.append(...children.filter((child) => child !== null && child !== undefined));
  return made;
}

/** A symbol of the page's sprite and a word. `kind`: `warn`, `bad`, or nothing. */
export function badge(symbol, words, kind = "") {
  const icon = svg("svg", { class: "i", "aria-hidden": "true" }, svg("use", { href: `#i-${symbol}` }));
  return element("span", { class: `badge ${kind}`.trim() }, icon, element("span", {}, words));
}

export function button(words, attributes, action) {
  const made = element("button", { type: "button", class: "btn small", ...attributes }, words);
  made.addEventListener("click", action);
  return made;
}

/** One problem with its remedy. */
export function note(kind, words, remedy = null) {
  const icon = svg("svg", { class: "i", "aria-hidden": "true" }, svg("use", { href: `#i-${kind}` }));
  return element("div", { class: `note ${kind}` }, icon, element("div", {}, ...words), remedy);
}
