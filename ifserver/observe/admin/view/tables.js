"use strict";
// Nodes, processes, groups and streams, with all that is known of them.
const tables = (() => {
  const {element, say, seconds, bytes, count, duration, plural} = format;
  const SHOWN = 500;
  let order = {key: "age_s", down: true};

  function head(id, titles) {
    const table = document.getElementById(id);
    table.setAttribute("role", "table");
    const text = titles.map(([title]) => title).join("\t");
    if (table.dataset.titles === text) return;
    table.dataset.titles = text;
    const row = element("tr");
    row.setAttribute("role", "row");
    for (const [title, className] of titles) {
      const cell = element("th", title, className);
      cell.scope = "col";
      cell.setAttribute("role", "columnheader");
      row.append(cell);
    }
    table.tHead.replaceChildren(row);
    table.titles = titles;
  }

  // Rows are kept by their key: what is selected, or has the focus, stays so while the texts change. A cell is a text,
  // a text and a class, or a node, which is kept as long as the row.
  function rows(id, all, titles) {
    const body = document.getElementById(id).tBodies[0];
    const kept = new Map([...body.rows].map((row) => [row.dataset.key, row]));
    const wanted = all.map(({key, cells, className}) => {
      const row = kept.get(key) ?? newRow(key, cells, titles);
      row.className = className ?? "";
      cells.forEach((cell, i) => {
        if (cell instanceof Node) return;
        const [text, name] = [].concat(cell);
        say(row.cells[i], String(text ?? ""));
        const wantedName = [name, titles[i]?.[1]].filter(Boolean).join(" ");
        if (row.cells[i].className !== wantedName) row.cells[i].className = wantedName;
      });
      return row;
    });
    wanted.forEach((row, i) => {
      if (body.rows[i] !== row) body.insertBefore(row, body.rows[i] ?? null);
    });
    while (body.rows.length > wanted.length) body.lastElementChild.remove();
  }

  function newRow(key, cells, titles) {
    const row = element("tr");
    row.dataset.key = key;
    row.setAttribute("role", "row");
    cells.forEach((cell, i) => {
      const made = element("td");
      made.setAttribute("role", "cell");
      if (titles[i]?.[0]) made.dataset.label = titles[i][0];
      if (cell instanceof Node) made.append(cell);
      row.append(made);
    });
    return row;
  }

  function table(id, titles, all) {
    head(id, titles);
    rows(id, all, titles);
  }

  function nodes(status) {
    const titles = [["cluster"], ["node"], ["answers"], ["channel"], ["length", "n"], ["oldest", "n"]];
    const all = [];
    for (const cluster of status.clusters) {
      for (const node of cluster.nodes) {
        const name = cluster.name + (cluster.home ? " (home)" : "");
        const said = node.answers
          ? [`\u2713 in ${(node.round_trip_s * 1000).toFixed(1)} ms`, "good"]
          : [`\u2715 ${node.why}`, "bad"];
        const key = `${cluster.name} ${node.name}`;
        // Of the others, only those on which something waits.
        const queues = node.queues.filter((queue) => queue.length || queue.channel.startsWith("http."));
        if (!queues.length) all.push({key, cells: [name, node.name, said, "", "", ""]});
        queues.forEach((queue, i) => {
          const where = i ? ["", "", ""] : [name, node.name, said];
          const cells = [...where, queue.channel, count(queue.length), seconds(queue.age_s)];
          all.push({key: `${key} ${queue.channel}`, cells});
        });
      }
    }
    table("nodes", titles, all);
  }

  function processes(status) {
    const titles = [["what"], ["process"], ["host"], ["pid", "n"], ["node"], ["up", "n"], ["streams", "n"],
      ["unanswered", "n"], ["free", "n"], ["connections", "n"]];
    const all = [];
    for (const each of status.processes) {
      const children = each.children ?? [];
      const sum = (key) => children.reduce((total, child) => total + (child[key] ?? 0), 0);
      const server = each.kind === "server";
      const me = each.process === status.me.process ? " (this one)" : "";
      const what = server && !each.listening ? ["server, not listening" + me, "bad"] : each.kind + me;
      const held = server
        ? [count(each.streams ?? 0), "", "", count(each.connections ?? 0)]
        : [count(sum("streams")), count(sum("unanswered")), count(sum("free")), ""];
      all.push({key: each.process, cells: [what, each.process, each.host, each.pid, each.node,
        seconds(status.now - each.started_at), ...held]});
      for (const child of children) {
        const of = "worker" + (child.pool ? " of pool " + child.pool : "") + (child.ready ? "" : ", not ready");
        const slots = [count(child.streams ?? 0), count(child.unanswered ?? 0), count(child.free ?? 0), ""];
        all.push({key: `${each.process} ${child.pid}`, className: "child",
          cells: ["\u2514 " + of, child.process ?? "", "", child.pid, "", "", ...slots]});
      }
    }
    table("processes", titles, all);
  }

  // Pools side by side: what they share, and how they do.
  function pools(status) {
    const found = status.pools ?? [];
    document.getElementById("pooled").hidden = !found.length;
    say(document.getElementById("pools-since"), `at this server, counted for ${seconds(status.pools_counted_s ?? 0)}`);
    const titles = [["pool"], ["takes"], ["share", "n"], ["requests", "n"], ["errors", "n"], ["p50", "n"], ["p95", "n"],
      ["p99", "n"]];
    const written = (value) => duration(value).join(" ").trim();
    const rest = (each) => (each.weight === null ? "its own requests" : "the rest");
    table("pools", titles, found.map((each) => ({key: each.name, cells: [
      each.name, each.canary_of ? `a share of ${each.canary_of}` : rest(each), share(each, found),
      count(each.requests), [count(each.errors), each.errors ? "bad" : ""],
      written(each.p50_s), written(each.p95_s), written(each.p99_s),
    ]})));
  }

  // What part of the requests that several pools share one of them gets; empty: it shares none.
  function share(pool, all) {
    if (pool.weight === null || pool.weight === undefined) return "";
    const of = (each) => each.canary_of || each.name;
    const sum = all.filter((each) => of(each) === of(pool)).reduce((total, each) => total + (each.weight ?? 0), 0);
    return `${count(sum ? (pool.weight / sum) * 100 : 0)} %${pool.is_ordered ? ", ordered" : ""}`;
  }

  function groups(status) {
    const found = status.groups ?? [];
    document.getElementById("grouped").hidden = !found.length;
    say(document.getElementById("group-count"),
      `${found.length} of ${status.groups_total}, ${status.group_members} members in all`);
    const all = found.map((each) => ({key: each.name, cells: [each.name, count(each.members)]}));
    table("groups", [["group"], ["members", "n"]], all);
  }

  const COLUMNS = [["channel", "channel", "wide"], ["kind", "kind"], ["state", "state"], ["age_s", "age", "n"],
    ["owner", "worker"], ["path", "request", "wide"], ["unsent_bytes", "unsent", "n"]];
  const POOL = ["pool", "pool"];
  const SEARCHED = ["channel", "kind", "state", "owner", "method", "path", "pool"];

  // The heads of the streams' columns are buttons that sort.
  function streamsHead(columns) {
    const shown = JSON.stringify([order, columns]);
    const table = document.getElementById("streams");
    table.setAttribute("role", "table");
    if (table.dataset.head === shown) return;
    table.dataset.head = shown;
    const row = element("tr");
    row.setAttribute("role", "row");
    for (const [key, title, className] of columns) {
      const cell = element("th", null, className === "n" ? "n" : "");
      cell.scope = "col";
      cell.setAttribute("role", "columnheader");
      const button = element("button", title + (order.key === key ? (order.down ? " \u2193" : " \u2191") : ""));
      button.dataset.key = key;
      cell.append(button);
      cell.ariaSort = order.key === key ? (order.down ? "descending" : "ascending") : "none";
      row.append(cell);
    }
    const last = element("th");
    last.append(element("span", "action", "unseen"));
    row.append(last);
    const focused = document.activeElement?.dataset.key;
    table.tHead.replaceChildren(row);
    table.tHead.querySelector(`button[data-key="${focused}"]`)?.focus();
  }

  function streams(status) {
    const hasPools = status.streams.some((each) => each.pool);
    // A supervisor knows only who has them.
    const server = status.me.kind === "server";
    const columns = COLUMNS.filter(([key]) => server || key === "channel" || key === "owner");
    if (hasPools) columns.push(POOL);
    streamsHead(columns);
    const wanted = document.getElementById("filter").value.toLowerCase();
    const text = (each) => SEARCHED.map((key) => each[key]).join(" ").toLowerCase();
    const found = status.streams.filter((each) => each.kind + each.owner && text(each).includes(wanted));
    const sign = order.down ? -1 : 1;
    found.sort((a, b) => {
      const [x, y] = [a[order.key] ?? "", b[order.key] ?? ""];
      return (x < y ? -1 : x > y ? 1 : a.channel < b.channel ? -1 : 1) * sign;
    });
    const shown = found.slice(0, SHOWN);
    say(document.getElementById("count"), `${shown.length} of ${status.streams_total}`);
    const written = {
      age_s: (each) => seconds(each.age_s),
      path: (each) => (each.method ? each.method + " " : "") + each.path,
      unsent_bytes: (each) => (each.unsent_bytes ? bytes(each.unsent_bytes) : ""),
    };
    rows("streams", shown.map((each) => ({key: each.channel, cells: [
      ...columns.map(([key]) => (written[key] ? written[key](each) : each[key] ?? "")),
      server ? closer(each.channel) : "",
    ]})), [...columns.map(([, title, className]) => [title, className]), [""]]);
    const none = document.getElementById("no-streams");
    none.hidden = shown.length > 0;
    say(none, wanted && status.streams_total ? `None of ${plural(status.streams_total, "stream")} fits the filter.`
      : "No request is under way, and no WebSocket is open.");
  }

  function closer(channel) {
    const button = element("button", "close");
    button.type = "button";
    button.dataset.close = channel;
    button.setAttribute("aria-label", `close ${channel}`);
    return button;
  }

  function sort(key) {
    order = {key, down: order.key === key ? !order.down : key === "age_s" || key === "unsent_bytes"};
  }

  // The figures minute by minute, for those who would rather read them.
  function minutes() {
    if (!document.getElementById("minutes").open) return;
    const kinds = charts.KINDS.filter((kind) => store.known.series.has(kind.key));
    const unit = (kind) => (kind.unit ? `, ${kind.unit}` : "");
    const titles = [["minute"], ...kinds.map((kind) => [kind.name + unit(kind), "n"])];
    const {end} = charts.view;
    const all = [];
    for (let at = Math.floor(end / 60) * 60; at > end - store.KEPT_S; at -= 60) {
      const written = kinds.map((kind) => {
        const [number, of] = charts.written(kind, store.value(kind.key, kind.how, at + 59.999, 60));
        return kind.time ? `${number} ${of}` : number;
      });
      all.push({key: String(at), cells: [format.time(at, false), ...written]});
    }
    table("minutes-table", titles, all);
  }

  function draw(status) {
    nodes(status);
    processes(status);
    pools(status);
    groups(status);
    streams(status);
    minutes();
  }

  return {draw, streams, minutes, sort, share};
})();
