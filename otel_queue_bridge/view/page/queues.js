// The queue table: how each queue and task did over the last 15 minutes.

import { ask, follow } from "./api.js";
import { ago, clock, count, duration, el, many, svg } from "./draw.js";

const PERIOD = 3000;

const number = (value) => (value === null ? "–" : many(value));

// Title, what it is sorted by, and what is shown.
const COLUMNS = [
  ["queue", (row) => `${row.system} ${row.queue}`, (row) => [el("span", { class: "faint" }, row.system), " ", row.queue || "(none)"]],
  ["submitted", (row) => row.submitted_per_s, (row) => el("span", { title: `${count(row.submitted, "task")}, counted by ${row.source}` }, rate(row))],
  ["wait p50", (row) => row.wait_p50_ms, (row) => duration(row.wait_p50_ms)],
  ["wait p95", (row) => row.wait_p95_ms, (row) => duration(row.wait_p95_ms)],
  ["run p50", (row) => row.run_p50_ms, (row) => duration(row.run_p50_ms)],
  ["run p95", (row) => row.run_p95_ms, (row) => duration(row.run_p95_ms)],
  ["failed", (row) => row.failed_percent, (row) => (row.failed_percent === null ? "–" : el("span", { class: row.failed_percent ? "error" : "" }, `${Number(row.failed_percent.toFixed(1))} %`))],
  ["retries", (row) => row.retried, (row) => number(row.retried)],
  ["depth", (row) => row.depth, (row) => number(row.depth)],
  ["oldest", (row) => row.oldest_ms, (row) => duration(row.oldest_ms)],
  ["delayed", (row) => row.delayed, (row) => number(row.delayed)],
  ["dead", (row) => row.dead, (row) => (row.dead === null ? "–" : el("span", { class: row.dead ? "error" : "" }, number(row.dead)))],
  ["busy", (row) => row.busy, (row) => (row.workers === null ? "–" : `${number(row.busy)} of ${number(row.workers)}`)],
  ["last seen", (row) => row.last_seen_ms, (row, now) => (row.last_seen_ms ? ago(row.last_seen_ms, now) : "–")],
  ["tasks, wait p95", null, (row) => [plot(row.series.submitted, row.series.failed), plot(row.series.wait_p95_ms)]],
];

export function queues(main) {
  const head = el("tr");
  const body = el("tbody");
  const note = el("p", { class: "note" });
  const opened = new Set();
  const order = { by: null, down: true };
  let found = { rows: [], now_ms: 0 };
  let timer = null;
  let left = false;
  main.append(el("table", { class: "queues" }, el("thead", {}, head), body), note);

  async function load() {
    try {
      found = await ask("/api/queues");
      if (!left) draw();
    } finally {
      clearTimeout(timer);
      if (!left) timer = setTimeout(() => load().catch(() => {}), PERIOD); // `follow` notices that it is gone
    }
  }

  function draw() {
    const focused = document.activeElement?.dataset?.key;
    head.replaceChildren(title("task", (row) => row.task), ...COLUMNS.map(([name, by]) => title(name, by)));
    body.replaceChildren(...sorted(found.rows, order).flatMap((row) => lines(row, found, opened)));
    if (focused) [...main.querySelectorAll("[data-key]")].find((one) => one.dataset.key === focused)?.focus({ preventScroll: true });
    main.firstElementChild.hidden = !found.rows.length;
    note.textContent = found.rows.length
      ? "The last 15 minutes, counted as spans or metrics arrive, whichever counted more. Open a task for its plots and sample traces."
      : "No task has been seen yet. A queue appears here with its first span or metric.";
  }

  function title(name, by) {
    const sort = () => {
      Object.assign(order, order.name === name ? { down: !order.down } : { name, by, down: true });
      draw();
    };
    const direction = order.name === name ? (order.down ? "descending" : "ascending") : null;
    return el("th", { scope: "col", "aria-sort": direction }, by ? el("button", { type: "button", "data-key": `sort ${name}`, onclick: sort }, name) : name);
  }

  const leave = follow("id=none", load, () => {}); // for the status alone
  return () => {
    left = true;
    clearTimeout(timer);
    leave();
  };
}

function sorted(rows, { by, down }) {
  if (!by) return rows;
  const sign = down ? -1 : 1;
  const rank = (value) => (value === null ? -Infinity : value);
  return [...rows].sort((a, b) => (rank(by(a)) < rank(by(b)) ? -sign : rank(by(a)) > rank(by(b)) ? sign : 0));
}

function lines(row, found, opened) {
  const key = JSON.stringify([row.system, row.queue, row.task]);
  const isOpen = opened.has(key);
  const more = el("tr", { class: "more", hidden: !isOpen }, el("td", { colspan: COLUMNS.length + 1 }, isOpen ? about(row, found) : ""));
  const toggle = el("button", { type: "button", class: "toggle", "data-key": key, "aria-expanded": String(isOpen), onclick: open }, el("span", { class: "name" }, row.task || "(none)"));
  function open() {
    if (!opened.delete(key)) opened.add(key);
    const now = opened.has(key);
    more.hidden = !now;
    more.firstElementChild.replaceChildren(...(now ? about(row, found) : []));
    toggle.setAttribute("aria-expanded", String(now));
  }
  const cells = COLUMNS.map(([name, , shown]) => el("td", { "data-label": name }, shown(row, found.now_ms)));
  return [el("tr", {}, el("td", {}, toggle), ...cells), more];
}

function rate({ submitted, submitted_per_s: perSecond }) {
  const [times, unit] = perSecond >= 0.1 ? [1, "s"] : [60, "min"];
  return perSecond * 60 < 1 ? many(submitted) : `${Number((perSecond * times).toPrecision(2))}/${unit}`;
}

function about(row, { window_s: seconds, step_s: step }) {
  const { submitted, failed, wait_p95_ms: wait } = row.series;
  const filter = new URLSearchParams({ system: row.system, queue: row.queue, task: row.task });
  const since = `${duration(seconds * 1e3)} ago`;
  return [
    el("div", { class: "plots" },
      figure(`submitted in ${step} s`, plot(submitted), (most) => count(most, "task"), submitted, since),
      figure(`failed in ${step} s`, plot(failed, failed), (most) => count(most, "task"), failed, since),
      figure("wait p95", plot(wait), duration, wait, since)),
    samples(row),
    el("p", {}, el("a", { href: `#/?${filter}` }, "All its traces"), el("span", { class: "faint" }, ` · counted by ${row.source}`)),
  ];
}

function figure(title, drawn, words, values, since) {
  const most = Math.max(...values.map((value) => value ?? 0), 0);
  return el("figure", {},
    el("figcaption", {}, el("b", {}, title), el("span", {}, most ? `at most ${words(most)}` : "none")),
    drawn,
    el("div", { class: "ends" }, el("span", {}, since), el("span", {}, "now")));
}

// Failed ones first, then the slowest.
function samples(row) {
  if (!row.samples.length) return el("p", { class: "faint" }, "No span of its runs has arrived.");
  return el("ul", { class: "samples" }, row.samples.map((sample) => el("li", {},
    el("a", { href: `#/trace/${sample.trace_id}` }, `${sample.why}, ran ${duration(sample.duration_ms)}`),
    el("span", { class: "faint" }, ` at ${clock(sample.start_ms)} `),
    sample.task_id ? el("code", {}, sample.task_id) : "")));
}

// Bars, oldest first; the failed ones in red on top of them.
function plot(values, failed = []) {
  const most = Math.max(...values.map((value) => value ?? 0), 0);
  const bar = (amount, index, kind) => {
    const height = Math.max((22 * amount) / most, 1.5);
    return svg("rect", { class: kind, x: index * 2, y: 24 - height, width: 1.6, height });
  };
  const bars = values.flatMap((value, index) => [[value, "all"], [failed[index], "bad"]].filter(([amount]) => amount).map(([amount, kind]) => bar(amount, index, kind)));
  return svg("svg", { class: "plot", viewBox: `0 0 ${values.length * 2} 24`, preserveAspectRatio: "none", "aria-hidden": "true" }, ...bars);
}
