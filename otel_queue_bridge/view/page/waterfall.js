// A row of the waterfall: one task with all its attempts, or one other span.

import { SIDE_BY_SIDE, describe } from "./details.js";
import { ago, colour, count, duration, el, mark, short } from "./draw.js";
import { errorOf, messageOf, waitOf } from "./otlp.js";

const CHIPS = 3;
const EDGE = 0.997;
const PATIENCE = 30e3;
const LINKS = 2;

export const share = (value) => `${(value * 100).toFixed(3)}%`;

// The row's line, and what opens below it.
export function drawRow(row, shown) {
  const { opened, folded, redraw, wanted } = shown;
  const isOpen = opened.has(row.key) || row.spans.some((span) => opened.has(span.id));
  const details = el("div", { class: row.spans.length > SIDE_BY_SIDE ? "details stacked" : "details", hidden: !isOpen, "--depth": row.depth }, isOpen ? describe(row, shown) : "");
  const toggle = el("button", { type: "button", class: "toggle", "data-key": row.key, "aria-expanded": String(isOpen), onclick: open }, el("span", { class: "name", title: row.title }, row.title));

  function open() {
    const now = details.hidden;
    row.spans.forEach((span) => opened.delete(span.id));
    if (now) opened.add(row.key);
    else opened.delete(row.key);
    details.replaceChildren(...(now ? describe(row, shown) : []));
    details.hidden = !now;
    toggle.setAttribute("aria-expanded", String(now));
  }

  function fold() {
    if (!folded.delete(row.key)) folded.add(row.key);
    redraw();
  }

  function clicked(event) {
    if (!event.target.closest("a, button")) open();
  }

  const isFolded = folded.has(row.key);
  const folder = row.children.length
    ? el("button", { type: "button", class: "fold", "data-key": `fold ${row.key}`, "aria-expanded": String(!isFolded), "aria-label": `What is below ${row.title}`, onclick: fold }, isFolded ? `+${below(row)}` : "−")
    : "";
  const classes = ["row", failure(row) ? "failed" : "", row.attempts?.length > 1 ? "several" : "", row.spans.some((span) => span.id === wanted) ? "wanted" : ""];
  const line = el("div", { class: classes.filter(Boolean).join(" "), "--depth": row.depth, "--colour": colour(row.spans.at(-1).service), onclick: clicked },
    el("div", { class: "label" }, toggle, folder, el("span", { class: "marks" }, marks(row, shown))),
    el("div", { class: "track" }, segments(row, shown)),
    el("div", { class: "time", title: row.task ? "from its submit to its end" : null }, duration(end(row) - row.spans[0].start)));
  return [line, details];
}

const end = (row) => Math.max(...row.spans.map((span) => span.end));

function below(row) {
  let found = 0;
  for (const pending = [...row.children]; pending.length; found += 1) pending.push(...pending.pop().children);
  return found;
}

// The span because of which the row stands out.
const failure = (row) => (row.task ? row.attempts.at(-1).failed : row.spans.find((span) => span.failed));

// What stands beside a row's name, in words.
function marks(row, shown) {
  const failed = failure(row);
  const wait = Math.max(...row.spans.map(waitOf));
  return [
    ...(row.task ? attempts(row) : []),
    failed ? mark([short(errorOf(failed)), messageOf(failed)].filter(Boolean).join(": "), "error", errorOf(failed)) : null,
    row.task ? missing(row, shown) : null,
    wait ? mark(`waited ${duration(wait)}`, "plain") : null,
    ...links(row, shown),
    batch(row),
    row.orphan ? mark(shown.now() - end(row) < PATIENCE ? "its parent has not arrived yet" : "its parent never arrived", "pending") : null,
    logs(row, shown),
    row.task && row.attempts.length === 1 ? mark(String(row.spans[0].attributes["messaging.system"] ?? ""), "plain") : null,
  ];
}

function attempts({ attempts: all }) {
  const shown = all.length > CHIPS ? all.slice(-1) : all;
  const chips = shown.filter((one) => one.status).map((one) => {
    const words = all.length > 1 || one.number > 1 ? `attempt ${one.number} · ${one.status}` : one.status;
    const kind = one.status === "retry" ? "retry" : one.failed ? "error" : one.status === "success" ? "good" : "";
    return mark(words, kind, one.failed ? errorOf(one.failed) : null);
  });
  return all.length > CHIPS ? [mark(count(all.length, "attempt"), "retry"), ...chips] : chips;
}

function missing(row, shown) {
  const { submit, dispatch, execute } = row.attempts.at(-1);
  if (!submit || submit.failed || leading(row, shown.context).length) return null;
  if (execute || (dispatch && shown.now() - dispatch.end < PATIENCE)) return null;
  if (dispatch) return mark("dispatched, but nothing of its run has arrived", "pending");
  return el("span", { class: "mark pending" }, "submitted ", el("span", { "data-since": submit.end }, ago(submit.end, shown.now())), ", nothing has dispatched it");
}

const leading = (row, context) => context.linked_from.filter((link) => row.spans.some((span) => span.id === link.to_span_id));

function links(row, { context }) {
  const out = row.spans.flatMap((span) => span.links);
  const back = leading(row, context);
  if (out.length + back.length > LINKS) return [mark(count(out.length + back.length, "link"))];
  return [
    ...out.map((link) => (context.linked_to[link.trace]
      ? el("a", { class: "mark link", href: `#/trace/${link.trace}?span=${link.span}` }, `→ ${context.linked_to[link.trace].name || "trace"}`)
      : mark("→ a trace not held here"))),
    ...back.map((link) => el("a", { class: "mark link", href: `#/trace/${link.trace_id}?span=${link.span_id}` }, `← ${link.name}`)),
  ];
}

function batch(row) {
  const size = row.spans.map((span) => span.attributes["messaging.batch.message_count"]).find(Boolean);
  return size ? mark(`a batch of ${size}`) : null;
}

function logs(row, { context }) {
  const found = context.logs.filter((log) => row.spans.some((span) => span.id === log.span_id)).length;
  return found ? mark(count(found, "log line")) : null;
}

function segments(row, shown) {
  const { begin, length, view } = shown;
  const place = (time) => ((time - begin) / length - view.from) / (view.to - view.from);
  const segment = (kind, from, to, words, service) => {
    if (place(to) < 0 || place(from) > 1) return null;
    const start = Math.min(Math.max(place(from), 0), EDGE);
    const width = Math.max(Math.min(place(to), 1) - start, 0);
    return el("span", { class: `segment ${kind}`, "--from": share(start), "--width": share(width), "--colour": colour(service), title: words });
  };
  const drawn = row.spans.flatMap((span) => {
    const wait = span.step ? waitOf(span) : 0;
    const kind = `${span.step || "span"}${span.failed ? " failed" : ""}`;
    return [
      wait ? segment("wait", span.start - wait, span.start, `waited ${duration(wait)}`, span.service) : null,
      segment(kind, span.start, span.end, `${span.step || span.name}: ${duration(span.end - span.start)}`, span.service),
    ];
  });
  const { submit, dispatch, execute } = row.attempts?.at(-1) ?? {};
  if (submit && !dispatch && !execute && missing(row, shown)) drawn.push(segment("wait open", submit.end, begin + length, "waiting", submit.service));
  return drawn.filter(Boolean);
}
