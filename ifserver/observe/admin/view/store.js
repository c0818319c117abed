"use strict";
// What is known: the last status, the figures of the last minutes, what has happened, and how fast counts grow.
const store = (() => {
  // What the server keeps is kept here as well, also when another process has taken its place.
  const KEPT_S = 900;
  const RATE_S = 5;

  const known = {
    status: null,
    // When the last status came, by the clock of this page; it says when that was by the clock of the server.
    receivedAt: 0,
    // Seconds since the epoch by the clock of the server, and for each time one value of each figure.
    times: [],
    series: new Map(),
    events: new Map(),
    after: -1,
    problem: "",
  };
  const counts = new Map();

  function took(status) {
    if (known.status && known.status.me.process !== status.me.process) known.after = -1;
    const history = status.history;
    if (history) addFigures(history);
    for (const event of status.events ?? []) known.events.set(`${event.process}.${event.number}`, event);
    for (const [key, event] of known.events) if (event.at < status.now - KEPT_S - 60) known.events.delete(key);
    known.status = status;
    known.receivedAt = performance.now();
    known.problem = "";
    countAll(status);
  }

  function addFigures(history) {
    const names = Object.keys(history.series);
    const length = names.length ? history.series[names[0]].length : 0;
    const last = known.times.length ? known.times[known.times.length - 1] : -Infinity;
    for (const name of names) {
      if (!known.series.has(name)) known.series.set(name, new Array(known.times.length).fill(null));
    }
    for (let i = 0; i < length; i++) {
      const at = history.last_at - (length - 1 - i) * history.every_s;
      if (at <= last + history.every_s / 2) continue;
      known.times.push(at);
      for (const name of names) known.series.get(name).push(history.series[name][i]);
      // Figures that another kind of process had in this place.
      for (const values of known.series.values()) if (values.length < known.times.length) values.push(null);
    }
    known.after = history.first + length - 1;
    const tooMany = known.times.length - KEPT_S - 60;
    if (tooMany > 0) {
      known.times.splice(0, tooMany);
      for (const values of known.series.values()) values.splice(0, tooMany);
    }
  }

  // Rates come from counts that only grow: what they have grown by in the last seconds.
  function countAll(status) {
    const seen = new Set();
    const note = (key, value) => {
      seen.add(key);
      const noted = counts.get(key) ?? [];
      if (noted.length && value < noted[noted.length - 1][1]) noted.length = 0;
      noted.push([status.now, value]);
      while (noted.length > 2 && noted[1][0] <= status.now - RATE_S) noted.shift();
      counts.set(key, noted);
    };
    for (const each of status.processes) {
      if (each.kind === "server") {
        note(`requests ${each.process}`, each.requests ?? 0);
        note(`errors ${each.process}`, each.errors ?? 0);
      }
      for (const child of each.children ?? []) note(`taken ${each.process} ${child.pid}`, child.taken ?? 0);
    }
    for (const key of counts.keys()) if (!seen.has(key)) counts.delete(key);
  }

  function rate(key) {
    const noted = counts.get(key);
    if (!noted || noted.length < 2) return 0;
    const [[from, before], [to, now]] = [noted[0], noted[noted.length - 1]];
    return to > from ? (now - before) / (to - from) : 0;
  }

  // The time now by the clock of the server.
  function now() {
    return known.status ? known.status.now + (performance.now() - known.receivedAt) / 1000 : Date.now() / 1000;
  }

  // For how long nothing was told.
  function silence() {
    return known.receivedAt ? (performance.now() - known.receivedAt) / 1000 : 0;
  }

  function events() {
    return [...known.events.values()].sort((a, b) => a.at - b.at || a.number - b.number);
  }

  // Figures between two times, in buckets of `width` seconds that stay where they are while time goes on, so that the
  // picture moves and does not flicker. `how`: ``mean`` or ``max``. Null: nothing was measured.
  function buckets(name, from, to, width, how) {
    const first = Math.floor(from / width);
    const found = new Array(Math.max(0, Math.floor(to / width) - first + 1)).fill(null);
    const sizes = new Array(found.length).fill(0);
    const values = known.series.get(name) ?? [];
    for (let i = known.times.length - 1; i >= 0 && known.times[i] >= first * width; i--) {
      const value = values[i], at = Math.floor(known.times[i] / width) - first;
      if (value === null || value === undefined || at >= found.length) continue;
      sizes[at] += 1;
      if (found[at] === null) found[at] = value;
      else found[at] = how === "max" ? Math.max(found[at], value) : found[at] + (value - found[at]) / sizes[at];
    }
    return {start: first * width, width, values: found};
  }

  // What a figure is now, or was in the `span` seconds that end at `at`.
  function value(name, how, at, span) {
    const values = known.series.get(name) ?? [];
    let found = null, size = 0;
    for (let i = known.times.length - 1; i >= 0 && known.times[i] > at - span; i--) {
      if (known.times[i] > at || values[i] === null || values[i] === undefined) continue;
      size += 1;
      if (found === null) found = values[i];
      else if (how === "max") found = Math.max(found, values[i]);
      else if (how === "mean") found += (values[i] - found) / size;
    }
    return found;
  }

  return {known, took, rate, now, silence, events, buckets, value, KEPT_S};
})();
