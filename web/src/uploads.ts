/** Files that people send: shown as they are, and encoded piece by piece, so that a large one does not hold the page up. */

import { newId } from "./ids.ts";

/** How much is read and encoded at a time; whole groups of three bytes, so that the pieces fit together. */
const PIECE_BYTES = 3 * 128 * 1024;
/** How many bytes one call may take as arguments. */
const CALL_BYTES = 8 * 1024;

/** The files behind the `blob:` addresses that stand in messages on their way. */
const held = new Map<string, Blob>();

/** An address in this tab that shows `file` and that `encoded` knows. */
export function hold(file: Blob): string {
  const url = URL.createObjectURL(file);
  held.set(url, file);
  return url;
}

export function release(url: string): void {
  if (held.delete(url)) URL.revokeObjectURL(url);
}

/** `body` as JSON, with the content of each held file as a `data:` URL in the place of its address. */
export async function encoded(body: object): Promise<Blob> {
  const places = new Map<string, Blob>();
  let rest = JSON.stringify(body, (key, value: unknown) => {
    const file = key === "url" && typeof value === "string" ? held.get(value) : undefined;
    if (!file) return value;
    const place = newId("place");
    places.set(place, file);
    return place;
  });
  const pieces: BlobPart[] = [];
  for (const [place, file] of places) {
    const [before, after] = rest.split(`"${place}"`) as [string, string];
    pieces.push(before, ...(await dataUrl(file)));
    rest = after;
  }
  return new Blob([...pieces, rest], { type: "application/json" });
}

/** A `data:` URL of the file as a JSON string, in pieces. */
async function dataUrl(file: Blob): Promise<BlobPart[]> {
  const pieces: BlobPart[] = [`"data:${plainType(file.type)};base64,`];
  for (let at = 0; at < file.size; at += PIECE_BYTES) {
    const bytes = new Uint8Array(await file.slice(at, at + PIECE_BYTES).arrayBuffer());
    pieces.push(new Blob([base64(bytes)]));
  }
  pieces.push('"');
  return pieces;
}

/** A type of our own making could end the JSON string; a browser's cannot. */
function plainType(type: string): string {
  return /^[\w.+-]+\/[\w.+-]+$/.test(type) ? type : "application/octet-stream";
}

function base64(bytes: Uint8Array): string {
  let binary = "";
  for (let at = 0; at < bytes.length; at += CALL_BYTES) {
    binary += String.fromCharCode(...bytes.subarray(at, at + CALL_BYTES));
  }
  return btoa(binary);
}
