// One trace: what is said above its waterfall, the time axis, and how both stay up to date.

import { ask, follow } from "./api.js";
import { ago, clock, colour, count, duration, el } from "./draw.js";
import { readRows, readSpans } from "./otlp.js";
import { drawRow, share } from "./waterfall.js";

const PAUSE = 300;
const SECOND = 1000;

export function trace(main, id, parameters) {
  const opened = new Set();
  const folded = new Set();
  const view = { from: 0, to: 1 };
  const wanted = parameters.get("span");
  let left = false;
  let timer = null;
  let shown = null;
  let arrived = 0;

  async function load() {
    try {
      const context = await ask(`/api/traces/${encodeURIComponent(id)}/context`);
      const document_ = await ask(`/api/traces/${encodeURIComponent(id)}`);
      if (!left) take(readSpans(document_), context);
      return context.row.sequence;
    } catch (error) {
      if (!error.status) throw error;
      if (!left) main.replaceChildren(...absent(id));
      return undefined;
    }
  }

  function take(spans, context) {
    const first = !shown;
    const begin = Math.min(...spans.map((span) => span.start));
    const length = Math.max(Math.max(...spans.map((span) => span.end)) - begin, 0.001);
    arrived = performance.now();
    shown = { spans, context, begin, length, opened, folded, view, wanted, redraw: draw, now: () => context.now_ms + performance.now() - arrived };
    spans.sort((a, b) => a.start - b.start);
    document.title = `${context.row.name || "Trace"} · otel-queue-bridge`;
    if (first && wanted) opened.add(wanted);
    draw();
    if (first && wanted) main.querySelector(".wanted")?.scrollIntoView({ block: "center" });
  }

  function draw() {
    const focused = document.activeElement?.dataset?.key;
    const rows = el("div", { class: "rows", onkeydown: walk });
    const roots = readRows(shown.spans);
    rows.append(...visible(roots, folded).flatMap((row) => drawRow(row, shown)));
    main.replaceChildren(heading(shown), axis(shown, rows, roots), rows);
    const again = focused && [...main.querySelectorAll("[data-key]")].find((one) => one.dataset.key === focused);
    if (again) again.focus({ preventScroll: true });
  }

  function tick() {
    for (const one of main.querySelectorAll("[data-since]")) one.textContent = ago(Number(one.dataset.since), shown.now());
  }

  const leave = follow(`id=${encodeURIComponent(id)}`, load, () => {
    timer ??= setTimeout(() => {
      timer = null;
      load().catch(() => {}); // then the events end, too
    }, PAUSE);
  });
  const ticking = setInterval(tick, SECOND);
  return () => {
    left = true;
    clearTimeout(timer);
    clearInterval(ticking);
    leave();
  };
}

function absent(id) {
  return [
    el("h1", {}, "This trace is not held"),
    el("p", {}, `Nothing of ${id} has arrived, or it was dropped to make room. If it arrives, it appears here.`),
    el("p", {}, el("a", { href: "#/" }, "All traces")),
  ];
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

function heading({ spans, context, length, begin }) {
  const { row } = context;
  const facts = [clock(begin), duration(length), count(spans.length, "span"), row.tasks ? count(row.tasks, "task") : ""].filter(Boolean).join(" · ");
  const services = [...new Set(spans.map((span) => span.service))];
  const legend = [
    ...services.map((name) => el("li", { class: "service", "--colour": colour(name) }, name || "without a name")),
    row.tasks ? el("li", { class: "service waiting" }, "waiting in the queue") : "",
  ];
  return el("header", { class: "about-trace" },
    el("h1", {}, row.name || "Trace"),
    el("p", {}, `${facts} · trace `, el("code", {}, row.trace_id), " · ", el("a", { href: `/api/traces/${row.trace_id}`, target: "_blank" }, "OTLP JSON")),
    related(context),
    el("ul", { class: "legend" }, legend));
}

// The traces at the other ends of links, one click away.
function related({ linked_to: to, linked_from: from }) {
  const out = Object.entries(to).map(([id, other]) => (other
    ? el("a", { href: `#/trace/${id}` }, `→ ${other.name || id}`)
    : el("span", {}, `→ trace ${id.slice(0, 8)}…, which is not held here`)));
  const back = from.map((link) => el("a", { href: `#/trace/${link.trace_id}?span=${link.span_id}` }, `← ${link.name}`));
  const found = [["links to", out], ["linked from", back]].filter(([, links]) => links.length);
  return found.length ? el("p", { class: "related" }, found.flatMap(([words, links]) => [`${words} `, ...links])) : "";
}

function axis(shown, rows, roots) {
  const { view, length, folded, redraw } = shown;
  const width = view.to - view.from;
  const track = el("div", { class: "track", title: "Drag to zoom in" });
  const step = tickOf(length * width);
  for (let at = Math.ceil((view.from * length) / step) * step; at < (view.to - width * 0.06) * length; at += step) {
    track.append(el("span", { "--from": share((at / length - view.from) / width) }, at ? duration(at) : "0"));
  }
  rows.style.setProperty("--tick", share(step / (length * width)));
  rows.style.setProperty("--shift", share(((-view.from * length) % step) / (length * width)));
  const zoom = (from, to) => {
    const all = to - from < 1e-5 || to - from >= 1;
    Object.assign(view, all ? { from: 0, to: 1 } : { from: Math.max(from, 0), to: Math.min(to, 1) });
    redraw();
  };
  const below = roots.flatMap((root) => [root, ...root.children]).filter((row) => row.children.length && row.depth > 0);
  const fold = () => {
    if (folded.size) folded.clear();
    else below.forEach((row) => folded.add(row.key));
    redraw();
  };
  const button = (text, label, act) => el("button", { type: "button", "aria-label": label, title: label, "data-key": label, onclick: act }, text);
  dragging(track, (a, b) => zoom(view.from + a * width, view.from + b * width));
  return el("div", { class: "axis" },
    el("div", { class: "tools" },
      button("+", "Zoom in", () => zoom(view.from + width / 4, view.to - width / 4)),
      button("−", "Zoom out", () => zoom(view.from - width / 2, view.to + width / 2)),
      width < 1 ? button("Reset", "Show all of it", () => zoom(0, 1)) : "",
      folded.size || below.length ? button(folded.size ? "Unfold" : "Fold", folded.size ? "Show all rows" : "Hide what is below each row", fold) : ""),
    track);
}

// Mark a stretch of the axis with the pointer.
function dragging(track, chosen) {
  let begin = null;
  const band = el("i", { class: "band", hidden: true });
  track.append(band);
  const stretch = (event) => {
    const box = track.getBoundingClientRect();
    const at = (x) => Math.min(Math.max((x - box.left) / box.width, 0), 1);
    return [at(begin), at(event.clientX)].sort((a, b) => a - b);
  };
  track.addEventListener("pointerdown", (event) => {
    begin = event.clientX;
    track.setPointerCapture(event.pointerId);
  });
  track.addEventListener("pointermove", (event) => {
    if (begin === null) return;
    const [from, to] = stretch(event);
    band.hidden = false;
    band.style.setProperty("--from", share(from));
    band.style.setProperty("--width", share(to - from));
  });
  track.addEventListener("pointerup", (event) => {
    const [from, to] = stretch(event);
    begin = null;
    band.hidden = true;
    if (to - from > 0.01) chosen(from, to);
  });
}

// 1, 2 or 5 of a decimal unit, so that about five fit.
function tickOf(length) {
  const unit = 10 ** Math.floor(Math.log10(length / 5));
  return [1, 2, 5, 10].map((step) => step * unit).find((step) => step >= length / 5);
}

// Arrow keys: up and down between rows, left and right to fold and unfold.
function walk(event) {
  const line = event.target.closest(".row");
  if (!line) return;
  const lines = [...line.parentElement.querySelectorAll(".row")];
  const at = lines.indexOf(line);
  const fold = line.querySelector("button.fold");
  if (event.key === "ArrowDown") lines[at + 1]?.querySelector(".toggle").focus();
  else if (event.key === "ArrowUp") lines[at - 1]?.querySelector(".toggle").focus();
  else if (event.key === "ArrowLeft" && fold?.getAttribute("aria-expanded") === "true") fold.click();
  else if (event.key === "ArrowRight" && fold?.getAttribute("aria-expanded") === "false") fold.click();
  else return;
  event.preventDefault();
}
