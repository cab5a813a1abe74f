// Holds the dashboard's proof check, which runs in browsers, against the golden proofs that the Rust verifier is held against, too.
//
//   node scripts/proofs.mjs
//
// What this JavaScript has no algorithm for (ML-DSA-65, in most) must be said to be unchecked, and is not passed over as checked.

import assert from "node:assert/strict";
import { readFileSync } from "node:fs";

// What browsers have, it has since then. What is checked is loaded only after this: an older one may not even read it.
if (Number(process.versions.node.split(".")[0]) < 20) {
  console.log(`skipped: node.js 20 or newer is needed, this is ${process.versions.node}`);
  process.exit(0);
}

const { Broken, checkFollows, checkProof, isEventShown } = await import("../control/service/src/dashboard/page/proof.mjs");

const folder = new URL("../control/audit/golden/proofs/", import.meta.url);
const read = (name) => readFileSync(new URL(name, folder), "utf8");
const keys = read("audit.pub");

async function verdict(file) {
  try {
    const { checkpoint } = await checkProof(file, keys);
    assert.equal(checkpoint.signatures["Ed25519"], true);
    return { code: "holds", mlDsa65: checkpoint.signatures["ML-DSA-65"] };
  } catch (error) {
    if (!(error instanceof Broken)) throw error;
    return { code: error.code };
  }
}

let [count, unchecked] = [0, 0];
for (const line of read("verdicts").trim().split("\n")) {
  const [name, wanted] = line.split(" ");
  const { code, mlDsa65 } = await verdict(read(`${name}.proof`));
  if (name === "ml-dsa-65-forged" && mlDsa65 === null) {
    assert.equal(code, "holds", "without ML-DSA-65 a forged signature of it is one that was not checked");
    unchecked += 1;
  } else {
    assert.equal(code, wanted, name);
    assert.notEqual(mlDsa65, false, name);
  }
  count += 1;
}
assert.ok(count > 20, `${count} proofs`);

// Each byte of a good proof matters, but for the ML-DSA-65 signature where that is not checked.
const good = read("leaf-20-of-70.proof");
const end = good.lastIndexOf("\u2014 ");
for (let at = 0; at < end; at++) {
  const flipped = good.slice(0, at) + String.fromCharCode(good.charCodeAt(at) ^ 1) + good.slice(at + 1);
  assert.notEqual((await verdict(flipped)).code, "holds", `character ${at} turned`);
}

// Keys that are not the log's, or are none.
for (const [name, text] of [
  ["other id", keys.replace(/\+[0-9a-f]{8}\+/, "+00000000+")],
  ["one line", keys.split("\n")[0] + "\n"],
  ["nothing", ""],
]) {
  await assert.rejects(() => checkProof(good, text), { code: "keys" }, name);
}

// What the node shows of an entry must be what its bytes say.
const { event } = await checkProof(good, keys);
const shown = { kind: event.kind, text: event.text, recovered: event.isRecovered, source: event.source, position: Number(event.position), time_ms: event.timeMs };
assert.ok(event.kind && isEventShown(shown, event));
assert.ok(isEventShown({ ...shown, text: undefined }, { ...event, text: "" }), "no text is an empty one");
for (const change of [{ kind: "node_started" }, { text: `${shown.text}x` }, { recovered: !shown.recovered }, { source: "shard-9" }, { position: shown.position + 1 }, { time_ms: 1 }]) {
  assert.notDeepEqual({ ...shown, ...change }, shown);
  assert.equal(isEventShown({ ...shown, ...change }, event), false, JSON.stringify(change));
}

// A checkpoint is held against the largest that was believed.
const { checkpoint } = await checkProof(good, keys);
const code = (known, next, how) => {
  try {
    checkFollows(known, next, how);
    return "follows";
  } catch (error) {
    return error.code;
  }
};
assert.equal(code(null, checkpoint), "follows");
assert.equal(code(checkpoint, checkpoint), "follows");
assert.equal(code(checkpoint, { ...checkpoint, size: 71n, root: new Uint8Array(32) }), "follows");
assert.equal(code(checkpoint, { ...checkpoint, size: 69n }), "rolled_back");
assert.equal(code(checkpoint, { ...checkpoint, size: 69n }, { mayBeOlder: true }), "follows");
assert.equal(code(checkpoint, { ...checkpoint, root: new Uint8Array(32) }), "forked");
assert.equal(code(checkpoint, { ...checkpoint, size: 71n, keyIds: { ...checkpoint.keyIds, "ML-DSA-65": "00000000" } }), "other_keys");

// Where no signature can be checked, nobody vouches for anything, however it was forged.
assert.equal(checkpoint.isVouched, true);
crypto.subtle.importKey = async () => {
  throw new DOMException("no such algorithm", "NotSupportedError");
};
for (const name of ["leaf-20-of-70", "ed25519-forged", "ml-dsa-65-forged"]) {
  const { checkpoint: under } = await checkProof(read(`${name}.proof`), keys);
  assert.deepEqual(under.signatures, { "Ed25519": null, "ML-DSA-65": null }, name);
  assert.equal(under.isVouched, false, name);
}
console.log(`${count} golden proofs and ${end} changed ones judged as they should be; ${unchecked} needed ML-DSA-65, which is not here`);
