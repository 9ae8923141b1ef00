// The list of traces: live, newest first, filtered.

import { ask, follow } from "./api.js";
import { clock, colour, count, duration, el, many, mark } from "./draw.js";
import { howToSend } from "./help.js";

const MOST = 200;
const TYPING = 300;
const SERVICES = 2;
const STATUSES = ["error", "pending", "success", "failure", "retry", "cancelled", "rejected", "ignored"];
const CHOICES = { system: "systems", queue: "queues", task: "tasks", service: "services" };

export function traces(main, parameters) {
  let rows = new Map();
  let held = new Map();
  let paused = false;
  let drawing = null;
  let typing = null;
  let status = null;
  let explained = null;
  let refused = "";
  let leave = () => {};
  const list = el("ol", { class: "traces", "aria-label": "Traces" });
  const note = el("p", { class: "note" });
  const help = el("section", { class: "help" });
  const form = filters(parameters, () => {
    clearTimeout(typing);
    typing = setTimeout(apply, TYPING);
  });
  const clear = el("a", { class: "clear", href: "#/" }, "Clear");
  const pause = el("button", { type: "button", class: "pause", "aria-pressed": "false", onclick: toggle }, "Pause");
  const narrow = matchMedia("(max-width: 50rem)").matches;
  const bar = el("details", { class: "filter", open: !narrow || parameters.size > 0 }, el("summary", {}, "Filter"), form);
  main.append(el("div", { class: "bar-above" }, bar, clear, pause), list, note, help);

  function apply() {
    parameters = new URLSearchParams([...new FormData(form)].filter(([, value]) => value));
    history.replaceState(null, "", `#/${parameters.size ? `?${parameters}` : ""}`);
    start();
  }

  function start() {
    leave();
    clear.hidden = !parameters.size;
    leave = follow(parameters, load, changed);
  }

  async function load() {
    const asked = parameters;
    let found = { traces: [] };
    let said = "";
    try {
      found = await ask(`/api/traces?${asked}`);
    } catch (error) {
      if (!error.status) throw error;
      said = error.message;
    }
    if (asked !== parameters) return undefined;
    refused = said;
    rows = new Map(found.traces.map((row) => [row.trace_id, row]));
    held = new Map();
    draw();
    return refused ? null : found.sequence;
  }

  function toggle() {
    paused = !paused;
    if (!paused) held.forEach((row, id) => rows.set(id, row));
    if (!paused) held = new Map();
    pause.setAttribute("aria-pressed", String(paused));
    draw();
  }

  function changed(row) {
    (paused ? held : rows).set(row.trace_id, row);
    draw();
  }

  // Soon, and once for all that arrive together.
  function draw() {
    drawing ??= setTimeout(() => {
      drawing = null;
      show();
    }, 30);
  }

  function show() {
    const newest = [...rows.values()].sort((a, b) => b.start_ms - a.start_ms);
    for (const row of newest.splice(MOST)) rows.delete(row.trace_id);
    const focused = document.activeElement?.closest?.(".traces li")?.dataset.trace;
    const known = new Map([...list.children].map((item) => [item.dataset.key, item]));
    list.replaceChildren(...newest.map((row) => known.get(key(row)) ?? item(row)));
    if (focused) list.querySelector(`[data-trace="${focused}"] a`)?.focus({ preventScroll: true });
    list.hidden = !newest.length;
    pause.textContent = paused ? (held.size ? `Resume · ${held.size} new` : "Resume") : "Pause";
    note.textContent = refused || (newest.length === MOST ? `The newest ${MOST} are shown. A filter finds older ones.` : "");
    explain();
  }

  function explain() {
    help.hidden = rows.size > 0;
    if (help.hidden || !status) return;
    const wanted = parameters.size || status.traces ? "filtered" : `refused ${status.rejected.count}`;
    if (wanted === explained) return;
    explained = wanted;
    help.replaceChildren(...(wanted === "filtered" ? nothingMatches() : howToSend(status)));
  }

  function heard(event) {
    status = event.detail;
    for (const [name, found] of Object.entries(CHOICES)) fill(form.elements[name], status[found], parameters.get(name));
    main.classList.toggle("empty", !status.traces && !parameters.size);
    if (parameters.get("status") === "pending") load().catch(() => {}); // nobody tells of what matches no more
    draw();
  }

  document.addEventListener("status", heard);
  ask("/api/status").then((found) => heard({ detail: found }), () => {});
  start();
  return () => {
    leave();
    clearTimeout(drawing);
    clearTimeout(typing);
    document.removeEventListener("status", heard);
    main.classList.remove("empty");
  };
}

// What looks the same is the same.
const key = (row) => JSON.stringify(row);

function item(row) {
  const named = row.services.length > SERVICES + 1 ? row.services.slice(0, SERVICES) : row.services;
  const services = named.map((name) => el("span", { class: "service", "--colour": colour(name) }, name || "without a name"));
  if (named !== row.services) services.push(el("span", { title: row.services.join(", ") }, `+ ${row.services.length - SERVICES}`));
  const sizes = [row.tasks ? count(row.tasks, "task") : "", count(row.spans, "span")].filter(Boolean).join(" · ");
  return el("li", { "data-key": key(row), "data-trace": row.trace_id, class: row.errors ? "failed" : "" },
    el("a", { href: `#/trace/${row.trace_id}` },
      el("time", {}, clock(row.start_ms)),
      el("span", { class: "what" }, el("span", { class: "name" }, row.name || "without a name"), marks(row)),
      el("span", { class: "services" }, services),
      el("span", { class: "sizes" }, sizes),
      el("span", { class: "time" }, duration(row.duration_ms))));
}

const nothingMatches = () => [el("h1", {}, "No trace matches"), el("p", {}, el("a", { href: "#/" }, "Show all traces"))];

function marks(row) {
  return [
    row.errors ? mark(row.error === "ERROR" ? count(row.errors, "error") : row.error, "error") : null,
    row.pending ? mark(`${many(row.pending)} not taken yet`, "pending") : null,
    row.retries ? mark(count(row.retries, "retry", "retries"), "retry") : null,
    row.wait_ms ? mark(`waited ${duration(row.wait_ms)}`) : null,
    row.links ? mark(count(row.links, "link")) : null,
    row.orphan ? mark("a parent is missing") : null,
  ];
}

function filters(parameters, changed) {
  const field = (name, control) => el("label", {}, name, control);
  const choice = (name) => el("select", { name }, el("option", { value: "" }, "any"));
  const text = (name, more = {}) => el("input", { name, type: "search", value: parameters.get(name) ?? "", ...more });
  const form = el("form", { class: "filters", role: "search", oninput: changed, onsubmit: (event) => event.preventDefault() },
    ...Object.keys(CHOICES).map((name) => field(name, choice(name))),
    field("status", choice("status")),
    field("at least", text("min_ms", { type: "number", min: 0, step: 1, placeholder: "ms" })),
    field("text", text("text", { placeholder: "name, error …" })),
    field("id", text("id", { placeholder: "task or trace id" })));
  fill(form.elements.status, STATUSES, parameters.get("status"));
  return form;
}

function fill(select, values, chosen) {
  const wanted = chosen && !values.includes(chosen) ? [chosen, ...values] : values;
  const shown = [...select.options].slice(1).map((option) => option.value);
  if (shown.join("\n") === wanted.join("\n")) return;
  select.replaceChildren(el("option", { value: "" }, "any"), ...wanted.map((value) => el("option", { value }, value || "(none)")));
  select.value = chosen ?? "";
}
