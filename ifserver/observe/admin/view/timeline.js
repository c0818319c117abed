"use strict";
// Deploys and faults: as marks in the charts, with labels on a line of time, and as a list.
const timeline = (() => {
  const {element, shape, say, time} = format;

  // Each kind has a shape, drawn around 0,0, and a word, so that no colour is needed to tell them apart.
  const KINDS = {
    deploy: ["deploy", "M0,-4.5L4.5,4L-4.5,4Z"],
    fault: ["fault", "M-4,-4L4,4M4,-4L-4,4"],
    mended: ["mended", "M-4,0A4,4 0 1 1 4,0A4,4 0 1 1 -4,0"],
    order: ["order", "M-2.5,-4L-2.5,4M2.5,-4L2.5,4"],
  };
  const ROWS = 3, ROW = 17, AXIS = 64;
  const FIRST_SHOWN = 6;
  let all = false;

  const kindOf = (event) => (event.kind in KINDS ? event.kind : "order");
  const label = (event) => event.label + (event.times > 1 ? ` \u00D7${event.times}` : "");
  const path = (kind) => shape("path", {class: `glyph ${kind}`, d: KINDS[kind][1]});

  function glyph(kind) {
    const made = shape("svg", {viewBox: "-6 -6 12 12", "aria-hidden": "true"});
    made.append(path(kind));
    return made;
  }

  function shownEvents() {
    const {end, range} = charts.view;
    return store.events().filter((event) => event.at >= end - range && event.at <= end + 1);
  }

  // The marks in one chart.
  function lines(width, top, base, x) {
    return shownEvents().map((event) => {
      const at = Math.min(width, x(event.at));
      return shape("line", {class: `mark ${kindOf(event)}`, x1: at, x2: at, y1: top, y2: base});
    });
  }

  function draw() {
    const host = document.getElementById("timeline");
    const svg = host.querySelector("svg");
    const width = svg.clientWidth, height = svg.clientHeight;
    if (!width) return;
    const x = (at) => charts.x(at, width);
    const drawn = [shape("line", {class: "base", x1: 0, x2: width, y1: AXIS, y2: AXIS}), ...ticks(width, height, x)];
    const marks = shownEvents().map((event) => ({event, at: Math.min(width - 4, Math.max(4, x(event.at)))}));
    for (const {event, at} of marks) {
      drawn.push(shape("line", {class: `mark ${kindOf(event)}`, x1: at, x2: at, y1: AXIS - 6, y2: AXIS}));
    }
    drawn.push(...labels(marks, width));
    for (const {event, at} of marks) {
      const made = path(kindOf(event));
      made.setAttribute("transform", `translate(${at.toFixed(1)},${AXIS - 7})`);
      drawn.push(made);
    }
    if (!marks.length) drawn.push(shape("text", {x: 0, y: 24}, "no deploy and no fault in this time"));
    const {cursor} = charts.view;
    if (cursor !== null) drawn.push(shape("line", {class: "hair", x1: x(cursor), x2: x(cursor), y1: 4, y2: AXIS}));
    svg.replaceChildren(...drawn);
  }

  // Events that would stand on each other and are called the same, as one.
  function together(marks) {
    const found = [];
    for (const {event, at} of marks) {
      const same = found.find((each) => each.event.label === event.label && Math.abs(each.at - at) < 8);
      if (same) same.times += event.times ?? 1;
      else found.push({event, at, times: event.times ?? 1});
    }
    return found;
  }

  // Labels where there is room for them: faults before others, and the newest first. A label above the lowest row is
  // led to its mark by a line, which needs room as well.
  function labels(marks, width) {
    const taken = Array.from({length: ROWS}, () => []);
    const isFree = (row, from, to) => !taken[row].some(([a, b]) => from < b && to > a);
    const order = together(marks).reverse().sort((a, b) => (b.event.kind === "fault") - (a.event.kind === "fault"));
    const drawn = [];
    for (const {event, at, times} of order) {
      const words = label({label: event.label, times});
      const size = words.length * 6.8;
      const places = taken.flatMap((_, row) => [1, -1].map((side) => {
        const near = at + side * (row ? 4 : 8), far = near + side * size;
        return {row, side, near, from: Math.min(near, far) - 4, to: Math.max(near, far) + 4};
      }));
      const place = places.find(({row, from, to}) => from >= -6 && to <= width + 6 && isFree(row, from, to)
        && taken.every((_, below) => below >= row || isFree(below, at - 3, at + 3)));
      if (!place) continue;
      const {row, side, near, from, to} = place;
      taken[row].push([from, to]);
      for (let below = 0; below < row; below++) taken[below].push([at - 3, at + 3]);
      const y = AXIS - 14 - row * ROW, kind = kindOf(event);
      if (row) drawn.push(shape("line", {class: `mark ${kind}`, x1: at, x2: at, y1: y - 8, y2: AXIS - 12}));
      drawn.push(shape("text", {class: `label ${kind}`, x: near, y, "text-anchor": side > 0 ? "start" : "end"}, words));
    }
    return drawn;
  }

  // Times below a line stand as far apart as they need to be read; in seconds.
  function spacing(range, width) {
    return [10, 20, 30, 60, 120, 300].find((each) => (each / range) * width >= (each % 60 ? 84 : 64)) ?? 300;
  }

  function ticks(width, height, x) {
    const {end, range} = charts.view;
    const every = spacing(range, width);
    const drawn = [];
    for (let at = Math.ceil((end - range) / every) * every; at <= end; at += every) {
      const left = x(at);
      drawn.push(shape("line", {class: "base", x1: left, x2: left, y1: AXIS, y2: AXIS + 4}));
      if (left < 24 || left > width - 58) continue;
      drawn.push(shape("text", {x: left, y: height - 4, "text-anchor": "middle"}, time(at, every % 60 !== 0)));
    }
    drawn.push(shape("text", {x: width, y: height - 4, "text-anchor": "end"}, "now"));
    return drawn;
  }

  // Whose event it is; nothing where there is one process only.
  function by(event) {
    const processes = store.known.status.processes;
    const mine = event.process === store.known.status.me.process;
    if (processes.length === 1 || new Set(store.events().map((each) => each.process)).size < 2) return "";
    const found = processes.find((each) => each.process === event.process);
    if (!found) return event.process;
    return `${found.kind} ${found.process}${mine ? " (this one)" : ""}`;
  }

  function list() {
    const host = document.getElementById("events");
    const events = store.events().reverse().filter((event) => event.at >= charts.view.end - store.KEPT_S);
    const shown = all ? events : events.slice(0, FIRST_SHOWN);
    const kept = new Map([...host.children].map((row) => [row.dataset.key, row]));
    const rows = shown.map((event) => {
      const key = `${event.process}.${event.number}`;
      const row = kept.get(key) ?? makeRow(event, key);
      say(row.querySelector(".label"), label(event));
      say(row.querySelector(".by"), by(event));
      return row;
    });
    const same = rows.length === host.children.length && rows.every((row, i) => row === host.children[i]);
    if (!same) host.replaceChildren(...rows);
    say(document.getElementById("events-count"), events.length ? `${events.length} in the last 15 minutes` : "");
    document.getElementById("no-events").hidden = events.length > 0;
    const more = document.getElementById("more-events");
    more.hidden = events.length <= FIRST_SHOWN;
    say(more, all ? "Show fewer" : `Show all ${events.length}`);
  }

  function makeRow(event, key) {
    const row = element("li");
    row.dataset.key = key;
    const when = element("button", time(event.at), "when");
    when.type = "button";
    when.title = "read the figures at this time";
    when.addEventListener("click", () => charts.read(event.at));
    const what = element("span", null, `what ${kindOf(event)}`);
    const word = element("span", `${KINDS[kindOf(event)][0]}: `, "unseen");
    what.append(glyph(kindOf(event)), word, element("span", label(event), "label"));
    row.append(when, what, element("span", event.text, "text"), element("span", "", "by"));
    return row;
  }

  // The mark before the time that is read, or behind it; null: there is none.
  function neighbour(direction) {
    const {cursor, end} = charts.view;
    const at = cursor ?? end;
    const events = shownEvents().filter((event) => (event.at - at) * direction > 0.5);
    const found = direction > 0 ? events[0] : events[events.length - 1];
    return found ? found.at : null;
  }

  // What has happened close to a time, for those who hear it.
  function spoken(at) {
    const near = charts.step(document.querySelector("#timeline svg").clientWidth) * 2;
    const found = shownEvents().filter((event) => Math.abs(event.at - at) <= near);
    return found.map((event) => `${event.kind}: ${event.text}`).join("; ");
  }

  function legend() {
    document.getElementById("legend").replaceChildren(...Object.entries(KINDS).map(([kind, [word]]) => {
      const item = element("li");
      item.append(glyph(kind), element("span", word));
      return item;
    }));
  }

  document.getElementById("more-events").addEventListener("click", () => {
    all = !all;
    list();
  });

  return {draw, lines, list, legend, neighbour, spoken, every: spacing};
})();
