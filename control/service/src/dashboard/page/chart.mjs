// Lines over time as SVG: the last minutes, newest at the right. A value that is not known is a gap.

const SVG = "http://www.w3.org/2000/svg";
const [HEIGHT, LEFT, RIGHT, TOP, BOTTOM] = [190, 58, 10, 10, 22];
const MINUTE_MS = 60_000;
/// The longest pause between two points that is still one line.
const GAP_MS = 5_000;

function element(name, attributes, text) {
  const made = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  if (text !== undefined) made.textContent = text;
  return made;
}

/// Round steps from zero to at least `most`: 1, 2 or 5 times a power of ten.
export function linearTicks(most) {
  const rough = Math.max(most, 1) / 4;
  const unit = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 5, 10].map((round) => round * unit).find((each) => each >= rough);
  const count = Math.max(1, Math.ceil(most / step - 1e-9));
  return Array.from({ length: count + 1 }, (_, place) => place * step);
}

/// Powers of ten around all values.
export function logTicks(least, most) {
  const from = Math.floor(Math.log10(least) + 1e-9);
  const to = Math.max(from + 1, Math.ceil(Math.log10(most) - 1e-9));
  return Array.from({ length: to - from + 1 }, (_, place) => 10 ** (from + place));
}

/// A chart of `series` ({ name, class, of }) of points that have `atMs`: over whole minutes, `minutesMax` at most. Call `draw` with all
/// points again when there are new ones.
export class Chart {
  constructor(into, { label, series, text, minutesMax, isLog = false }) {
    Object.assign(this, { series, text, minutesMax, isLog, points: [], pointed: null, width: 560 });
    this.svg = element("svg", { height: HEIGHT, role: "img", "aria-label": label });
    this.key = document.createElement("div");
    this.key.className = "key";
    this.values = series.map(({ name, class: line }) => {
      const entry = document.createElement("span");
      const [dash, value] = [document.createElement("i"), document.createElement("b")];
      dash.className = line;
      entry.append(dash, `${name} `, value);
      this.key.append(entry);
      return value;
    });
    this.when = document.createElement("span");
    this.key.append(this.when);
    into.append(this.key, this.svg);
    this.svg.addEventListener("pointermove", (event) => this.point(event));
    this.svg.addEventListener("pointerleave", () => this.point(null));
    // One unit is one pixel, so that letters are as large on a telephone as on a wall.
    new ResizeObserver(([{ contentRect }]) => {
      this.width = Math.max(200, contentRect.width);
      this.draw(this.points);
    }).observe(this.svg);
  }

  point(event) {
    const box = this.svg.getBoundingClientRect();
    this.pointed = event && event.clientX - box.left;
    this.draw(this.points);
  }

  draw(points) {
    this.points = points;
    const newest = points.at(-1)?.atMs ?? 0;
    const age = newest - (points[0]?.atMs ?? 0);
    const minutes = Math.min(this.minutesMax, Math.max(1, Math.ceil(age / MINUTE_MS)));
    const spanMs = minutes * MINUTE_MS;
    const [from, right] = [newest - spanMs, this.width - RIGHT];
    const shown = points.filter((point) => point.atMs >= from);
    const isKnown = (value) => value !== null && (!this.isLog || value > 0);
    // What is above every bound is drawn at the top, and does not stretch the axis.
    const values = shown.flatMap((point) => this.series.map(({ of }) => of(point))).filter((value) => isKnown(value) && value !== Infinity);
    const most = Math.max(0, ...values);
    const ticks = this.isLog ? logTicks(values.length ? Math.min(...values) : 1e-4, most || 1e-2) : linearTicks(most);
    const [low, high] = [ticks[0], ticks.at(-1)];
    const share = this.isLog
      ? (value) => Math.log(value / low) / Math.log(high / low)
      : (value) => value / high;
    const x = (atMs) => LEFT + ((atMs - from) / spanMs) * (right - LEFT);
    const y = (value) => HEIGHT - BOTTOM - Math.min(1, Math.max(0, share(value))) * (HEIGHT - TOP - BOTTOM);
    const parts = ticks.flatMap((tick) => [
      element("line", { class: "rule", x1: LEFT, x2: right, y1: y(tick), y2: y(tick) }),
      element("text", { x: LEFT - 8, y: y(tick) + 4, "text-anchor": "end" }, this.text(tick)),
    ]);
    const stepMs = minutes === 1 ? MINUTE_MS / 4 : MINUTE_MS;
    for (let agoMs = spanMs; agoMs >= 0; agoMs -= stepMs) {
      const text = agoMs === 0 ? "now" : minutes === 1 ? `-${agoMs / 1000} s` : `-${agoMs / MINUTE_MS} min`;
      const anchor = agoMs === 0 ? "end" : agoMs === spanMs ? "start" : "middle";
      parts.push(element("text", { x: x(newest - agoMs), y: HEIGHT - 4, "text-anchor": anchor }, text));
    }
    for (const { class: line, of } of this.series) {
      let [path, last] = ["", null];
      for (const point of shown) {
        const value = of(point);
        const isGap = last === null || point.atMs - last > GAP_MS;
        last = isKnown(value) ? point.atMs : null;
        if (last !== null) path += `${isGap ? "M" : "L"}${x(point.atMs).toFixed(1)} ${y(value).toFixed(1)}${isGap ? "h.01" : ""}`;
      }
      parts.push(element("path", { class: `line ${line}`, d: path }));
    }
    const pointed = this.pointed === null ? null : this.nearest(shown, from + ((this.pointed - LEFT) / (right - LEFT)) * spanMs);
    if (pointed) parts.push(element("line", { class: "mark", x1: x(pointed.atMs), x2: x(pointed.atMs), y1: TOP, y2: HEIGHT - BOTTOM }));
    this.svg.replaceChildren(...parts);
    const told = pointed ?? points.at(-1);
    this.series.forEach(({ of }, place) => {
      const value = told ? of(told) : null;
      this.values[place].textContent = value === null ? "-" : this.text(value);
    });
    this.when.textContent = pointed ? `${Math.round((newest - pointed.atMs) / 1000)} s ago` : "";
  }

  nearest(points, atMs) {
    return points.reduce((best, point) => (best && Math.abs(best.atMs - atMs) <= Math.abs(point.atMs - atMs) ? best : point), null);
  }
}
