"use strict";
// Asks for the status every second, shows it, and does what keys and buttons say.
(() => {
  const REFRESH_MS = 1000, ANSWER_MS = 10000;
  // Without an answer for so long, what is shown is old.
  const STALE_S = 3.5;
  const TICK_MS = 250;
  const {say, time, ago, seconds} = format;
  const $ = (id) => document.getElementById(id);
  const {known} = store;
  const view = charts.view;
  let paused = null; // the status that is shown while the display is paused
  let shortcuts = true;

  function show() {
    const status = paused ?? known.status;
    if (!status) return;
    head(status);
    flow.draw(status);
    tables.draw(status);
    figures();
  }

  function figures() {
    if (!paused) view.end = store.now();
    charts.draw();
    timeline.draw();
    timeline.list();
    cursor();
  }

  function head(status) {
    const me = status.me;
    document.title = `ifserver: ${me.host}`;
    const up = seconds(status.now - me.started_at);
    say($("who"), `${me.kind} ${me.process} on ${me.host}, process id ${me.pid}, ${me.version}, up ${up}`);
    say($("figures-of"), `of this ${me.kind}`);
    const unready = status.unready.join("; ");
    const holding = Object.entries(me.paused ?? {}).map(
      ([pool, left]) => `${pool ? `pool ${pool}` : "all pools"} for ${Math.round(left)} s`);
    let text = unready ? `not ready: ${unready}` : "ready";
    if (holding.length) text += `; paused: ${holding.join(", ")}, ${me.waiting ?? 0} requests wait`;
    say($("state"), text);
    $("state").className = `state ${unready || holding.length ? "bad" : "good"}`;
    announce(unready ? `not ready: ${unready}` : holding.length ? "ready, and paused" : "ready");
  }

  // For those who hear the page: only what is new, and no figures.
  let announced = "";
  function announce(text) {
    if (text === announced) return;
    if (announced) say($("announcement"), text);
    announced = text;
  }

  // How old what is shown is.
  function freshness() {
    const silent = store.silence();
    const stale = Boolean(known.problem) && (silent > STALE_S || !known.status);
    document.documentElement.toggleAttribute("data-stale", stale && Boolean(known.status));
    $("stale").hidden = !stale;
    if (stale) {
      const since = known.status ? `since ${time(known.status.now)} (${ago(silent)}). What is shown is of then` : "yet";
      say($("stale"), `\u2715 No answer ${since}; asking again every second. ${known.problem}`);
      say($("state"), "no answer");
      $("state").className = "state bad";
      announce("no answer");
    }
    const shown = paused ? `paused at ${time(view.end)}` : stale ? "no answer" : known.status ? "live" : "connecting";
    say($("freshness"), shown);
  }

  // The time that is read.
  function cursor() {
    const at = view.cursor;
    const slider = $("cursor");
    slider.setAttribute("aria-valuemax", view.range);
    slider.setAttribute("aria-valuenow", Math.round(at === null ? view.range : view.range - (view.end - at)));
    const when = at === null ? (paused ? `paused at ${time(view.end)}` : "now") : `${time(at)}, ${ago(view.end - at)}`;
    const near = at === null ? "" : timeline.spoken(at);
    slider.setAttribute("aria-valuetext", `${when}: ${charts.spoken()}${near ? `; ${near}` : ""}`);
    const bold = format.element("b", at === null ? time(view.end) : time(at));
    $("readout").replaceChildren(bold, at === null ? (paused ? ", paused" : "") : `, ${ago(view.end - at)}`);
  }

  function pause() {
    paused = paused || !known.status ? null : known.status;
    $("pause").setAttribute("aria-pressed", String(Boolean(paused)));
    say($("pause"), paused ? "Go on" : "Pause");
    freshness();
    show();
  }

  function setRange(value) {
    view.range = Number(value);
    const input = document.querySelector(`#range input[value="${value}"]`);
    if (input) input.checked = true;
    charts.read(view.cursor);
  }

  // Asking.

  async function refresh() {
    try {
      const response = await fetch(`status.json?after=${known.after}`, {signal: AbortSignal.timeout(ANSWER_MS)});
      if (!response.ok) throw new Error(`status ${response.status}`);
      const first = !known.status;
      store.took(await response.json());
      if (first) setRange([120, 300, 900].find((range) => known.times.length <= range) ?? 900);
      if (!paused) show();
    } catch (error) {
      known.problem = reason(error);
    }
    freshness();
    setTimeout(refresh, REFRESH_MS);
  }

  function reason(error) {
    if (error.name === "TimeoutError") return "It does not respond.";
    return error instanceof TypeError ? "It cannot be reached." : `${error.message}.`;
  }

  // Between answers time goes on.
  function tick() {
    if (known.status && !document.hidden) {
      if (!paused && store.silence() > 1.5) figures();
      freshness();
    }
    setTimeout(tick, TICK_MS);
  }

  async function close(channel) {
    if (!confirm(`Close ${channel}?`)) return;
    const response = await fetch(`close?stream=${encodeURIComponent(channel)}`,
      {method: "POST", headers: {"X-Ifserver-Close": "page"}});
    say($("announcement"), (await response.text()).trim());
  }

  // Keys.

  function move(direction, large) {
    const width = $("timeline").querySelector("svg").clientWidth;
    const each = charts.step(document.querySelector(".chart svg")?.clientWidth ?? width);
    charts.read((view.cursor ?? view.end) + direction * each * (large ? 10 : 1));
  }

  function jump(direction) {
    const at = timeline.neighbour(direction);
    if (at !== null) charts.read(at);
  }

  const MOVES = {
    ArrowLeft: (event) => move(-1, event.shiftKey),
    ArrowRight: (event) => move(1, event.shiftKey),
    ArrowDown: (event) => move(-1, event.shiftKey),
    ArrowUp: (event) => move(1, event.shiftKey),
    PageDown: () => move(-1, true),
    PageUp: () => move(1, true),
    Home: () => charts.read(view.end - view.range),
    End: () => charts.read(null),
  };
  const KEYS = {
    "[": () => jump(-1),
    "]": () => jump(1),
    p: pause,
    "?": () => $("help").showModal(),
    "/": () => $("filter").focus(),
    1: () => setRange(120),
    2: () => setRange(300),
    3: () => setRange(900),
  };

  function pressed(event) {
    if (event.ctrlKey || event.altKey || event.metaKey || $("help").open) return;
    const focused = document.activeElement;
    if (event.key === "Escape" && view.cursor !== null) charts.read(null);
    const free = !focused || focused === document.body || focused.id === "main";
    if (focused?.id === "cursor" || (free && /^Arrow(Left|Right)$/.test(event.key))) {
      const act = MOVES[event.key];
      if (act) {
        event.preventDefault();
        act(event);
        return;
      }
    }
    const typing = focused?.matches("input[type=search]");
    const act = shortcuts && !typing ? KEYS[event.key] : undefined;
    if (act) {
      event.preventDefault();
      act();
    }
  }

  function listen() {
    document.addEventListener("keydown", pressed);
    $("pause").addEventListener("click", pause);
    $("help-button").addEventListener("click", () => $("help").showModal());
    $("range").addEventListener("change", (event) => setRange(event.target.value));
    $("cursor").addEventListener("pointermove", (event) => charts.point($("timeline").querySelector("svg"), event));
    $("cursor").addEventListener("pointerdown", (event) => charts.point($("timeline").querySelector("svg"), event));
    $("cursor").addEventListener("pointerleave", (event) => event.pointerType === "mouse" && charts.read(null));
    $("minutes").addEventListener("toggle", tables.minutes);
    $("filter").addEventListener("input", () => known.status && tables.streams(paused ?? known.status));
    $("streams").addEventListener("click", (event) => {
      const {key, close: channel} = event.target.dataset;
      if (channel) close(channel);
      if (!key || !known.status || event.target.tagName !== "BUTTON") return;
      tables.sort(key);
      tables.streams(paused ?? known.status);
    });
    $("shortcuts").addEventListener("change", (event) => {
      shortcuts = event.target.checked;
      remember("ifserver.shortcuts", shortcuts ? "" : "off");
    });
    charts.onRead(() => {
      timeline.draw();
      cursor();
    });
    new ResizeObserver(() => show()).observe($("main"));
    document.addEventListener("visibilitychange", () => !document.hidden && show());
  }

  // Some browsers refuse to remember anything.
  function remember(key, value) {
    try {
      localStorage.setItem(key, value);
    } catch {}
  }

  function remembered(key) {
    try {
      return localStorage.getItem(key);
    } catch {
      return null;
    }
  }

  shortcuts = remembered("ifserver.shortcuts") !== "off";
  $("shortcuts").checked = shortcuts;
  timeline.legend();
  listen();
  refresh();
  tick();
})();
