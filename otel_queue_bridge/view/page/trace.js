// One trace: a waterfall in which a task is one row.

import { ask, listen } from "./api.js";
import { ago, clock, colours, count, duration, el } from "./draw.js";
import { readRows, readSpans, waitOf } from "./otlp.js";

const PAUSE = 300;

export function trace(main, id, parameters) {
  const opened = new Set();
  const folded = new Set();
  const view = { from: 0, to: 1 };
  let left = false;
  let timer = null;
  let close = () => {};

  async function refresh() {
    timer = null;
    try {
      const [document_, context] = await Promise.all([ask(`/api/traces/${id}`), ask(`/api/traces/${id}/context`)]);
      if (!left) draw(readSpans(document_), context);
    } catch (error) {
      if (!left) main.replaceChildren(el("p", { class: "error" }, `${error.message}. It may have been dropped to make room.`), el("p", {}, el("a", { href: "#/" }, "All traces")));
    }
  }

  function draw(spans, context) {
    const focused = document.activeElement?.dataset?.key;
    const begin = Math.min(...spans.map((span) => span.start));
    const length = Math.max(Math.max(...spans.map((span) => span.end)) - begin, 0.001);
    const services = colours([...new Set([...spans].sort((a, b) => a.start - b.start).map((span) => span.service))]);
    const shown = { spans, context, begin, length, services, opened, folded, view, redraw: () => draw(spans, context) };
    const rows = el("div", { class: "rows", role: "tree", "aria-label": "Spans" });
    rows.append(...visible(readRows(spans), folded).flatMap((row) => drawRow(row, shown)));
    main.replaceChildren(heading(shown, services), axis(shown, rows), rows);
    const again = focused && [...main.querySelectorAll("[data-key]")].find((one) => one.dataset.key === focused);
    if (again) again.focus({ preventScroll: true });
  }

  const wanted = parameters.get("span");
  if (wanted) opened.add(wanted);
  refresh().then(() => {
    if (left) return;
    document.getElementById(`span-${wanted}`)?.scrollIntoView({ block: "center" });
    close = listen(`id=${id}`, () => (timer ??= setTimeout(refresh, PAUSE)));
  });
  return () => {
    left = true;
    clearTimeout(timer);
    close();
  };
}

// The rows in order, with their depth, without those below a folded one.
function visible(roots, folded) {
  const found = [];
  const pending = roots.map((row) => [row, 0]).reverse();
  while (pending.length) {
    const [row, depth] = pending.pop();
    row.depth = depth;
    found.push(row);
    if (!folded.has(row.key)) pending.push(...row.children.map((child) => [child, depth + 1]).reverse());
  }
  return found;
}

function heading({ spans, context, length, begin }, services) {
  const facts = [clock(begin), duration(length), count(spans.length, "span"), count(context.row.tasks, "task"), `trace ${context.row.trace_id}`];
  const related = [...new Map([
    ...Object.entries(context.linked_to).map(([id, other]) => [id, other && `linked to ${other.name}`]),
    ...context.linked_from.map((link) => [link.trace_id, `linked from ${link.name}`]),
  ])].filter(([, text]) => text);
  return el("header", { class: "about-trace" },
    el("h1", {}, context.row.name || "Trace"),
    el("p", {}, facts.join(" · ")),
    related.length ? el("p", {}, related.flatMap(([id, text]) => [el("a", { href: `#/trace/${id}` }, text), " "])) : "",
    el("ul", { class: "legend" }, [...services].map(([name, colour]) => el("li", { "--colour": colour }, name || "without a name"))));
}

function axis(shown, rows) {
  const { view, length, redraw } = shown;
  const track = el("div", { class: "track" });
  const width = view.to - view.from;
  const step = tick(length * width);
  for (let at = Math.ceil((view.from * length) / step) * step; at < view.to * length - step * 0.3; at += step) {
    track.append(el("span", { "--from": share((at / length - view.from) / width) }, at ? duration(at) : "0"));
  }
  rows.style.setProperty("--tick", share(step / (length * width)));
  const zoom = (from, to) => {
    Object.assign(view, to - from < 1e-6 ? { from: 0, to: 1 } : { from: Math.max(from, 0), to: Math.min(to, 1) });
    redraw();
  };
  const button = (text, label, from, to) => el("button", { type: "button", "aria-label": label, "data-key": label, onclick: () => zoom(from, to) }, text);
  dragging(track, (a, b) => zoom(view.from + a * width, view.from + b * width));
  return el("div", { class: "axis" },
    el("div", { class: "zoom" },
      button("+", "Zoom in", view.from + width / 4, view.to - width / 4),
      button("−", "Zoom out", view.from - width / 2, view.to + width / 2),
      button("All", "Show all", 0, 1)),
    track);
}

// Mark a stretch of the axis with the mouse.
function dragging(track, chosen) {
  let begin = null;
  const place = (event) => {
    const box = track.getBoundingClientRect();
    return Math.min(Math.max((event.clientX - box.left) / box.width, 0), 1);
  };
  track.addEventListener("pointerdown", (event) => {
    begin = place(event);
    track.setPointerCapture(event.pointerId);
  });
  track.addEventListener("pointerup", (event) => {
    const [from, to] = [begin, place(event)].sort((a, b) => a - b);
    if (to - from > 0.01) chosen(from, to);
    begin = null;
  });
}

// 1, 2 or 5 of a decimal unit, so that about five fit.
function tick(length) {
  const unit = 10 ** Math.floor(Math.log10(length / 5));
  return [1, 2, 5, 10].map((step) => step * unit).find((step) => step >= length / 5);
}

const share = (value) => `${(value * 100).toFixed(3)}%`;

function drawRow(row, shown) {
  const { opened, folded, services, redraw } = shown;
  const [first] = row.spans;
  const last = row.attempts?.at(-1);
  const isOpen = opened.has(row.key) || row.spans.some((span) => opened.has(span.id));
  const failed = row.task ? Boolean(last.error) : first.failed;
  const details = el("div", { class: "details", hidden: !isOpen, "--depth": row.depth });
  if (isOpen) details.append(...describe(row, shown));
  const toggle = el("button", { type: "button", class: "toggle", id: `span-${first.id}`, "data-key": row.key, "aria-expanded": String(isOpen), onclick: click },
    el("span", { class: "name" }, title(row)), el("span", { class: "marks" }, marks(row, shown)));
  function click() {
    const open = details.hidden;
    row.spans.forEach((span) => opened.delete(span.id));
    if (open) opened.add(row.key);
    else opened.delete(row.key);
    if (open && !details.childElementCount) details.append(...describe(row, shown));
    details.hidden = !open;
    toggle.setAttribute("aria-expanded", String(open));
  }
  const fold = row.children.length
    ? el("button", { type: "button", class: "fold", "data-key": `fold ${row.key}`, "aria-expanded": String(!folded.has(row.key)), "aria-label": `${folded.has(row.key) ? "Show" : "Hide"} what is below ${title(row)}`, onclick: () => {
      if (!folded.delete(row.key)) folded.add(row.key);
      redraw();
    } })
    : el("span", { class: "fold" });
  const line = el("div", { class: `row${failed ? " failed" : ""}`, role: "treeitem", "aria-level": row.depth + 1, "--depth": row.depth, "--colour": services.get(row.spans.at(-1).service) },
    el("div", { class: "label" }, fold, toggle),
    el("div", { class: "track" }, segments(row, shown)),
    el("div", { class: "time" }, duration(Math.max(...row.spans.map((span) => span.end)) - first.start)));
  return [line, details];
}

function title(row) {
  const [span] = row.spans;
  return row.task ? String(row.spans.map((one) => one.attributes["task.name"]).find(Boolean) ?? span.name) : span.name;
}

// What stands beside a row's name, in words.
function marks(row, { spans, context }) {
  const [first] = row.spans;
  const mark = (text, kind = "") => el("span", { class: `mark ${kind}` }, text);
  const found = [];
  if (row.task) {
    found.push(mark(String(first.attributes["messaging.system"] ?? ""), "system"));
    for (const attempt of row.attempts) {
      const several = row.attempts.length > 1 || attempt.number > 1;
      const words = [several ? `attempt ${attempt.number}` : "", attempt.status, attempt === row.attempts.at(-1) ? short(attempt.error) : ""];
      const text = words.filter(Boolean).join(" · ");
      const kind = attempt.status === "retry" ? "retry" : attempt.error ? "error" : "status";
      if (text) found.push(el("span", { class: `mark ${kind}`, title: attempt.error }, text));
    }
    const wait = Math.max(...row.spans.map(waitOf));
    if (wait) found.push(mark(`waited ${duration(wait)}`));
    found.push(missing(row, context, mark));
  } else if (first.failed) {
    found.push(mark(short(String(first.attributes["error.type"] ?? "error")), "error"));
  }
  if (row.orphan) found.push(mark("its parent never arrived"));
  const links = row.spans.reduce((sum, span) => sum + span.links.length, 0) + leading(row, context).length;
  if (links) found.push(mark(count(links, "link")));
  const logs = context.logs.filter((log) => row.spans.some((span) => span.id === log.span_id)).length;
  if (logs) found.push(mark(count(logs, "log line")));
  return found;
}

const short = (type) => type.split(".").at(-1);
const leading = (row, context) => context.linked_from.filter((link) => row.spans.some((span) => span.id === link.to_span_id));

function missing(row, context, mark) {
  const last = row.attempts.at(-1);
  if (!last.submit || last.dispatch || last.execute || last.submit.failed || leading(row, context).length) return null;
  return mark(`submitted ${ago(last.submit.end, context.now_ms)}, nothing has dispatched it`, "pending");
}

function segments(row, { begin, length, view, services }) {
  const place = (time) => ((time - begin) / length - view.from) / (view.to - view.from);
  const segment = (kind, start, end, label, colour) => {
    const from = Math.min(Math.max(place(start), 0), 0.997);
    const to = Math.min(Math.max(place(end), 0), 1);
    if (place(end) < 0 || place(start) > 1) return null;
    return el("span", { class: kind, "--from": share(from), "--width": share(Math.max(to - from, 0)), "--colour": colour, title: `${label}: ${duration(end - start)}` });
  };
  return row.spans.flatMap((span) => {
    const wait = span.step === "execute" || span.step === "dispatch" ? waitOf(span) : 0;
    return [
      wait ? segment("segment wait", span.start - wait, span.start, "waited", services.get(span.service)) : null,
      segment(`segment ${span.step || "span"}${span.failed ? " failed" : ""}`, span.start, span.end, span.step || span.name, services.get(span.service)),
    ];
  }).filter(Boolean);
}

function describe(row, shown) {
  return row.spans.map((span) => {
    const facts = el("dl");
    const fact = (name, ...value) => facts.append(el("dt", {}, name), el("dd", {}, ...value));
    const { context } = shown;
    if (span.message) fact("status", span.message);
    for (const name of Object.keys(span.attributes).sort()) fact(name, text(span.attributes[name]));
    for (const link of span.links) fact("linked to", anchor(link.trace, link.span, context));
    for (const link of context.linked_from.filter((one) => one.to_span_id === span.id)) {
      fact("linked from", el("a", { href: `#/trace/${link.trace_id}?span=${link.span_id}` }, link.name), ` · ${clock(link.start_ms)}`);
    }
    fact("began", `${clock(span.start)}, ${duration(span.start - shown.begin)} after the trace`);
    fact("span", span.id);
    fact("parent", span.parent ? `${span.parent}${shown.spans.some((one) => one.id === span.parent) ? "" : " (it never arrived)"}` : "none");
    if (span.scope) fact("scope", span.scope);
    const asked = shown.opened.has(span.id);
    return el("details", { open: asked || span.failed || span === row.spans.at(-1) },
      el("summary", {}, el("span", { class: "swatch", "--colour": shown.services.get(span.service) }), span.name, el("small", {}, ` ${[span.kind, span.service, duration(span.end - span.start)].filter(Boolean).join(" · ")}`)),
      span.events.map((event) => drawEvent(event, span)),
      context.logs.filter((log) => log.span_id === span.id).map((log) => el("p", { class: "log" }, el("time", {}, clock(log.time_ms)), ` ${log.severity} `, el("span", {}, log.body))),
      facts);
  });
}

function drawEvent(event, span) {
  const { "exception.stacktrace": stack, "exception.type": type, "exception.message": message, ...rest } = event.attributes;
  const said = [type, message].filter(Boolean).join(": ") || event.name;
  return el("div", { class: type ? "event error" : "event" },
    el("p", {}, `${said} `, el("small", {}, `after ${duration(event.time - span.start)}`)),
    stack ? el("pre", {}, stack) : "",
    Object.keys(rest).length ? el("p", { class: "note" }, Object.entries(rest).map(([name, value]) => `${name}=${text(value)}`).join(" · ")) : "");
}

function anchor(trace, span, context) {
  const known = context.linked_to[trace];
  return known ? el("a", { href: `#/trace/${trace}?span=${span}` }, known.name || trace) : `trace ${trace}, which is not held here`;
}

const text = (value) => (typeof value === "string" ? value : JSON.stringify(value));
