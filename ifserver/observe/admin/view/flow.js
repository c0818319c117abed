"use strict";
// The way of the requests as a picture: boxes that say how things stand, and lines as wide as what goes along them.
const flow = (() => {
  const {element, shape, say, seconds, count, plural} = format;
  const SHOWN = 8;

  // Boxes and the lines between them: [from, to, requests per second].
  function draw(status) {
    const servers = status.processes.filter((each) => each.kind === "server");
    const supervisors = status.processes.filter((each) => each.kind === "supervisor");
    const cells = {};
    put("flow-clients", [clients(servers)], cells);
    put("flow-servers", servers.length
      ? limited(servers.map((each) => server(each, status)), "servers")
      : [missing("none", "No server is seen.")], cells);
    put("flow-channels", status.clusters.map((each) => cluster(each, status)), cells);
    put("flow-workers", supervisors.length
      ? limited(supervisors.map((each) => workers(each)), "supervisors")
      : [missing("none", `No worker is seen. Requests wait ${seconds(timeout(status))}; then they get a 503.`)], cells);
    connect(status, servers.slice(0, SHOWN), supervisors.slice(0, SHOWN), cells);
  }

  function put(id, boxes, cells) {
    const stage = document.getElementById(id);
    let host = stage.querySelector(".boxes");
    if (!host) stage.append((host = element("div", null, "boxes")));
    host.replaceChildren(...boxes);
    for (const box of boxes) {
      cells[`${id} ${box.dataset.key}`] = box;
      for (const row of box.querySelectorAll("[data-row]")) cells[`${id} ${box.dataset.key} ${row.dataset.row}`] = row;
    }
  }

  function limited(boxes, what) {
    if (boxes.length <= SHOWN) return boxes;
    return [...boxes.slice(0, SHOWN), missing("more", `and ${boxes.length - SHOWN} more ${what}`)];
  }

  function box(key, title, tag, className) {
    const made = element("div", null, `box ${className ?? ""}`.trim());
    made.dataset.key = key;
    const head = element("h4", title);
    if (tag) head.append(element("span", tag, "tag"));
    made.append(head);
    return made;
  }

  function note(where, text, className, tag = "p") {
    where.append(element(tag, text, className));
  }

  function missing(key, text) {
    const made = element("div", null, "box missing");
    made.dataset.key = key;
    note(made, text);
    return made;
  }

  function clients(servers) {
    const sum = (key) => servers.reduce((total, each) => total + (each[key] ?? 0), 0);
    const made = element("div", null, "box");
    made.dataset.key = "all";
    const connections = sum("connections");
    note(made, count(connections), "big");
    note(made, connections === 1 ? "connection" : "connections");
    note(made, plural(sum("websockets"), "WebSocket"));
    return made;
  }

  function server(each, status) {
    const mine = each.process === status.me.process;
    const look = (mine ? "me" : "") + (each.listening ? "" : " broken");
    const made = box(each.process, each.process, mine ? "this one" : each.host, look);
    note(made, `${plural(each.connections ?? 0, "connection")}, ${plural(each.websockets ?? 0, "WebSocket")}`);
    // Beside the line it is written for those who see the picture.
    note(made, `${count(store.rate(`requests ${each.process}`))} requests per second`, "unseen");
    const errors = store.rate(`errors ${each.process}`);
    if (errors > 0) note(made, `\u2715 ${count(errors)} errors/s`, "bad");
    if (!each.listening) note(made, "\u2715 not listening", "bad");
    for (const [pool, left] of Object.entries(each.paused ?? {})) {
      const what = pool ? `pool ${pool}` : "all pools";
      note(made, `\u2016 ${what} paused, ${Math.round(left)} s left`, "bad");
    }
    if (each.waiting) note(made, `${plural(each.waiting, "request")} waiting for the end of it`);
    return made;
  }

  // Pools of request channels: `http.request.web` and `websocket.connect.web` are of `web`. Where there are pools, what
  // has no such ending is of the default one.
  const DEFAULT = "default";
  const hasPools = (status) => status.processes.some((each) => (each.children ?? []).some((child) => child.pool))
    || (status.pools ?? []).length > 0;
  const poolOf = (channel, pools) => channel.split(".").slice(2).join(".") || (pools ? DEFAULT : "");

  function cluster(each, status) {
    const broken = each.nodes.every((node) => !node.answers);
    const made = box(each.name, `cluster ${each.name}`, each.home ? "home" : "", broken ? "broken" : "");
    for (const node of each.nodes) {
      const gone = node.unreachable_s >= 1 ? `, for ${seconds(node.unreachable_s)}` : "";
      if (node.answers) note(made, `\u2713 node ${node.name}, ${(node.round_trip_s * 1000).toFixed(1)} ms`);
      else note(made, `\u2715 node ${node.name}: ${node.why}${gone}`, "bad");
    }
    const rows = element("div", null, "rows");
    const limit = timeout(status);
    const known = status.pools ?? [];
    for (const [pool, {length, age}] of waiting(each, hasPools(status))) {
      const row = element("div", null, "row");
      row.dataset.row = pool;
      const shared = known.filter((one) => one.name === pool).map((one) => tables.share(one, known)).filter(Boolean);
      note(row, [pool ? `pool ${pool}` : "requests", ...shared].join(", "), "", "span");
      note(row, length ? `${count(length)} waiting` : "none waits", "n", "span");
      if (length && age !== null) {
        row.append(gauge(age / limit));
        note(row, `oldest ${seconds(age)}`, "dim", "span");
        note(row, `of ${seconds(limit)}`, "n dim", "span");
      }
      rows.append(row);
    }
    made.append(rows);
    return made;
  }

  // How long requests may wait, at the most patient server.
  function timeout(status) {
    return status.processes.reduce((most, each) => Math.max(most, each.queue_timeout_s ?? 0), 0) || 30;
  }

  function waiting(each, pools) {
    const found = new Map();
    for (const queue of each.nodes.flatMap((node) => node.queues)) {
      const pool = poolOf(queue.channel, pools);
      const sum = found.get(pool) ?? {length: 0, age: null};
      sum.length += queue.length;
      if (queue.age_s !== null) sum.age = Math.max(sum.age ?? 0, queue.age_s);
      found.set(pool, sum);
    }
    return found;
  }

  function gauge(share) {
    const made = element("span", null, "gauge");
    const filled = element("i");
    filled.style.width = `${Math.min(100, Math.round(share * 100))}%`;
    made.append(filled);
    return made;
  }

  function workers(each) {
    const made = box(each.process, each.host, `supervisor ${each.process}`, "");
    const children = each.children ?? [];
    if (!children.some((child) => child.ready)) {
      made.classList.add("broken");
      note(made, children.length ? "\u2715 no worker is ready" : "\u2715 no worker runs", "bad");
    }
    const rows = element("div", null, "rows");
    for (const pool of new Set(children.map((child) => child.pool ?? ""))) {
      const members = children.filter((child) => (child.pool ?? "") === pool);
      const ready = members.filter((child) => child.ready);
      const busy = ready.reduce((total, child) => total + (child.unanswered ?? 0), 0);
      const slots = ready.reduce((total, child) => total + (child.unanswered ?? 0) + (child.free ?? 0), 0);
      const row = element("div", null, "row");
      row.dataset.row = pool;
      const starting = members.length - ready.length;
      const more = starting ? `, ${starting} not ready` : "";
      note(row, `${pool ? `pool ${pool}: ` : ""}${plural(ready.length, "worker")}${more}`, "", "span");
      note(row, `${count(busy)} of ${count(slots)} slots`, "n", "span");
      note(row, `${count(takenBy(each, members))} requests per second`, "unseen", "span");
      const glyphs = element("span", null, "workers");
      for (const child of members.slice(0, 64)) glyphs.append(worker(child));
      row.append(glyphs);
      rows.append(row);
    }
    made.append(rows);
    return made;
  }

  // What some workers of a supervisor take per second.
  function takenBy(supervisor, members) {
    return members.reduce((total, child) => total + store.rate(`taken ${supervisor.process} ${child.pid}`), 0);
  }

  // A square for each worker, filled as its slots are.
  function worker(child) {
    const made = element("i", null, child.ready ? "" : "starting");
    const busy = child.unanswered ?? 0, slots = busy + (child.free ?? 0);
    const how = child.ready ? `${busy} of ${slots} slots, ${child.streams ?? 0} streams` : "not ready";
    made.title = `worker ${child.pid}: ${how}`;
    const filled = element("b");
    filled.style.height = `${slots ? Math.ceil((busy / slots) * 100) : 0}%`;
    made.append(filled);
    return made;
  }

  // Lines.

  function connect(status, servers, supervisors, cells) {
    const host = document.getElementById("flow");
    const svg = host.querySelector("svg");
    const area = host.getBoundingClientRect();
    const stacked = getComputedStyle(host).gridTemplateColumns.split(" ").length === 1;
    // Where a box is; of a row in a box, the sides of the box at the height of the row.
    const place = (node) => {
      const at = node.getBoundingClientRect(), sides = node.closest(".box").getBoundingClientRect();
      const [upper, lower] = stacked ? [sides, sides] : [at, at];
      const [left, right] = [sides.left - area.left, sides.right - area.left];
      return {left, right, top: upper.top - area.top, bottom: lower.bottom - area.top};
    };
    const drawn = [];
    const link = (from, to, rate, text) => {
      if (from && to) drawn.push(...line(place(from), place(to), rate, text, stacked));
    };
    const all = cells["flow-clients all"];
    const home = status.clusters.find((each) => each.home) ?? status.clusters[0];
    for (const each of servers) {
      const rate = store.rate(`requests ${each.process}`);
      const server = cells[`flow-servers ${each.process}`];
      link(all, server, rate, true);
      link(server, home && cells[`flow-channels ${home.name}`], rate, false);
    }
    for (const each of supervisors) {
      const children = each.children ?? [];
      for (const pool of new Set(children.map((child) => child.pool ?? ""))) {
        const members = children.filter((child) => (child.pool ?? "") === pool);
        const rate = takenBy(each, members);
        const from = clusterOf(status, each, pool, cells);
        link(from, cells[`flow-workers ${each.process} ${pool}`] ?? cells[`flow-workers ${each.process}`], rate, true);
      }
    }
    if (!stacked && servers.length && supervisors.length) drawn.push(...back(place, cells, servers, supervisors));
    svg.replaceChildren(...drawn);
    host.querySelector(".reply").hidden = !(servers.length && supervisors.length);
  }

  function clusterOf(status, supervisor, pool, cells) {
    const ours = (each) => each.nodes.some((node) => node.name === supervisor.node);
    const found = status.clusters.find(ours) ?? status.clusters[0];
    return found && (cells[`flow-channels ${found.name} ${pool}`] ?? cells[`flow-channels ${found.name}`]);
  }

  const thick = (rate) => (rate > 0 ? Math.min(11, 1.5 + 2.4 * Math.log10(1 + rate)) : 1.25);

  function line(from, to, rate, text, stacked) {
    const width = thick(rate), name = rate > 0 ? "link busy" : "link";
    let start, end, path;
    if (stacked) {
      start = [Math.min(from.left + 28, from.right), from.bottom];
      end = [start[0], to.top];
      path = `M${start}L${end}`;
    } else {
      start = [from.right, (from.top + from.bottom) / 2];
      end = [to.left - 6, (to.top + to.bottom) / 2];
      const bend = (start[0] + end[0]) / 2;
      path = `M${start}C${bend},${start[1]} ${bend},${end[1]} ${end}`;
    }
    const drawn = [shape("path", {class: name, d: path, "stroke-width": width.toFixed(2)})];
    const [x, y] = end;
    const tip = stacked ? `M${x},${y}l-5,-8h10z` : `M${x + 6},${y}l-8,-5v10z`;
    drawn.push(shape("path", {class: rate > 0 ? "tip busy" : "tip", d: tip}));
    if (text) {
      // At its end, where lines are apart, and on the side from which the line does not come.
      const beside = start[1] < end[1] - 3 ? width / 2 + 13 : -width / 2 - 4;
      const at = stacked ? [start[0] + 16, start[1] + 18] : [end[0] - 6, end[1] + beside];
      drawn.push(shape("text", {x: at[0], y: at[1], "text-anchor": stacked ? "start" : "end"}, `${count(rate)}/s`));
    }
    return drawn;
  }

  // The way back, below everything.
  function back(place, cells, servers, supervisors) {
    const boxes = (id, all) => all.map((each) => cells[`${id} ${each.process}`]).filter(Boolean).map(place);
    const from = boxes("flow-workers", supervisors), to = boxes("flow-servers", servers);
    if (!from.length || !to.length) return [];
    const start = [(from[0].left + from[0].right) / 2, Math.max(...from.map((each) => each.bottom))];
    const end = [(to[0].left + to[0].right) / 2, Math.max(...to.map((each) => each.bottom))];
    const depth = document.getElementById("flow").clientHeight - 12;
    const path = `M${start}V${depth - 10}q0,10 -10,10H${end[0] + 10}q-10,0 -10,-10V${end[1] + 8}`;
    const tip = `M${end[0]},${end[1] + 1}l-5,8h10z`;
    return [shape("path", {class: "link back", d: path}), shape("path", {class: "tip", d: tip})];
  }

  return {draw};
})();
