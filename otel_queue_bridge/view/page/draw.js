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

const UNITS = [["h", 3600e3], ["min", 60e3], ["s", 1e3], ["ms", 1], ["µs", 1e-3]];

export function duration(ms) {
  if (ms === null || ms === undefined) return "–";
  if (!(ms > 0)) return "0 ms";
  const [unit, size] = UNITS.find(([, least]) => ms >= least) ?? UNITS.at(-1);
  return `${Number((ms / size).toPrecision(3))} ${unit}`;
}

export function clock(ms) {
  return new Date(ms).toLocaleTimeString([], { hour12: false });
}

export function ago(ms, now) {
  return now - ms < 1000 ? "just now" : `${duration(Math.floor((now - ms) / 1000) * 1000)} ago`;
}

export function count(number, one, many = `${one}s`) {
  return `${Number(number.toFixed(1))} ${number === 1 ? one : many}`;
}

const COLOURS = ["#4c82ee", "#e0862b", "#23a28e", "#9a6cf0", "#e0609b", "#8f9f30", "#3aa0c9", "#b5794a"];

export function colours(names) {
  return new Map(names.map((name, index) => [name, COLOURS[index % COLOURS.length]]));
}

export function copyable(text) {
  const button = el("button", { type: "button", onclick: copy }, "Copy");
  async function copy() {
    await navigator.clipboard.writeText(text);
    button.textContent = "Copied";
  }
  return el("div", { class: "copyable" }, el("pre", {}, text), button);
}
