// The page: asks the node once a second what it counts, and shows it. Nothing here is made of text that a browser would read as a
// page: every word of the node becomes the text of an element.

import { Chart } from "/chart.mjs";
import { between, lookOf, quantile, together } from "/readings.mjs";
import { Broken, checkCheckpoint, checkFollows, checkProof, hex, isEventShown } from "/proof.mjs";

const LOOK_MS = 1_000;
const MAILBOXES_MS = 2_000;
const STATUS_MS = 5_000;
const AUDIT_MS = 5_000;
/// A little more than the dashboard waits for the node: it knows better what is wrong.
const ANSWER_MS = 8_000;
const HISTORY_MS = 5 * 60_000;
const RECENT_LOOKS = 10;
const EVENTS_SHOWN = 8;
/// For how long a start of the node is said.
const NOTICE_MS = 60_000;
const KEY = "creto-dashboard-key";
/// What stands behind `#` in a link.
const TOKEN = /^[\w-]{43}$/;

const at = (id) => document.getElementById(id);

function made(name, { class: style, text, ...attributes } = {}, ...children) {
  const element = document.createElement(name);
  if (style) element.className = style;
  if (text !== undefined) element.textContent = text;
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
  element.append(...children);
  return element;
}

// Numbers as people read them.

const NONE = "\u2013";
const grouped = new Intl.NumberFormat("en", { maximumFractionDigits: 0 });
const short = new Intl.NumberFormat("en", { maximumFractionDigits: 1 });
const clock = new Intl.DateTimeFormat("en-GB", { hour: "2-digit", minute: "2-digit", second: "2-digit" });

const whole = (value) => (value === null ? NONE : grouped.format(value));
const rounded = (value) => (value === null ? NONE : value > 0 && value < 100 ? short.format(value) : grouped.format(value));
const percent = (share) => (share === null ? NONE : `${grouped.format(share * 100)} %`);

function bytes(value) {
  if (value === null) return NONE;
  const [unit, size] = [["GiB", 2 ** 30], ["MiB", 2 ** 20], ["KiB", 2 ** 10]].find(([, size]) => value >= size) ?? ["B", 1];
  return `${(size > 1 && value < 100 * size ? short : grouped).format(value / size)} ${unit}`;
}

function duration(seconds) {
  if (seconds === null) return NONE;
  if (seconds === Infinity) return "> 10 s";
  if (seconds >= 1) return `${short.format(seconds)} s`;
  return seconds >= 1e-3 ? `${short.format(seconds * 1e3)} ms` : `${grouped.format(seconds * 1e6)} us`;
}

const upto = (seconds) => (seconds === null ? NONE : seconds === Infinity ? "> 10 s" : `< ${duration(seconds)}`);

function span(seconds) {
  const [days, hours, minutes] = [86_400, 3_600, 60].map((unit) => Math.floor(seconds / unit));
  if (days) return `${days} d ${hours % 24} h`;
  if (hours) return `${hours} h ${minutes % 60} min`;
  return minutes ? `${minutes} min` : `${Math.max(0, Math.floor(seconds))} s`;
}

// Tables that change their cells and keep their rows, so that nothing jumps under a pointer or a screen reader.

class Table {
  constructor(into, columns, { caption, empty }) {
    this.columns = columns;
    const head = made("tr", { role: "row" }, ...columns.map(({ name, text }) => made("th", { text: name, scope: "col", role: "columnheader", class: text ? "text" : "" })));
    this.body = made("tbody", { role: "rowgroup" });
    this.table = made("table", { class: "stack", role: "table", "aria-label": caption }, made("thead", { role: "rowgroup" }, head), this.body);
    this.empty = made("p", { class: "empty", text: empty });
    into.append(this.table, this.empty);
    [this.table.hidden, this.empty.hidden] = [true, true];
  }

  /// Each row is a list of cells: a text, or { text, class, bar (a share), level, node }.
  show(rows) {
    this.table.hidden = rows.length === 0;
    this.empty.hidden = rows.length > 0;
    while (this.body.rows.length > rows.length) this.body.lastChild.remove();
    while (this.body.rows.length < rows.length) {
      const cells = this.columns.map(({ name, text, head, named }) => {
        const style = [text && "text", head && "head", named && "named"].filter(Boolean).join(" ");
        return made("td", { role: "cell", "data-label": name, class: style }, made("span"));
      });
      this.body.append(made("tr", { role: "row" }, ...cells));
    }
    rows.forEach((row, place) => row.forEach((cell, column) => show(this.body.rows[place].cells[column], cell)));
  }
}

function show(cell, content) {
  const { text = "", style = "", bar, level = "", node } = typeof content === "object" ? content : { text: content };
  const value = cell.firstChild;
  if (node) {
    if (value !== node) value.replaceWith(node);
    return;
  }
  if (value.textContent !== text) value.textContent = text;
  value.className = style;
  if (bar === undefined) return;
  const fill = cell.querySelector(".bar i") ?? value.parentNode.appendChild(made("span", { class: "bar", "aria-hidden": "true" }, made("i"))).firstChild;
  fill.className = level;
  fill.style.width = `${Math.round(100 * Math.min(1, Math.max(0, bar ?? 0)))}%`;
}

const TILES = [
  ["durable/s", ({ durable }) => rounded(durable)],
  ["pushed/s", ({ pushed }) => rounded(pushed)],
  ["acknowledged/s", ({ settled }) => rounded(settled)],
  // Of more than one look: a node that does little has few writes a second.
  ["p99 durable write", () => upto(quantile(together(looks.slice(-RECENT_LOOKS).map(({ times }) => times)), 0.99))],
  ["messages waiting", ({ queued }) => whole(queued)],
  ["refused/s", ({ refused }) => rounded(refused)],
  ["of one CPU", ({ cpu }) => percent(cpu)],
  ["memory", ({ residentBytes }) => bytes(residentBytes)],
];
const tiles = TILES.map(([label]) => {
  const value = made("b", { text: NONE });
  at("tiles").append(made("div", { class: "tile" }, value, made("span", { text: label })));
  return value;
});

const rates = new Chart(at("rates"), {
  label: "Durable, pushed and acknowledged messages a second over the last five minutes",
  series: [
    { name: "pushed", class: "b", of: ({ pushed }) => pushed },
    { name: "acknowledged", class: "c", of: ({ settled }) => settled },
    { name: "durable", class: "a", of: ({ durable }) => durable },
  ],
  text: rounded,
  minutesMax: HISTORY_MS / 60_000,
});
const latency = new Chart(at("latency"), {
  label: "Median and 99th percentile of durable writes over the last five minutes",
  series: [
    { name: "p50", class: "a", of: ({ times }) => quantile(times, 0.5) },
    { name: "p99", class: "b", of: ({ times }) => quantile(times, 0.99) },
  ],
  text: duration,
  minutesMax: HISTORY_MS / 60_000,
  isLog: true,
});
const shards = new Table(
  at("shard-table"),
  [
    { name: "shard", head: true, named: true }, { name: "state", text: true }, { name: "CPU" }, { name: "connections" }, { name: "durable/s" }, { name: "pushed/s" },
    { name: "acknowledged/s" }, { name: "a write" }, { name: "write p50" }, { name: "p99" }, { name: "waiting" }, { name: "log room" },
  ],
  { caption: "Shards", empty: "This process has no shards: it is a control service for nodes elsewhere." },
);
const mailboxes = new Table(
  at("mailbox-table"),
  [{ name: "mailbox", text: true, head: true }, { name: "messages" }, { name: "bytes" }, { name: "handed out" }, { name: "dead" }, { name: "shard" }],
  { caption: "Fullest mailboxes and channels", empty: "No message waits anywhere." },
);
const rejects = new Table(
  at("reject-table"),
  [{ name: "reason", text: true, head: true }, { name: "a second" }, { name: "since start" }],
  { caption: "Refusals by reason", empty: "Nothing was refused." },
);
const events = new Table(
  at("event-table"),
  [{ name: "entry", head: true, named: true }, { name: "time" }, { name: "what", text: true }, { name: "source", text: true }, { name: "" }],
  { caption: "Newest entries of the audit log", empty: "No entry is signed yet." },
);

const STATES = { serving: "good", starting: "caution", slow: "caution", full: "bad", fenced: "bad", stalled: "bad" };

function draw(now) {
  TILES.forEach(([, text], place) => (tiles[place].textContent = text(now)));
  rates.draw(looks);
  latency.draw(looks);
  shards.show(now.shards.map((shard) => [
    { text: shard.number },
    { text: shard.state, style: STATES[shard.state] ?? "" },
    { text: percent(shard.cpu), bar: shard.cpu ?? 0 },
    whole(shard.connections),
    rounded(shard.durable),
    rounded(shard.pushed),
    rounded(shard.settled),
    rounded(shard.batch),
    upto(quantile(shard.times, 0.5)),
    upto(quantile(shard.times, 0.99)),
    whole(shard.queued),
    { text: percent(shard.roomShare), bar: shard.roomShare, level: shard.roomShare < 0.1 ? "bad" : shard.roomShare < 0.25 ? "caution" : "" },
  ]));
  const mostOften = Math.max(0, ...now.rejects.map(({ count }) => count));
  rejects.show(now.rejects.map(({ code, rate, count }) => [code, rounded(rate), { text: whole(count), bar: count / mostOften }]));
  const upS = Date.now() / 1000 - now.startedS;
  const about = [`version ${now.version}`, `up ${span(upS)}`, `${whole(now.agents)} agents`, `${whole(now.channels)} channels`];
  if (domain) about.unshift(domain);
  at("about").textContent = about.join("  \u00b7  ");
}

function drawMailboxes({ complete, holding, mailboxes: fullest }) {
  const most = fullest[0]?.messages ?? 0;
  // What nobody has looked at is not empty.
  mailboxes.empty.textContent = complete ? "No message waits anywhere." : "Not looked at yet.";
  at("mailboxes-what").textContent = complete
    ? `${whole(holding)} mailboxes and channels hold messages; those with most of them`
    : "not every shard has looked at all of its mailboxes yet";
  mailboxes.show(fullest.slice(0, 10).map((mailbox) => [
    { text: mailbox.kind === "channel" ? `${mailbox.name} (channel)` : mailbox.name ?? mailbox.id },
    { text: whole(mailbox.messages), bar: mailbox.messages / most },
    bytes(mailbox.bytes),
    whole(mailbox.handed_out_messages),
    { text: whole(mailbox.dead_messages), style: mailbox.dead_messages ? "caution" : "" },
    String(mailbox.shard),
  ]));
}

// Asking.

/// `creto dashboard` itself did not answer.
class Unreached extends Error {}

/// It, or the node behind it, said no.
class Refused extends Error {
  constructor(status, { code = "", detail = "", next = "" }) {
    super(detail || `status ${status}`);
    Object.assign(this, { status, code, next });
  }
}

let key = null;

async function ask(path, { method = "GET", secret = key } = {}) {
  let answer, text;
  try {
    const signal = AbortSignal.timeout(ANSWER_MS);
    answer = await fetch(path, { method, headers: { authorization: `Bearer ${secret}` }, signal, cache: "no-store" });
    text = await answer.text();
  } catch (error) {
    throw new Unreached(error.message);
  }
  const isText = answer.headers.get("content-type")?.startsWith("text/");
  const value = isText ? text : JSON.parse(text);
  if (!answer.ok && value.code !== undefined) throw new Refused(answer.status, value);
  return value;
}

/// The link's token is good once; what it is given for stays with this tab, also when it is loaded again, and goes to no other
/// server and no other port.
async function enter() {
  const token = location.hash.slice(1);
  if (TOKEN.test(token)) {
    history.replaceState(null, "", "/");
    ({ key } = await ask("/session", { method: "POST", secret: token }));
    sessionStorage.setItem(KEY, key);
  }
  key ??= sessionStorage.getItem(KEY);
  if (key === null) throw new Refused(401, { code: "key_missing", detail: "this tab was not let in", next: "open the link that `creto dashboard` shows" });
}

// What is known.

let looks = [];
let before = null;
let domain = "";
/// The largest checkpoint that was believed. It outlives starts of the node: they are when a log is rolled back.
let largest = null;
/// The checkpoint whose entries are shown.
let checkpoint = null;
let isPaused = false;
let notice = { text: "", untilMs: 0 };
let troubleSince = null;
let lastLookAt = null;

function setState(text, style) {
  if (at("state").textContent === text) return;
  at("state").textContent = text;
  at("state").className = `verdict ${style}`;
  document.title = `${text} - creto dashboard`;
}

function banner(text, style = "bad") {
  // Written only when it changes: a screen reader says it once.
  if (at("banner").textContent !== text) at("banner").textContent = text;
  at("banner").className = `banner ${style}`;
  at("banner").hidden = text === "";
}

function sentence(...parts) {
  return parts.filter(Boolean).map((part) => part.charAt(0).toUpperCase() + part.slice(1).replace(/\.$/, "")).join(". ") + ".";
}

async function lookOnce() {
  const readings = await ask("/v1/metrics");
  const look = lookOf(readings, performance.now());
  const now = between(before, look);
  before = look;
  lastLookAt = performance.now();
  if (now.isRestarted) {
    notice = { text: `The node was started again at ${clock.format(now.startedS * 1000)}: counts begin anew.`, untilMs: look.atMs + NOTICE_MS };
    checkpoint = null;
  }
  troubleSince = null;
  document.body.classList.remove("stale");
  looks = [...looks.filter(({ atMs }) => atMs > look.atMs - HISTORY_MS - 10_000), now];
  setState(now.isReady ? "ready" : "not ready", now.isReady ? "good" : "bad");
  draw(now);
  if (now.isReady) banner(look.atMs < notice.untilMs ? notice.text : "", "caution");
  else await why();
}

/// What the node says of not being ready.
async function why() {
  const ready = await ask("/v1/ready");
  const causes = ready.shards.filter(({ cause }) => cause).map(({ shard, cause }) => `shard ${shard}: ${cause}`);
  banner(sentence("The node does not serve everything", ready.directory, ready.control?.cause, ...causes));
}

async function statusOnce() {
  // A node whose control service is elsewhere has no status of its own.
  const status = await ask("/v1/status").catch((error) => (error.code === "path_unknown" ? null : Promise.reject(error)));
  if (status) domain = status.trust_domain;
}

async function mailboxesOnce() {
  drawMailboxes(await ask("/v1/mailboxes/fullest"));
}

function fail(error) {
  troubleSince ??= new Date();
  document.body.classList.add("stale");
  const since = `since ${clock.format(troubleSince)}`;
  if (error.status === 401) {
    key = null;
    sessionStorage.removeItem(KEY);
    setState("not let in", "bad");
    banner(sentence(error.message, error.next));
  } else if (error instanceof Refused) {
    setState("no answer", "bad");
    banner(sentence(`No answer of the node ${since}`, error.message, error.next, "What is shown is from before"));
  } else if (error instanceof Unreached) {
    setState("no answer", "bad");
    banner(sentence(`No answer of \`creto dashboard\` ${since}`, "it has ended, or the way to it is cut", "start it again and open its new link"));
  } else {
    setState("fault", "bad");
    banner(sentence("This page has a fault, which is not the node's", String(error), "`creto top` shows the same in a terminal"));
  }
}

// The audit log.

function term(name, ...value) {
  return [made("dt", { text: name }), made("dd", {}, ...value)];
}

function signatureText(checked, algorithm, keyId) {
  const [word, style] = checked.signatures[algorithm] ? ["holds", "good"] : ["not checked: this browser has no " + algorithm, "caution"];
  return made("span", {}, `${algorithm} `, made("b", { class: style, text: word }), ` (key ${keyId})`);
}

const AUDIT_WHAT = at("audit-what").textContent;

/// `text` says why what is shown of the audit log is of before; nothing says that it is of now.
function setAuditStale(text = "") {
  at("audit-what").textContent = text || AUDIT_WHAT;
  at("audit-what").className = text ? "caution" : "dim";
  document.querySelector(".audit").classList.toggle("old", text !== "");
}

function drawCheckpoint({ checked, error }) {
  if (error) {
    at("checkpoint").replaceChildren(...term("verdict", made("b", { class: "bad", text: `does not hold: ${error.message}` })));
    return;
  }
  const signatures = Object.entries(checked.keyIds).map(([algorithm, id]) => made("div", {}, signatureText(checked, algorithm, id)));
  const unchecked = made("b", { class: "caution", text: "cannot be checked in this browser: `creto audit verify` does it" });
  at("checkpoint").replaceChildren(
    ...(checked.isVouched ? [] : term("verdict", unchecked)),
    ...term("log", checked.origin),
    ...term("entries", grouped.format(checked.size)),
    ...term("signed", `${clock.format(checked.timeMs)} by the node's clock`),
    ...term("root", made("code", { text: hex(checked.root) })),
    ...term("signatures", ...signatures),
  );
}

async function auditOnce() {
  try {
    await lookAtAudit();
  } catch (error) {
    setAuditStale("the audit log could not be read: what is shown of it is from before");
    throw error;
  }
}

async function lookAtAudit() {
  const [note, keys] = await Promise.all([ask("/v1/audit/checkpoint"), ask("/v1/audit/keys")]).catch((error) => {
    if (error.code !== "audit_unavailable") throw error;
    return [null, null];
  });
  if (note === null) {
    if (checkpoint !== null || largest !== null) {
      setAuditStale("the node says that it has no audit log now: what is shown of it is from before");
      return;
    }
    at("checkpoint").replaceChildren(...term("verdict", made("span", { class: "dim", text: "nothing is signed yet, or this process has no audit log" })));
    events.show([]);
    return;
  }
  if (note === checkpoint) {
    setAuditStale();
    return;
  }
  let checked;
  try {
    checked = await checkCheckpoint(note, keys);
    checkFollows(largest, checked);
    // What nobody vouches for is not what later ones are held against.
    if (checked.isVouched) largest = checked;
  } catch (error) {
    if (!(error instanceof Broken)) throw error;
    // The next one is judged and shown whatever it is, also one that was shown before.
    checkpoint = null;
    drawCheckpoint({ error });
    setAuditStale("the newest checkpoint does not hold: the entries that are shown are from before");
    return;
  }
  const from = checked.size > EVENTS_SHOWN ? checked.size - BigInt(EVENTS_SHOWN) : 0n;
  const page = await ask(`/v1/audit/events?from=${from}&limit=${EVENTS_SHOWN}`);
  drawCheckpoint({ checked });
  events.show(page.events.reverse().map((event) => {
    const button = made("button", { class: "small", type: "button", text: "Check", "aria-label": `Check the proof of entry ${event.index}` });
    button.addEventListener("click", () => checkEntry(String(event.index), event));
    return [String(event.index), clock.format(event.time_ms), eventText(event), event.source, { node: button }];
  }));
  checkpoint = note;
  setAuditStale();
}

function eventText({ kind, text }) {
  const words = kind.replaceAll("_", " ");
  return text ? `${words}: ${text}` : words;
}

function verdict(heading, style, lines) {
  const list = lines.map(([word, text]) => {
    const styles = { checked: "good", "not checked": "caution", failed: "bad" };
    return made("li", {}, made("b", { class: styles[word], text: word }), made("span", {}, ...[text].flat()));
  });
  at("verdict").replaceChildren(made("h3", { class: style, text: heading }), made("ul", { class: "checks" }, ...list));
  at("verdict").dataset.verdict = style;
}

/// Fetches the proof of an entry and checks it here. `event` is what the page shows of it, if it does.
async function checkEntry(asked, event) {
  if (!/^\d{1,20}$/.test(asked)) {
    verdict("An entry has a number: 0, 1, 2 and so on", "bad", []);
    return;
  }
  // 007 is entry 7.
  const leaf = String(BigInt(asked));
  // Whatever happens now, the verdict on another entry is gone.
  verdict(`Entry ${leaf} is being checked`, "", []);
  let proof, keys;
  try {
    [proof, keys] = await Promise.all([ask(`/v1/audit/proofs/${leaf}`), ask("/v1/audit/keys")]);
  } catch (error) {
    verdict(`Entry ${leaf} cannot be checked`, "bad", [["not checked", sentence(error.message, error.next ?? "")]]);
    return;
  }
  try {
    const { index, leaf: leafHash, hashes, checkpoint: under, event: proven } = await checkProof(proof, keys);
    if (String(index) !== leaf) throw new Broken("other_entry", `the node gave the proof of entry ${index}`);
    checkFollows(largest, under, { mayBeOlder: true });
    if (event !== undefined && !isEventShown(event, proven)) {
      throw new Broken("other_event", `the node shows another event at this place than its bytes are, which say "${eventText(proven)}"`);
    }
    const algorithms = Object.entries(under.signatures);
    const isAll = algorithms.every(([, holds]) => holds);
    const [heading, style] = under.isVouched
      ? [`Entry ${leaf} is in the log${isAll ? "" : ", as far as this browser can check"}`, "good"]
      : [`Entry ${leaf} cannot be checked in this browser`, "caution"];
    const said = `"${eventText(proven)}", number ${proven.position} of ${proven.source}, at ${clock.format(proven.timeMs)} by the node's clock`;
    verdict(heading, style, [
      ...(under.isVouched ? [] : [["not checked", "Whether the log's keys signed the checkpoint: this browser can verify neither signature, so anybody may have made all of this. Use `creto audit verify`."]]),
      ["checked", ["Its bytes have the leaf hash ", made("code", { text: hex(leafHash) }), " (SHA-256)."]],
      ["checked", `A path of ${hashes} hashes leads from it to the root over ${grouped.format(under.size)} entries that the checkpoint states.`],
      ...algorithms.map(([algorithm, holds]) => holds
        ? ["checked", `The ${algorithm} signature of the checkpoint holds under key ${under.keyIds[algorithm]}.`]
        : ["not checked", `The ${algorithm} signature is there, but this browser cannot verify ${algorithm}; \`creto audit verify\` does.`]),
      event
        ? ["checked", `Its bytes say what is shown above: ${said}.`]
        : ["checked", `Its bytes say: ${said}.`],
      ["not checked", "The fields of its kind (who, to whom, which message and so on): this page neither reads nor shows them. `creto audit verify` does."],
      ["not checked", "That these are the keys of the log you mean: they came from the node itself. Compare their ids with the audit.pub that you keep."],
    ]);
  } catch (error) {
    if (!(error instanceof Broken)) throw error;
    verdict(`The proof of entry ${leaf} does not hold`, "bad", [
      ["failed", `${sentence(error.message)} (${error.code})`],
      ["not checked", "Everything that depends on it. Do not trust this entry, and ask whoever runs the node."],
    ]);
  }
}

at("check").addEventListener("click", () => checkEntry(at("leaf").value.trim()));
at("leaf").addEventListener("keydown", (event) => event.key === "Enter" && checkEntry(at("leaf").value.trim()));

at("pause").addEventListener("click", () => {
  isPaused = !isPaused;
  at("pause").textContent = isPaused ? "Go on" : "Pause";
  at("pause").setAttribute("aria-pressed", String(isPaused));
});

function showAge() {
  const seconds = lastLookAt === null ? null : Math.round((performance.now() - lastLookAt) / 1000);
  at("age").textContent = isPaused ? "paused" : seconds === null ? "" : seconds < 2 ? "updated just now" : `updated ${seconds} s ago`;
}

// One thing after the other, so that a slow node has one request of this page at a time; nothing while nobody looks.

const sleep = (ms) => new Promise((done) => setTimeout(done, ms));
const work = [[lookOnce, LOOK_MS], [mailboxesOnce, MAILBOXES_MS], [statusOnce, STATUS_MS], [auditOnce, AUDIT_MS]].map(([run, everyMs]) => ({ run, everyMs, due: 0 }));

/// A new link that is opened in this tab changes only what is behind `#`, which loads nothing.
addEventListener("hashchange", async () => {
  if (!TOKEN.test(location.hash.slice(1))) return;
  try {
    await enter();
    for (const one of work) one.due = 0;
  } catch (error) {
    // Whoever was let in before still is.
    if (key === null || error.status !== 401) fail(error);
    else notice = { text: sentence(error.message, "this tab was let in before, and still is"), untilMs: performance.now() + NOTICE_MS };
  }
});

async function run() {
  setInterval(showAge, 500);
  try {
    await enter();
  } catch (error) {
    fail(error);
  }
  for (;;) {
    const began = performance.now();
    if (key !== null && !isPaused && document.visibilityState === "visible") {
      try {
        for (const one of work) {
          if (one.due > began) continue;
          // Before it runs: one that fails is not asked again at once.
          one.due = began + one.everyMs;
          await one.run();
        }
      } catch (error) {
        fail(error);
      }
    }
    showAge();
    await sleep(Math.max(100, LOOK_MS - (performance.now() - began)));
  }
}

run();
