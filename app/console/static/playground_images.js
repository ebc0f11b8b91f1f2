/** Images that go with a message: checked by what they are, not by what they are called. */

export const MOST_IMAGES = 4;
export const MOST_BYTES = 8 * 1024 * 1024;

/** First bytes of the types that models take; `null` is any byte. */
const TYPES = [
  ["image/png", [0x89, 0x50, 0x4e, 0x47]],
  ["image/jpeg", [0xff, 0xd8, 0xff]],
  ["image/gif", [0x47, 0x49, 0x46, 0x38]],
  ["image/webp", [0x52, 0x49, 0x46, 0x46, null, null, null, null, 0x57, 0x45, 0x42, 0x50]],
];

/** @param {Uint8Array} bytes */
export function typeOf(bytes) {
  return TYPES.find(([, start]) => start.every((byte, place) => byte === null || bytes[place] === byte))?.[0] ?? null;
}

/**
 * The file as a data URL. Throws an Error that says what is wrong with it.
 * @param {File} file
 */
export async function dataUrlOf(file) {
  if (file.size > MOST_BYTES) throw new Error(`${file.name} is larger than ${MOST_BYTES / 1024 / 1024} MiB.`);
  const bytes = new Uint8Array(await file.arrayBuffer());
  const type = typeOf(bytes);
  if (!type) throw new Error(`${file.name} is no image that a model takes: PNG, JPEG, GIF or WebP.`);
  return `data:${type};base64,${base64(bytes)}`;
}

function base64(bytes) {
  const pieces = [];
  for (let from = 0; from < bytes.length; from += 32768) {
    pieces.push(String.fromCharCode(...bytes.subarray(from, from + 32768)));
  }
  return btoa(pieces.join(""));
}
