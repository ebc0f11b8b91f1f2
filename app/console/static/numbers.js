/** Numbers as the pages show them: three figures, the unit beside the number, and `–` for what is not known.
 * `formatting.py` writes the same. */

export const UNKNOWN = "–";
const NARROW = "\u202f";
const SIZES = [[1e9, `${NARROW}G`], [1e6, `${NARROW}M`], [1e3, "k"]];

function isUnknown(value) {
  return value === null || value === undefined;
}

/** `950`, `6.1k`, `64k`, `2.9 M`. */
export function amount(count) {
  if (isUnknown(count)) return UNKNOWN;
  const [size, unit] = SIZES.find(([each]) => count >= each * 0.9995) ?? [1, ""];
  const scaled = count / size;
  return `${scaled.toFixed(unit && scaled < 9.95 ? 1 : 0)}${unit}`;
}

/** `0.62 s`, `3.1 s`, `14 s`, `4 m 10 s`, from milliseconds. */
export function seconds(ms) {
  if (isUnknown(ms)) return UNKNOWN;
  const value = ms / 1000;
  if (value < 59.5) return `${value.toFixed(value < 0.995 ? 2 : value < 9.95 ? 1 : 0)} s`;
  const whole = Math.round(value);
  return `${Math.floor(whole / 60)} m${whole % 60 ? ` ${whole % 60} s` : ""}`;
}

/** `$5.81`, `$0.0042` when cents would hide it, from millionths. */
export function money(micros) {
  if (isUnknown(micros)) return UNKNOWN;
  const value = micros / 1e6;
  return `$${value.toFixed(value > 0 && value < 0.01 ? 4 : 2)}`;
}

/** `…7be20d`: ids begin with the time and look alike. */
export function shortId(id) {
  return `…${id.slice(-6)}`;
}
