// Elements, and how numbers are written. Text is only ever set as text.

export function el(tag, properties = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (value === false || value === null || value === undefined) continue;
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (name.startsWith("--")) element.style.setProperty(name, value);
    else element.setAttribute(name, value === true ? "" : value);
  }
  element.append(...children.flat().filter((child) => child !== null && child !== undefined && child !== ""));
  return element;
}

export function svg(tag, attributes, ...children) {
  const element = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  element.append(...children);
  return element;
}

export const mark = (text, kind = "", title = null) => el("span", { class: `mark ${kind}`, title }, text);

const UNITS = [["h", 3600e3], ["min", 60e3], ["s", 1e3], ["ms", 1], ["µs", 1e-3]];

export function duration(ms) {
  if (ms === null || ms === undefined) return "–";
  if (!(ms > 0)) return "0 ms";
  const [unit, size] = UNITS.find(([, least]) => ms >= least) ?? UNITS.at(-1);
  return `${Number((ms / size).toPrecision(3))} ${unit}`;
}

// The time of day, and the day if it is another one.
export function clock(ms) {
  const date = new Date(ms);
  const time = date.toLocaleTimeString([], { hourCycle: "h23" });
  if (date.toDateString() === new Date().toDateString()) return time;
  return `${date.toLocaleDateString([], { day: "numeric", month: "short" })} ${time}`;
}

export function ago(ms, now) {
  const passed = now - ms;
  const [unit, size] = UNITS.find(([, least]) => passed >= least) ?? [];
  return passed < 1000 ? "just now" : `${Math.floor(passed / size)} ${unit} ago`;
}

export const many = (number) => Number(number.toFixed(1)).toLocaleString("en");
export const count = (number, one, several = `${one}s`) => `${many(number)} ${number === 1 ? one : several}`;

// The last part of `shop.gateway.CardDeclined`.
export const short = (type) => String(type).split(".").at(-1);

const COLOURS = ["#4c82ee", "#e0862b", "#23a28e", "#9a6cf0", "#e0609b", "#8f9f30", "#3aa0c9", "#b5794a"];
const chosen = new Map();

// A service has one colour as long as the page is open.
export function colour(service) {
  if (!chosen.has(service)) chosen.set(service, COLOURS[chosen.size % COLOURS.length]);
  return chosen.get(service);
}

export function copyable(text) {
  const pre = el("pre", {}, text);
  const button = el("button", { type: "button", onclick: copy }, "Copy");
  async function copy() {
    try {
      await navigator.clipboard.writeText(text);
      button.textContent = "Copied";
    } catch {
      getSelection().selectAllChildren(pre); // where a page may not write: select it for Ctrl-C
    }
  }
  return el("div", { class: "copyable" }, pre, button);
}
