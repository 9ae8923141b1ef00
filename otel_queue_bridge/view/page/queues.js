// The queue table: how each queue and task did over the last 15 minutes.

import { ask, listen } from "./api.js";
import { ago, clock, count, duration, el } from "./draw.js";

const PERIOD = 3000;
const COLUMNS = ["queue", "task", "submitted/s", "wait p50", "wait p95", "run p50", "run p95", "failed", "retries", "depth", "workers", "last seen", "last 15 minutes"];

export function queues(main) {
  const body = el("tbody");
  const note = el("p", { class: "note" });
  const opened = new Set();
  let timer = null;
  let left = false;
  main.append(
    el("div", { class: "scroll" },
      el("table", { class: "queues" },
        el("thead", {}, el("tr", {}, COLUMNS.map((name) => el("th", { scope: "col" }, name)))),
        body)),
    note);

  async function refresh() {
    try {
      const found = await ask("/api/queues");
      if (left) return;
      const focused = document.activeElement?.dataset?.key;
      body.replaceChildren(...found.rows.flatMap((row) => drawn(row, found, opened)));
      if (focused) [...body.querySelectorAll("button")].find((one) => one.dataset.key === focused)?.focus();
      note.textContent = found.rows.length
        ? "A row shows metrics or spans, whichever counted more. Open one for sample traces."
        : "No task has been seen yet.";
    } catch {
      note.textContent = "The server does not answer.";
    }
    timer = setTimeout(refresh, PERIOD);
  }

  refresh();
  const close = listen("text=%00", () => {}); // for the status alone: no text has this character
  return () => {
    left = true;
    close();
    clearTimeout(timer);
  };
}

function drawn(row, found, opened) {
  const id = JSON.stringify([row.system, row.queue, row.task]);
  const samples = el("tr", { class: "samples", hidden: !opened.has(id) }, el("td", { colspan: COLUMNS.length }, sampled(row)));
  const toggle = el("button", { type: "button", class: "open", "data-key": id, "aria-expanded": String(opened.has(id)), onclick: click }, row.task);
  function click() {
    if (!opened.delete(id)) opened.add(id);
    samples.hidden = !opened.has(id);
    toggle.setAttribute("aria-expanded", String(opened.has(id)));
  }
  const failed = row.failed_percent;
  const cells = [
    [el("span", { class: "system" }, row.system), " ", row.queue],
    [toggle],
    [row.submitted ? perSecond(row.submitted_per_s) : "0"],
    ...["wait_p50_ms", "wait_p95_ms", "run_p50_ms", "run_p95_ms"].map((name) => [duration(row[name])]),
    [failed === null ? "–" : el("span", { class: failed ? "error" : "" }, `${Number(failed.toFixed(1))} %`)],
    [String(row.retried)],
    [row.depth === null ? "–" : String(row.depth)],
    [row.workers === null ? "–" : String(row.workers)],
    [ago(row.last_seen_ms, found.now_ms)],
    [plot("submitted", row.series.submitted, row.series.failed), plot("wait p95", row.series.wait_p95_ms)],
  ];
  return [el("tr", {}, cells.map((cell, index) => el("td", { class: index > 1 && index < 11 ? "number" : "" }, cell))), samples];
}

function perSecond(rate) {
  return rate >= 0.1 ? String(Number(rate.toPrecision(2))) : `${Number((rate * 60).toPrecision(2))}/min`;
}

function sampled(row) {
  if (!row.samples.length) return "No trace of it has arrived: it may not be sampled.";
  return el("ul", {}, row.samples.map((sample) => el("li", {},
    el("a", { href: `#/trace/${sample.trace_id}` }, `${clock(sample.start_ms)} · ${sample.why} · ran ${duration(sample.duration_ms)}`),
    sample.task_id ? el("code", {}, ` ${sample.task_id}`) : "")));
}

// Bars for counts, failed ones in red on top of them.
function plot(title, values, failed = []) {
  const most = Math.max(...values.map((value) => value ?? 0), 0);
  const svg = svgElement("svg", { class: "plot", viewBox: "0 0 120 24", role: "img", "aria-label": `${title}, at most ${title.includes("wait") ? duration(most) : count(most, "task")} in a step` });
  const width = 120 / values.length;
  values.forEach((value, index) => {
    for (const [amount, kind] of [[value, "all"], [failed[index], "bad"]]) {
      if (!amount) continue;
      const height = Math.max((22 * amount) / most, 1.5);
      svg.append(svgElement("rect", { class: kind, x: index * width, y: 24 - height, width: width - 0.3, height }));
    }
  });
  return el("figure", {}, svg, el("figcaption", {}, title));
}

function svgElement(tag, attributes) {
  const element = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  return element;
}
