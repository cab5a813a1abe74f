// What scripts/dashboard.sh runs: a node, load, `creto dashboard`, a browser, and claims about what the browser shows.

import assert from "node:assert/strict";
import { execFileSync, spawn } from "node:child_process";
import { mkdirSync, readFileSync } from "node:fs";
import { createRequire } from "node:module";
import { join, resolve } from "node:path";
import { createInterface } from "node:readline";

const { CRETO, CHROMIUM, PLAYWRIGHT, PICTURES, PAGE } = process.env;
const { chromium } = createRequire(join(resolve(PLAYWRIGHT), "package.json"))("playwright-core");
const folder = resolve(process.argv[2]);
mkdirSync(folder, { recursive: true });
if (PICTURES) mkdirSync(PICTURES, { recursive: true });

const environment = { ...process.env, CRETO__TOPOLOGY__SHARDS: "2", CRETO__WAL__SEGMENT_BYTES: "16 MiB", CRETO__WAL__WAL_BYTES_MAX: "1 GiB" };
const options = { cwd: folder, env: environment };
const running = new Set();

function creto(...words) {
  return execFileSync(CRETO, words, { ...options, stdio: ["ignore", "pipe", "ignore"], encoding: "utf8" });
}

/// A command that goes on; gives it and its first line.
async function start(...words) {
  const child = spawn(CRETO, words, { ...options, stdio: ["pipe", "pipe", "inherit"] });
  running.add(child);
  const ended = new Promise((done) => child.once("exit", done)).then(() => running.delete(child));
  const lines = createInterface({ input: child.stdout });
  const first = new Promise((done) => lines.once("line", done));
  /// The next line with this event.
  const next = (event) => new Promise((done) => {
    const see = (line) => {
      const value = JSON.parse(line);
      if (value.event !== event) return;
      lines.off("line", see);
      done(value);
    };
    lines.on("line", see);
  });
  return { child, lines, ended, first, next };
}

async function startNode() {
  const node = await start("serve", "--json");
  return { ...node, address: JSON.parse(await node.first).address };
}

function claim(text) {
  console.log(`  holds: ${text}`);
}

/// A claim about the page that becomes true, or the script ends here.
async function becomes(page, text, is, argument) {
  try {
    await page.waitForFunction(is, argument, { timeout: 40_000, polling: 100 });
  } catch {
    throw new Error(`did not become true: ${text}\n${await page.locator("body").innerText()}`);
  }
  claim(text);
}

const number = (text) => Number(text.replace(/[^0-9.]/g, ""));
const tile = (page, label) => page.locator(".tile", { hasText: label }).locator("b").innerText();

async function picture(page, name, options = {}) {
  if (!PICTURES) return;
  await page.evaluate(() => scrollTo(0, 0));
  await page.screenshot({ path: join(PICTURES, `dashboard-${name}.png`), ...options });
}

/// The least contrast of any text with what is behind it (WCAG 2.2, relative luminance).
function leastContrast() {
  const parse = (color) => color.match(/[\d.]+/g).map(Number);
  const luminance = ([red, green, blue]) => {
    const [r, g, b] = [red, green, blue].map((part) => part / 255).map((part) => (part <= 0.04045 ? part / 12.92 : ((part + 0.055) / 1.055) ** 2.4));
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const behind = (element) => {
    for (let at = element; at; at = at.parentElement) {
      const color = parse(getComputedStyle(at).backgroundColor);
      if (color.length === 3 || color[3] > 0) return color;
    }
    return [255, 255, 255];
  };
  let least = { ratio: 21 };
  for (const element of document.querySelectorAll("body *")) {
    const isText = [...element.childNodes].some((node) => node.nodeType === 3 && node.textContent.trim());
    if (!isText || element.closest("[hidden], noscript") || !element.checkVisibility()) continue;
    const style = getComputedStyle(element);
    const color = parse(element instanceof SVGElement ? style.fill : style.color);
    const [one, other] = [luminance(color), luminance(behind(element))].sort((a, b) => b - a);
    const ratio = (one + 0.05) / (other + 0.05);
    if (ratio < least.ratio) least = { ratio, text: element.textContent.trim().slice(0, 40) };
  }
  return least;
}

async function main(browser) {
  creto("init", "--listen", "127.0.0.1:0");
  let node = await startNode();
  for (const agent of ["acme/planner", "acme/archiver", "acme/executor"]) creto("agent", "create", agent);
  for (const [to, count] of [["acme/archiver", 9], ["acme/executor", 3]]) {
    for (let sent = 0; sent < count; sent++) creto("send", "acme/planner", to, `report ${sent}`, "--node", node.address);
  }
  // Something to refuse: a mailbox that may hold no more.
  creto("mailbox", "set", "acme/executor", "--messages", "3");
  for (let sent = 0; sent < 4; sent++) {
    try {
      creto("send", "acme/planner", "acme/executor", "one too many", "--node", node.address);
    } catch {
      // The node refuses: that is what is to be shown.
    }
  }
  const dashboard = await start("dashboard", "--json");
  const { link } = JSON.parse(await dashboard.first);
  const origin = new URL(link).origin;
  const load = await start("bench", "run", "--connect", node.address, "--rate", "1500", "--duration", "240s", "--connections", "4", "--json");

  const context = await browser.newContext({ viewport: { width: 1200, height: 900 }, colorScheme: "light", reducedMotion: "reduce" });
  const page = await context.newPage();
  const [troubles, requests] = [[], []];
  page.on("pageerror", (error) => troubles.push(String(error)));
  page.on("console", (message) => message.text().match(/Content Security|Refused to|Trusted/) && troubles.push(message.text()));
  page.on("request", (request) => requests.push(request.url()));
  // For whoever works on the page: its files from the folder instead of from the binary.
  if (PAGE) {
    await page.route(/\.(mjs|css|svg)$|\/$/, (route) => {
      const name = new URL(route.request().url()).pathname.slice(1) || "page.html";
      const type = { html: "text/html", mjs: "text/javascript", css: "text/css", svg: "image/svg+xml" }[name.split(".").pop()];
      return route.fulfill({ body: readFileSync(join(PAGE, name)), contentType: type });
    });
  }
  await page.goto(link);
  await becomes(page, "the node is ready", () => document.getElementById("state").textContent === "ready");
  assert.equal(page.url(), `${origin}/`);
  assert.deepEqual(await context.cookies(), []);
  claim("the token is gone from the address, and there is no cookie");

  await becomes(page, "messages become durable, a thousand a second and more", () => {
    return Number(document.querySelector(".tile b").textContent.replace(/\D/g, "")) > 1_000;
  });
  const seen = new Set();
  for (let look = 0; look < 60 && seen.size < 4; look++) {
    seen.add(await tile(page, "durable/s"));
    await page.waitForTimeout(200);
  }
  assert.ok(seen.size >= 4, `the number moves: ${[...seen]}`);
  claim(`the number moves by itself: ${[...seen].join(", ")}`);
  await becomes(page, "durable writes have a percentile", () => {
    const tile = [...document.querySelectorAll(".tile")].find((tile) => tile.textContent.includes("p99 durable write"));
    return /^[<>] [\d.]+ (us|ms|s)$/.test(tile.firstChild.textContent);
  });
  assert.ok(number(await tile(page, "memory")) > 10);
  await becomes(page, "a mailbox that nobody reads is there with what waits in it, and the fullest come first", () => {
    const rows = [...document.querySelectorAll("#mailbox-table tbody tr")].map(({ cells }) => [cells[0].textContent, Number(cells[1].textContent.replace(/\D/g, ""))]);
    return rows.some(([name, count]) => name === "acme/archiver" && count === 9) && rows.every(([, count], place) => place === 0 || count <= rows[place - 1][1]);
  });
  await becomes(page, "what was refused stands there with its reason", () => {
    return [...document.querySelectorAll("#reject-table tbody tr")].some((row) => row.cells[0].textContent === "MailboxFull" && Number(row.cells[2].textContent) >= 1);
  });
  assert.equal(await page.locator("#shard-table tbody tr").count(), 2);
  const durable = await page.locator("#rates path.line.a").getAttribute("d");
  assert.ok((durable.match(/L/g) ?? []).length >= 3, durable);
  claim("the chart has a line");

  // The audit log, checked in the browser.
  await becomes(page, "the checkpoint's Ed25519 signature holds", () => /Ed25519 holds/.test(document.getElementById("checkpoint").textContent));
  const mlDsa = await page.locator("#checkpoint").innerText();
  assert.match(mlDsa, /ML-DSA-65 (holds|not checked: this browser has no ML-DSA-65)/);
  const verdict = () => page.locator("#verdict").innerText();
  const check = async (leaf) => {
    await page.evaluate(() => (document.getElementById("verdict").replaceChildren(), delete document.getElementById("verdict").dataset.verdict));
    if (leaf === undefined) await page.locator("#event-table button").first().click();
    else {
      await page.locator("#leaf").fill(String(leaf));
      await page.locator("#leaf").press("Enter");
    }
    await page.waitForFunction(() => document.getElementById("verdict").dataset.verdict);
    return page.locator("#verdict").getAttribute("data-verdict");
  };
  assert.equal(await check(), "good", await verdict());
  assert.match(await verdict(), /is in the log[\s\S]*leaf hash[\s\S]*path of \d+ hashes[\s\S]*Ed25519 signature of the checkpoint holds[\s\S]*say what is shown above[\s\S]*not checked[\s\S]*fields of its kind/);
  claim("the newest entry's proof holds, and what was not checked is said");
  for (const leaf of [0, 1, 7]) assert.equal(await check(leaf), "good", await verdict());
  claim("so do those of entries that were asked for by number");
  assert.equal(await check("007"), "good", await verdict());
  assert.match(await verdict(), /Entry 7 is in the log/);
  assert.equal(await check(4_000_000_000), "bad");
  assert.match(await verdict(), /cannot be checked[\s\S]*no such leaf/);

  // The same with something changed on the way.
  const changed = async (path, change, wanted, text) => {
    await page.route(path, async (route) => {
      const answer = await route.fetch();
      await route.fulfill({ response: answer, body: change(await answer.text()) });
    });
    assert.equal(await check(0), "bad", text);
    assert.match(await verdict(), wanted, text);
    await page.unroute(path);
    claim(text);
  };
  const flip = (text, at) => text.slice(0, at) + (text[at] === "A" ? "B" : "A") + text.slice(at + 1);
  await changed("**/v1/audit/proofs/0", (text) => flip(text, text.indexOf("extra ") + 60), /not_in_the_log/, "an entry of which a bit was changed is not in the log");
  await changed("**/v1/audit/proofs/0", (text) => text.replace(/^index 0$/m, "index 1"), /not_in_the_log|not_a_proof/, "neither is one at another place");
  await changed("**/v1/audit/proofs/0", (text) => text.replace(/^time (\d)/m, "time 9"), /signature_forged/, "a checkpoint with another time has a forged signature");
  if (PICTURES) await page.locator("section[aria-labelledby=audit-head]").screenshot({ path: join(PICTURES, "dashboard-forged.png") });
  await changed("**/v1/audit/keys", (text) => text.replace(/\+[0-9a-f]{8}\+/, "+00000000+"), /\(keys\)/, "keys that have not the ids that they state are refused");
  await changed("**/v1/audit/proofs/0", () => "", /not_a_proof/, "nothing is no proof");
  // The list of entries is not signed: what it says is held against the bytes, word by word.
  for (const [text, change] of [
    ["another kind", { kind: "agent_revoked" }],
    ["another text", { text: "acme/nobody" }],
  ]) {
    await page.route("**/v1/audit/events?*", async (route) => {
      const answer = await route.fetch();
      const told = await answer.json();
      told.events = told.events.map((event) => ({ ...event, ...change }));
      await route.fulfill({ response: answer, json: told });
    });
    creto("agent", "create", `acme/of-${text.replace(" ", "-")}`);
    await becomes(page, `the list shows ${text}`, (word) => [...document.querySelectorAll("#event-table tbody tr")].every((row) => row.textContent.includes(word)), Object.values(change)[0].replace("_", " "));
    assert.equal(await check(), "bad", await verdict());
    assert.match(await verdict(), /other_event/);
    claim(`${text} than the entry's bytes say is found`);
    await page.unroute("**/v1/audit/events?*");
  }
  // A browser that can verify no signature.
  await page.evaluate(() => {
    crypto.subtle.importKey = async () => {
      throw new DOMException("no such algorithm", "NotSupportedError");
    };
  });
  assert.equal(await check(0), "caution", await verdict());
  assert.match(await verdict(), /^Entry 0 cannot be checked in this browser/);
  assert.doesNotMatch(await verdict(), /is in the log/);
  await page.evaluate(() => delete crypto.subtle.importKey);
  assert.equal(await check(0), "good", await verdict());
  claim("where no signature can be verified, no entry is said to be in the log");
  await page.route("**/v1/audit/checkpoint", async (route) => {
    const answer = await route.fetch();
    await route.fulfill({ response: answer, body: (await answer.text()).replace(/^time (\d)/m, "time 9") });
  });
  await becomes(page, "a checkpoint that was changed is said not to hold", () => /does not hold/.test(document.getElementById("checkpoint").textContent));
  await page.unroute("**/v1/audit/checkpoint");
  await becomes(page, "and one that was not is believed again", () => /Ed25519 holds/.test(document.getElementById("checkpoint").textContent));

  // Reading it: large, small, dark, by keyboard.
  for (const colorScheme of ["light", "dark"]) {
    await page.emulateMedia({ colorScheme });
    const least = await page.evaluate(leastContrast);
    assert.ok(least.ratio >= 4.5, `${colorScheme}: "${least.text}" has a contrast of ${least.ratio.toFixed(2)}`);
    claim(`${colorScheme}: every text has a contrast of ${least.ratio.toFixed(1)} and more`);
    for (const width of [1600, 1200, 700, 400, 320]) {
      await page.setViewportSize({ width, height: 900 });
      await page.waitForTimeout(300);
      const wide = await page.evaluate(() => document.documentElement.scrollWidth);
      assert.ok(wide <= width, `${width} pixels: the page is ${wide} wide`);
      if (colorScheme === "light" && width === 400) await picture(page, "narrow");
      if (colorScheme === "dark" && width === 1600) await picture(page, "dark");
    }
  }
  claim("nothing stands out of the page at 320 to 1,600 pixels");
  await page.setViewportSize({ width: 1200, height: 900 });
  await page.emulateMedia({ colorScheme: "light" });
  await page.evaluate(() => document.activeElement.blur());
  for (let presses = 0; presses < 6 && (await page.evaluate(() => document.activeElement.id)) !== "pause"; presses++) await page.keyboard.press("Tab");
  await page.keyboard.press("Enter");
  await becomes(page, "it can be paused by keyboard", () => document.getElementById("age").textContent === "paused");
  const held = await tile(page, "durable/s");
  await page.waitForTimeout(2_500);
  assert.equal(await tile(page, "durable/s"), held, "a page that is paused stands still");
  await page.keyboard.press("Enter");
  await becomes(page, "and goes on", () => /updated/.test(document.getElementById("age").textContent));

  assert.equal(await check(7), "good");
  await page.evaluate(() => document.activeElement.blur());
  await picture(page, "light", { fullPage: true });

  // Others are not let in.
  const stranger = await (await browser.newContext()).newPage();
  await stranger.goto(link);
  await becomes(stranger, "the link holds once", () => document.getElementById("state").textContent === "not let in");
  await stranger.close();
  // Another link in the same tab.
  await page.evaluate((address) => (location.href = address), link);
  await becomes(page, "a link that was used is said to be, and the tab stays let in", () => {
    return location.hash === "" && /was used before/.test(document.getElementById("banner").textContent) && document.getElementById("state").textContent === "ready";
  });
  const [key, second] = [await page.evaluate(() => sessionStorage.getItem("creto-dashboard-key")), dashboard.next("link")];
  dashboard.child.stdin.write("\n");
  await page.evaluate((address) => (location.href = address), (await second).link);
  await becomes(page, "a new link in the same tab is taken, and is gone from the address", (key) => {
    return location.hash === "" && sessionStorage.getItem("creto-dashboard-key") !== key;
  }, key);
  await page.reload();
  await becomes(page, "the tab that was let in can be loaded again", () => document.getElementById("state").textContent === "ready");

  // A node that is away.
  node.child.kill("SIGSTOP");
  await becomes(page, "a node that does not answer is said not to", () => document.getElementById("state").textContent === "no answer" && /did not answer within/.test(document.getElementById("banner").textContent));
  node.child.kill("SIGCONT");
  await becomes(page, "one that answers again is ready again", () => document.getElementById("state").textContent === "ready" && document.getElementById("banner").hidden);
  load.child.kill("SIGKILL");
  node.child.kill("SIGKILL");
  await node.ended;
  await becomes(page, "a node that was killed is said not to run, with what to do", () => /not running any more.*Start it again with `creto serve`/.test(document.getElementById("banner").textContent));
  await picture(page, "no-answer");
  node = await startNode();
  await becomes(page, "a node that was started again is, and its counts begin anew", () => {
    return document.getElementById("state").textContent === "ready" && /started again/.test(document.getElementById("banner").textContent);
  });
  await becomes(page, "no number is below zero or missing after it", () => {
    const numbers = [...document.querySelectorAll("#shard-table td")].map((cell) => cell.textContent);
    return numbers.length > 10 && numbers.every((text) => !/^-\d|NaN|undefined|Infinity/.test(text)) && document.querySelector(".tile b").textContent === "0";
  });

  assert.deepEqual(requests.filter((url) => new URL(url).origin !== origin), []);
  claim("nobody but the dashboard was asked for anything");
  dashboard.child.kill("SIGTERM");
  await dashboard.ended;
  await becomes(page, "a dashboard that has ended is said to have", () => /No answer of `creto dashboard`/.test(document.getElementById("banner").textContent));
  assert.deepEqual(troubles, []);
  claim("no error and no breach of the content security policy in all of this");
}

const isRoot = process.getuid() === 0;
const browser = await chromium.launch({ executablePath: CHROMIUM, args: isRoot ? ["--no-sandbox"] : [] });
try {
  await main(browser);
  console.log("the dashboard shows what it should");
} finally {
  await browser.close();
  for (const child of running) child.kill("SIGKILL");
}
