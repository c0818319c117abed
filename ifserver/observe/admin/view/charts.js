"use strict";
// Small charts on one scale of time, and the cursor that reads all of them at once.
const charts = (() => {
  const {element, shape, say, count, duration} = format;

  // What each figure is called, how several of its values become one, and how it is written. The first that the process
  // has are shown, in this order.
  const KINDS = [
    {key: "requests", name: "Requests", how: "mean", unit: "/s", least: 1},
    {key: "errors", name: "Errors, 5xx", how: "mean", unit: "/s", least: 1, alarm: true},
    {key: "taken", name: "Taken by workers", how: "mean", unit: "/s", least: 1},
    {key: "unanswered", name: "Under way", how: "max", unit: "", least: 1},
    {key: "queue_wait", name: "Queue wait, p95", how: "max", time: true, least: 0.01},
    {key: "first_byte", name: "First byte, p95", how: "max", time: true, least: 0.01},
    {key: "waiting", name: "Waiting for a worker", how: "max", unit: "", least: 1},
    {key: "websockets", name: "WebSockets open", how: "last", unit: "", least: 1},
    {key: "open", name: "WebSockets and streams", how: "last", unit: "", least: 1},
    {key: "free", name: "Free slots", how: "last", unit: "", least: 1},
    {key: "ready", name: "Workers ready", how: "last", unit: "", least: 1},
  ];
  const SHOWN = 6;
  const LEFT = 0.5, TOP = 14, BOTTOM = 15;

  const view = {
    range: 900,
    // Where the picture ends, in seconds since the epoch, and which time is read; null: now.
    end: 0,
    cursor: null,
    made: new Map(),
  };

  function make(kind) {
    const figure = element("figure", null, `chart ${kind.key}`);
    figure.dataset.key = kind.key;
    const caption = element("figcaption");
    const parts = {
      name: element("span", kind.name, "name"), value: element("span", "", "value"),
    };
    parts.number = element("span", "\u2013");
    parts.unit = element("span", "", "unit");
    parts.value.append(parts.number, parts.unit);
    caption.append(parts.name, parts.value);
    parts.svg = shape("svg", {"aria-hidden": "true"});
    figure.append(caption, parts.svg);
    parts.svg.addEventListener("pointermove", (event) => point(parts.svg, event));
    parts.svg.addEventListener("pointerdown", (event) => point(parts.svg, event));
    parts.svg.addEventListener("pointerleave", (event) => event.pointerType === "mouse" && read(null));
    return {figure, parts, kind};
  }

  function point(svg, event) {
    const box = svg.getBoundingClientRect();
    const share = Math.min(1, Math.max(0, (event.clientX - box.left) / box.width));
    read(view.end - view.range * (1 - share));
  }

  let whenRead = () => {};
  // Read the figures at a time, or (null) now.
  function read(at) {
    view.cursor = at === null || at >= view.end - 0.5 ? null : Math.max(view.end - view.range, at);
    draw();
    whenRead();
  }

  // Seconds that one point of a curve stands for, of a chart so many pixels wide.
  const step = (width) => Math.max(1, Math.ceil(view.range / (Math.max(60, width) / 2)));
  const x = (at, width) => LEFT + (width - 2 * LEFT) * (1 - (view.end - at) / view.range);

  // The next round number that is not below it.
  function nice(value) {
    const power = 10 ** Math.floor(Math.log10(value));
    return [1, 1.5, 2, 3, 4, 5, 6, 8, 10].map((n) => n * power).find((n) => n >= value * 0.9999);
  }

  function written(kind, value) {
    if (kind.time) return duration(value);
    return [count(value), value === null ? "" : kind.unit];
  }

  const text = (kind, value) => written(kind, value).join(" ").trim();

  // The value at the cursor: that of the bucket it is in; and now, of the last seconds.
  function valueNow(kind, width) {
    if (view.cursor !== null) {
      const each = step(width);
      const start = Math.floor(view.cursor / each) * each;
      return store.value(kind.key, kind.how, start + each - 0.001, each);
    }
    return store.value(kind.key, kind.how, view.end, kind.how === "last" ? 4 : 6);
  }

  function draw() {
    const host = document.getElementById("charts");
    const wanted = KINDS.filter((kind) => store.known.series.has(kind.key)).slice(0, SHOWN);
    const keys = wanted.map((kind) => kind.key).join(" ");
    if (host.dataset.keys !== keys) {
      host.dataset.keys = keys;
      view.made = new Map(wanted.map((kind) => [kind.key, make(kind)]));
      host.replaceChildren(...[...view.made.values()].map((each) => each.figure));
    }
    for (const each of view.made.values()) drawOne(each);
  }

  function drawOne({figure, parts, kind}) {
    const width = parts.svg.clientWidth, height = parts.svg.clientHeight;
    if (!width) return;
    const how = kind.how === "last" ? "max" : kind.how;
    const found = store.buckets(kind.key, view.end - view.range, view.end, step(width), how);
    const peak = found.values.reduce((most, each) => (each !== null && each > most ? each : most), 0);
    const top = nice(Math.max(peak, kind.least));
    const y = (value) => TOP + (height - TOP - BOTTOM) * (1 - Math.min(1, value / top));
    const base = y(0);
    const value = valueNow(kind, width);
    const [number, unit] = written(kind, value);
    say(parts.number, number);
    say(parts.unit, unit);
    const nothing = found.values.every((each) => each === null);
    figure.toggleAttribute("data-alarm", Boolean(kind.alarm && value > 0));
    const drawn = [
      shape("line", {class: "scale", x1: 0, x2: width, y1: y(top), y2: y(top)}),
      shape("text", {x: 0, y: y(top) - 3}, nothing ? "" : text(kind, top)),
      shape("text", {x: width, y: y(top) - 3, "text-anchor": "end"},
        nothing ? "nothing measured yet" : `peak ${text(kind, peak)}`),
      shape("line", {class: "base", x1: 0, x2: width, y1: base, y2: base}),
      ...ticks(width, height, base),
      ...unknown(width, y(top), base),
      ...curve(found, width, y, base),
      ...timeline.lines(width, y(top), base, (at) => x(at, width)),
    ];
    if (view.cursor !== null) {
      const at = x(view.cursor, width);
      drawn.push(shape("line", {class: "hair", x1: at, x2: at, y1: y(top), y2: base}));
      if (value !== null) drawn.push(shape("circle", {class: "dot", cx: at, cy: y(value), r: 4}));
    }
    parts.svg.replaceChildren(...drawn);
  }

  // Round times below the base line, in the time of this browser.
  function ticks(width, height, base) {
    const every = timeline.every(view.range, width);
    const drawn = [];
    for (let at = Math.ceil((view.end - view.range) / every) * every; at <= view.end; at += every) {
      const left = x(at, width);
      drawn.push(shape("line", {class: "base", x1: left, x2: left, y1: base, y2: base + 3}));
      const room = every % 60 ? 26 : 16;
      if (left < room || left > width - room) continue;
      drawn.push(shape("text", {x: left, y: height - 1, "text-anchor": "middle"}, format.time(at, every % 60 !== 0)));
    }
    return drawn;
  }

  // What lies behind the last that was told.
  function unknown(width, top, base) {
    const last = store.known.times[store.known.times.length - 1] ?? store.known.status.now;
    if (view.end - last < 4) return [];
    const left = Math.max(0, x(last, width));
    const strokes = [];
    for (let at = left; at <= width; at += 5) strokes.push(`M${at.toFixed(1)},${top}V${base}`);
    return [shape("path", {class: "hatching", d: strokes.join("")})];
  }

  // One curve for each stretch of time without a gap.
  function curve(found, width, y, base) {
    const stretches = [];
    let stretch = null;
    found.values.forEach((value, i) => {
      if (value === null) {
        stretch = null;
        return;
      }
      if (!stretch) stretches.push((stretch = []));
      const at = Math.min(view.end, found.start + (i + 0.5) * found.width);
      stretch.push([Math.max(0, x(at, width)), y(value)]);
    });
    return stretches.flatMap((points) => {
      if (points.length === 1) {
        const [[left, top]] = points;
        return [shape("line", {class: "curve", x1: left - 1, x2: left + 1, y1: top, y2: top})];
      }
      const line = points.map(([left, top]) => `${left.toFixed(1)},${top.toFixed(1)}`).join("L");
      const [first, last] = [points[0][0].toFixed(1), points[points.length - 1][0].toFixed(1)];
      return [
        shape("path", {class: "area", d: `M${first},${base}L${line}L${last},${base}Z`}),
        shape("path", {class: "curve", d: `M${line}`}),
      ];
    });
  }

  // All figures at the cursor, for those who hear them.
  function spoken() {
    const said = ({kind, parts}) => {
      const value = valueNow(kind, parts.svg.clientWidth);
      return `${kind.name} ${value === null ? "none" : text(kind, value)}`;
    };
    return [...view.made.values()].map(said).join("; ");
  }

  function onRead(call) {
    whenRead = call;
  }

  return {view, draw, read, point, spoken, step, x, written, onRead, KINDS};
})();
