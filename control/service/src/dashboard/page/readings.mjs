// What the node says at one moment (`GET /v1/metrics`), and what happened between two of them. Pure.

const WRITES = "creto_wal_write_seconds";
const STATE = "creto_shard_state";
const REJECTS = "creto_node_rejects";
const STARTED = "creto_node_start_seconds";

/// One moment. `atMs` is of a clock that nobody sets.
export function lookOf(readings, atMs) {
  const look = { atMs, numbers: new Map(), writes: new Map(), states: new Map(), rejects: new Map(), version: "" };
  for (const { name, labels = {}, value = 0, histogram } of readings) {
    const shard = labels.shard ?? "";
    if (name === WRITES && histogram) look.writes.set(shard, histogram);
    else if (name === STATE) value > 0 && look.states.set(shard, labels.state);
    else if (name === REJECTS) look.rejects.set(labels.code, (look.rejects.get(labels.code) ?? 0) + value);
    else if (name === "creto_node_info") look.version = labels.version ?? "";
    else look.numbers.set(`${name} ${shard}`, value);
  }
  return look;
}

export function numberOf(look, name, shard = "") {
  return look.numbers.get(`${name} ${shard}`) ?? null;
}

/// Growth of a counter a second; `null` where that cannot be said: a counter that went back belongs to another start of the node.
function rate(before, now, seconds) {
  return before === null || now === null || now < before || seconds <= 0 ? null : (now - before) / seconds;
}

/// What was measured between two readings of a histogram; `null` when it went back.
function since(before, now) {
  const early = new Map(before?.upto ?? []);
  const upto = now.upto.map(([bound, count]) => [bound, count - (early.get(bound) ?? 0)]);
  const count = now.count - (before?.count ?? 0);
  return count < 0 || upto.some(([, of]) => of < 0) ? null : { upto, count };
}

/// The bound in seconds up to which this share of what was measured is; `Infinity` above the last bound, `null` when nothing was.
export function quantile(times, share) {
  if (!times || times.count === 0) return null;
  const wanted = Math.ceil(times.count * share);
  return times.upto.find(([, count]) => count >= wanted)?.[0] ?? Infinity;
}

function sum(values) {
  const known = values.filter((value) => value !== null);
  return known.length === 0 ? null : known.reduce((total, value) => total + value, 0);
}

/// What several shards, or several looks, have measured, as one.
export function together(all) {
  const upto = new Map();
  for (const times of all) for (const [bound, count] of times.upto) upto.set(bound, (upto.get(bound) ?? 0) + count);
  return { upto: [...upto].sort(([one], [other]) => one - other), count: sum(all.map((times) => times.count)) ?? 0 };
}

/// What happened between two moments. Rates are `null` for the look that a start of the node lies in.
export function between(before, now) {
  const started = numberOf(now, STARTED);
  const isRestarted = before !== null && numberOf(before, STARTED) !== started;
  const seconds = before === null || isRestarted ? 0 : (now.atMs - before.atMs) / 1000;
  const rateOf = (name, shard = "") => rate(before && numberOf(before, name, shard), numberOf(now, name, shard), seconds);
  const shards = [...now.states.keys()].sort((one, other) => one - other).map((number) => {
    const durable = rateOf("creto_mailbox_messages_durable", number);
    const writes = rateOf("creto_wal_writes", number);
    const [room, most] = ["creto_wal_room_bytes", "creto_wal_bytes_max"].map((name) => numberOf(now, name, number));
    const times = seconds > 0 && now.writes.has(number) ? since(before.writes.get(number), now.writes.get(number)) : null;
    return {
      number,
      state: now.states.get(number),
      cpu: rateOf("creto_shard_cpu_seconds", number),
      connections: numberOf(now, "creto_net_connections", number),
      durable,
      pushed: sum([rateOf("creto_mailbox_messages_pushed", number), rateOf("creto_channel_messages_pushed", number)]),
      settled: rateOf("creto_mailbox_messages_settled", number),
      batch: writes ? durable / writes : null,
      times,
      queued: numberOf(now, "creto_mailbox_queued_messages", number),
      queuedBytes: numberOf(now, "creto_mailbox_queued_bytes", number),
      roomShare: most ? room / most : null,
    };
  });
  const rejects = [...now.rejects].filter(([, count]) => count > 0).map(([code, count]) => {
    const had = before && !isRestarted ? before.rejects.get(code) ?? 0 : null;
    return { code, count, rate: rate(had, count, seconds) };
  });
  rejects.sort((one, other) => (other.rate ?? 0) - (one.rate ?? 0) || other.count - one.count || (one.code < other.code ? -1 : 1));
  const all = (of) => sum(shards.map((shard) => shard[of]));
  return {
    atMs: now.atMs,
    isRestarted,
    startedS: started,
    version: now.version,
    isReady: numberOf(now, "creto_node_ready") === 1,
    agents: numberOf(now, "creto_directory_agents"),
    channels: numberOf(now, "creto_directory_channels"),
    residentBytes: numberOf(now, "creto_node_resident_bytes"),
    cpu: rateOf("creto_node_cpu_seconds"),
    durable: all("durable"),
    pushed: all("pushed"),
    settled: all("settled"),
    queued: all("queued"),
    refused: sum(rejects.map((reject) => reject.rate)) ?? (seconds > 0 ? 0 : null),
    times: together(shards.map((shard) => shard.times).filter((times) => times !== null)),
    shards,
    rejects,
  };
}
