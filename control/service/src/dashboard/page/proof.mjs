// Checks that an entry is in a node's audit log, from the bytes alone, as docs/audit-format.md has it. Pure: texts in, a verdict
// out; SHA-256 and signatures are the browser's WebCrypto. What cannot be checked here is said to be unchecked, never passed over.

import { KINDS } from "./kinds.mjs";

const PROOF_HEADER = "c2sp.org/tlog-proof@v1";
const TYPE_ED25519 = [0x01];
const TYPE_ML_DSA_65 = [0xff, ...new TextEncoder().encode("creto/ml-dsa-65/v1")];
const SALT_BYTES = 16;
const ENTRY_BYTES_MAX = 296;
const EVENT_VERSION = 1;
const EVENT_HEADER_BYTES = 56;
const EVENT_FLAG_RECOVERED = 1;
const EVENT_TIME_END = 1n << 63n;
const LABEL_BYTES_MAX = 128;
const PATH_HASHES_MAX = 65;
const SIGNATURES_MAX = 16;
const PROOF_BYTES_MAX = 80 * 1024;
const U64_END = 1n << 64n;

/// Which rule is broken: `code` is the same word as `creto audit verify` has for it.
export class Broken extends Error {
  constructor(code, message) {
    super(message);
    this.code = code;
  }
}

const encoder = new TextEncoder();

function joined(...parts) {
  const out = new Uint8Array(parts.reduce((sum, part) => sum + part.length, 0));
  let at = 0;
  for (const part of parts) {
    out.set(part, at);
    at += part.length;
  }
  return out;
}

function isSame(one, other) {
  return one.length === other.length && one.every((byte, at) => byte === other[at]);
}

export function hex(bytes) {
  return Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("");
}

/// Standard base64 in its one form: padded, without anything else in it. `null` for all other texts.
function base64(text) {
  try {
    const binary = atob(text);
    return btoa(binary) === text ? Uint8Array.from(binary, (letter) => letter.charCodeAt(0)) : null;
  } catch {
    return null;
  }
}

/// A decimal number below 2^64 as it is written: no sign, no leading zeros. `null` for all other texts.
function number(text) {
  if (!/^(0|[1-9][0-9]{0,19})$/.test(text)) return null;
  const value = BigInt(text);
  return value < U64_END ? value : null;
}

function hash(text) {
  const bytes = base64(text);
  return bytes?.length === 32 ? bytes : null;
}

async function sha256(...parts) {
  return new Uint8Array(await crypto.subtle.digest("SHA-256", joined(...parts)));
}

/// Index, entry, path and checkpoint of a proof's file.
export function parseProof(text) {
  const bad = () => new Broken("not_a_proof", "this is not a proof of a version that is known here");
  const end = text.indexOf("\n\n");
  if (end < 0 || encoder.encode(text).length > PROOF_BYTES_MAX) throw bad();
  const [header, extraLine, indexLine, ...pathLines] = text.slice(0, end).split("\n");
  if (header !== PROOF_HEADER || !extraLine?.startsWith("extra ") || !indexLine?.startsWith("index ")) throw bad();
  const extra = base64(extraLine.slice("extra ".length));
  const index = number(indexLine.slice("index ".length));
  const path = pathLines.map(hash);
  if (extra === null || extra.length < SALT_BYTES || index === null) throw bad();
  if (path.includes(null) || path.length > PATH_HASHES_MAX) throw bad();
  const view = new DataView(extra.buffer);
  const [version, count, entryBytes] = [view.getUint8(0), view.getUint8(1), view.getUint16(2, true)];
  const grownFrom = view.getBigUint64(8, true);
  const isWhole = extra.length === 16 + entryBytes + 32 * count && count <= PATH_HASHES_MAX;
  if (version !== 1 || view.getUint32(4, true) !== 0 || !isWhole || (grownFrom === 0n && count !== 0)) throw bad();
  if (entryBytes < SALT_BYTES + EVENT_HEADER_BYTES || entryBytes > ENTRY_BYTES_MAX) throw bad();
  return { index, entry: extra.slice(16, 16 + entryBytes), path, checkpoint: text.slice(end + 2) };
}

/// The text of a signed note and its signatures.
export function parseNote(note) {
  const bad = () => new Broken("not_a_note", "the checkpoint is not a text, an empty line and signatures");
  const split = note.lastIndexOf("\n\n");
  if (split < 0 || !note.endsWith("\n") || /[\x00-\x09\x0b-\x1f]/.test(note)) throw bad();
  const signatures = note.slice(split + 2, -1).split("\n").map((line) => {
    const parts = /^\u2014 ([^\s+]+) (\S+)$/u.exec(line);
    const bytes = parts && base64(parts[2]);
    if (!bytes || bytes.length <= 4) throw bad();
    return { name: parts[1], keyId: hex(bytes.slice(0, 4)), signature: bytes.slice(4) };
  });
  if (signatures.length > SIGNATURES_MAX) throw bad();
  return { text: note.slice(0, split + 1), signatures };
}

/// What a checkpoint's text says.
export function parseCheckpoint(text) {
  const bad = (code) => new Broken(code, "the signed text is not origin, size, root, time and sources that add up");
  const [origin, sizeLine, rootLine, timeLine, ...sourceLines] = text.replace(/\n$/, "").split("\n");
  const [size, root] = [number(sizeLine ?? ""), hash(rootLine ?? "")];
  const time = number(/^time (.*)$/.exec(timeLine ?? "")?.[1] ?? "");
  if (!text.endsWith("\n") || !origin || size === null || root === null || time === null) throw bad("checkpoint_form");
  let sum = 0n;
  let last = -1;
  for (const line of sourceLines) {
    const [, source, shard, position, head] = /^source (shard-(\d+)|control) (\S+) (\S+)$/.exec(line) ?? [];
    const place = source === "control" ? 65_535n : number(shard ?? "");
    const told = number(position ?? "");
    if (place === null || told === null || told === 0n || hash(head ?? "") === null) throw bad("checkpoint_form");
    if (source !== "control" && place >= 65_535n) throw bad("checkpoint_form");
    if (place <= last) throw bad("checkpoint_sources");
    last = place;
    sum += told;
  }
  if (sum !== size) throw bad("checkpoint_sources");
  return { origin, size, root, timeMs: Number(time) };
}

/// The log's two public keys, each with the id that follows from it.
export async function parseKeys(text) {
  const bad = () => new Broken("keys", "the keys of the log have not the form that they should have");
  const lines = text.replace(/\n$/, "").split("\n");
  if (lines.length !== 2) throw bad();
  const parsed = [TYPE_ED25519, TYPE_ML_DSA_65].map((type, place) => {
    const [, name, id, encoded] = /^([^\s+]+)\+([0-9a-f]{8})\+(\S+)$/.exec(lines[place]) ?? [];
    const bytes = base64(encoded ?? "");
    if (!bytes || !isSame(bytes.slice(0, type.length), Uint8Array.from(type))) throw bad();
    return { name, id, type: Uint8Array.from(type), key: bytes.slice(type.length) };
  });
  for (const { name, id, type, key } of parsed) {
    const digest = await sha256(encoder.encode(name), [0x0a], type, key);
    if (hex(digest.slice(0, 4)) !== id) throw bad();
  }
  const [ed25519, mlDsa65] = parsed;
  if (ed25519.name !== mlDsa65.name || ed25519.key.length !== 32) throw bad();
  return { origin: ed25519.name, ed25519, mlDsa65 };
}

/// The root of the tree of `size` leaves that has `leaf` at `index` by this path (RFC 9162 section 2.1.3.2). The length of the path
/// follows from index and size: one that is longer or shorter proves nothing.
export async function rootOfInclusion(leaf, index, size, path) {
  const bad = () => new Broken("not_in_the_log", "the path from the entry does not lead to the signed root");
  if (index >= size) throw bad();
  let [node, at, last, used] = [leaf, index, size - 1n, 0];
  while (last > 0n) {
    if (at & 1n) {
      if (used === path.length) throw bad();
      node = await sha256([0x01], path[used++], node);
    } else if (at < last) {
      if (used === path.length) throw bad();
      node = await sha256([0x01], node, path[used++]);
    }
    [at, last] = [at >> 1n, last >> 1n];
  }
  if (used !== path.length) throw bad();
  return node;
}

/// `true` or `false` by what the browser says of the signature, `null` when it has no such algorithm.
async function holds(algorithm, format, key, signature, text) {
  let imported;
  try {
    imported = await crypto.subtle.importKey(format, key, { name: algorithm }, false, ["verify"]);
  } catch (error) {
    // A key that is none is a reason to believe nothing; an algorithm that is not there is none.
    return ["NotSupportedError", "SyntaxError", "TypeError"].includes(error.name) ? null : false;
  }
  return crypto.subtle.verify({ name: algorithm }, imported, signature, text);
}

function theSignature(note, { name, id }, algorithm) {
  const ofKey = note.signatures.filter((one) => one.name === name && one.keyId === id);
  if (ofKey.length === 0) throw new Broken("signature_missing", `the checkpoint has no ${algorithm} signature of the log's key`);
  if (ofKey.length > 1) throw new Broken("signature_repeated", `the checkpoint has two ${algorithm} signatures of the log's key`);
  return ofKey[0].signature;
}

/// What an entry says of itself: its header, kind and text, by the rules of the format. Of the fields between them only the length is
/// looked at.
function eventOf(entry) {
  const bad = (why) => new Broken("event", `the entry is no event of a form that is known here: ${why}`);
  const bytes = entry.slice(SALT_BYTES);
  const view = new DataView(bytes.buffer);
  const [version, number, flags, labelBytes] = bytes;
  if (version !== EVENT_VERSION) throw bad(`version ${version}`);
  if ((flags & ~EVENT_FLAG_RECOVERED) !== 0 || view.getUint16(6, true) !== 0) throw bad("what must be zero is not");
  const time = view.getBigUint64(16, true);
  if (time >= EVENT_TIME_END) throw bad("its time is none");
  if (!KINDS.has(number)) throw bad(`kind ${number}`);
  const [kind, fieldsBytes] = KINDS.get(number);
  if (bytes.length !== EVENT_HEADER_BYTES + fieldsBytes + labelBytes) throw bad("its length is not the sum of its fields");
  const label = bytes.slice(bytes.length - labelBytes);
  if (labelBytes > LABEL_BYTES_MAX || label.some((byte) => byte < 0x20 || byte > 0x7e)) throw bad("its text is not printable");
  const source = view.getUint16(4, true);
  return {
    kind,
    text: String.fromCharCode(...label),
    isRecovered: flags === EVENT_FLAG_RECOVERED,
    source: source === 65_535 ? "control" : `shard-${source}`,
    position: view.getBigUint64(8, true),
    timeMs: Number(time),
  };
}

/// Whether what the node shows of an event says the same as its bytes: all that `eventOf` reads. The fields of its kind are not compared.
export function isEventShown(shown, proven) {
  return shown.kind === proven.kind
    && (shown.text ?? "") === proven.text
    && shown.recovered === proven.isRecovered
    && shown.source === proven.source
    && String(shown.position) === String(proven.position)
    && shown.time_ms === proven.timeMs;
}

/// Throws a `Broken` when a checkpoint cannot be one of the log that an earlier one is of. `known` is the largest that was believed, or
/// `null`. Whether the log only grew in between takes a proof of consistency, which is not asked for here.
export function checkFollows(known, next, { mayBeOlder = false } = {}) {
  if (known === null) return;
  if (Object.entries(known.keyIds).some(([algorithm, id]) => next.keyIds[algorithm] !== id)) {
    throw new Broken("other_keys", "the node has other keys of the log than before: this is another log");
  }
  if (next.size < known.size && !mayBeOlder) {
    throw new Broken("rolled_back", `it has ${next.size} entries, one with ${known.size} was seen before: the log was rolled back`);
  }
  if (next.size === known.size && !isSame(next.root, known.root)) {
    throw new Broken("forked", `another checkpoint with ${known.size} entries was seen before: the log was changed`);
  }
}

/// Checks a checkpoint. The verdict's `signatures` are `true` (holds) or `null` (this browser cannot check it); one that does not
/// hold is thrown as a `Broken`. Where not one could be checked, `isVouched` is false: then anybody may have made the checkpoint.
export async function checkCheckpoint(noteText, keysText) {
  const keys = await parseKeys(keysText);
  const note = parseNote(noteText);
  const found = note.text.slice(0, note.text.indexOf("\n"));
  if (found !== keys.origin) throw new Broken("other_origin", `the checkpoint is of the log ${found}, the keys are those of ${keys.origin}`);
  const signed = encoder.encode(note.text);
  const signatures = {};
  const both = [
    ["Ed25519", keys.ed25519, "raw", 64],
    ["ML-DSA-65", keys.mlDsa65, "raw-public", 3309],
  ].map(([algorithm, key, ...how]) => [algorithm, key, theSignature(note, key, algorithm), ...how]);
  for (const [algorithm, key, signature, format, bytes] of both) {
    const verdict = signature.length === bytes && (await holds(algorithm, format, key.key, signature, signed));
    if (verdict === false) throw new Broken("signature_forged", `the ${algorithm} signature of the checkpoint does not hold`);
    signatures[algorithm] = verdict;
  }
  const isVouched = Object.values(signatures).includes(true);
  return { ...parseCheckpoint(note.text), signatures, isVouched, keyIds: { "Ed25519": keys.ed25519.id, "ML-DSA-65": keys.mlDsa65.id } };
}

/// Checks that an entry is in the log: the checkpoint, the entry's form, then the path from it to the root. Throws a `Broken` when it is
/// not. It is in the log only if the checkpoint `isVouched`.
export async function checkProof(proofText, keysText) {
  const proof = parseProof(proofText);
  const checkpoint = await checkCheckpoint(proof.checkpoint, keysText);
  const event = eventOf(proof.entry);
  const leaf = await sha256([0x00], proof.entry);
  const root = await rootOfInclusion(leaf, proof.index, checkpoint.size, proof.path);
  if (!isSame(root, checkpoint.root)) throw new Broken("not_in_the_log", "the path from the entry does not lead to the signed root");
  return { index: proof.index, leaf, hashes: proof.path.length, checkpoint, event };
}
