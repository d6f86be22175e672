// Numbers, times and elements, as people read them. Nothing here knows what is shown.

const UNITS = ["B", "KiB", "MiB", "GiB", "TiB", "PiB"];

export function bytes(value) {
  let unit = 0;
  while (value >= 1023.95 && unit < UNITS.length - 1) {
    value /= 1024;
    unit += 1;
  }
  return unit === 0 ? `${Math.round(value)} B` : `${value.toFixed(value < 100 ? 1 : 0)} ${UNITS[unit]}`;
}

export function count(value) {
  if (value < 10_000) return Math.round(value).toLocaleString("en");
  for (const [size, unit] of [[1e12, "T"], [1e9, "G"], [1e6, "M"], [1e3, "k"]]) {
    if (value >= size) return `${(value / size).toFixed(value / size < 100 ? 1 : 0)} ${unit}`;
  }
  return String(value);
}

export const exact = (value) => Math.round(value).toLocaleString("en");

export function percent(share) {
  const value = share * 100;
  return value > 0 && value < 1 ? "<1 %" : `${Math.round(value)} %`;
}

export function duration(seconds) {
  if (seconds < 1e-3) return `${Math.round(seconds * 1e6)} µs`;
  if (seconds < 1) return `${Math.round(seconds * 1e3)} ms`;
  if (seconds < 60) return `${seconds.toFixed(1)} s`;
  const minutes = Math.floor(seconds / 60);
  if (minutes < 60) return `${minutes} min ${Math.floor(seconds % 60)} s`;
  return `${Math.floor(minutes / 60)} h ${minutes % 60} min`;
}

export const clock = (ms) => new Date(ms).toLocaleTimeString("en-GB");

const SVG = "http://www.w3.org/2000/svg";
const SVG_TAGS = new Set(["svg", "g", "path", "rect", "text", "line", "title", "polyline", "circle", "defs", "marker", "tspan"]);

// An element with attributes and children. Text is always text: nothing is ever parsed as HTML.
export function el(tag, attributes = {}, ...children) {
  const node = SVG_TAGS.has(tag) ? document.createElementNS(SVG, tag) : document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value === false || value === null || value === undefined) continue;
    if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else if (name === "width_share") node.style.width = `${Math.max(0, Math.min(1, value)) * 100}%`;
    else if (name === "height_share") node.style.height = `${Math.max(0, Math.min(1, value)) * 100}%`;
    else node.setAttribute(name, value === true ? "" : value);
  }
  node.append(...children.flat(9).filter((child) => child !== null && child !== undefined && child !== false));
  return node;
}

// A sentence whose names stand between backticks.
export const words = (text) => text.split("`").map((part, index) => (index % 2 ? el("code", {}, part) : part));

// Puts `node` in the place of `old` only if it differs: focus, selection and scrolling stay where they are.
export function replace(old, node) {
  if (old.isEqualNode(node)) return;
  if (old.nodeName !== node.nodeName || old.nodeType !== 1) {
    old.replaceWith(node);
    return;
  }
  for (const { name } of [...old.attributes]) if (!node.hasAttribute(name)) old.removeAttribute(name);
  for (const { name, value } of [...node.attributes]) {
    if (old.getAttribute(name) === value) continue;
    // The page's policy allows styles that a script sets, and none that are written.
    if (name === "style") old.style.cssText = node.style.cssText;
    else old.setAttribute(name, value);
  }
  const before = [...old.childNodes];
  const after = [...node.childNodes];
  after.forEach((child, index) => {
    const known = before[index];
    if (!known) old.append(child);
    else if (known.nodeType === 3 && child.nodeType === 3) {
      if (known.data !== child.data) known.data = child.data;
    } else if (known.nodeType === 1 && child.nodeType === 1 && known.dataset.key === child.dataset.key) replace(known, child);
    else known.replaceWith(child);
  });
  before.slice(after.length).forEach((child) => child.remove());
}

// A line over time as a small picture.
export function sparkline(values, top, label) {
  const [width, height] = [120, 28];
  const step = width / Math.max(1, values.length - 1);
  const y = (value) => (height - 1 - (Math.min(value, top) / Math.max(top, 1e-9)) * (height - 2)).toFixed(1);
  const points = values.map((value, index) => `${(index * step).toFixed(1)},${y(value)}`).join(" ");
  return el("svg", { class: "spark", viewBox: `0 0 ${width} ${height}`, preserveAspectRatio: "none", role: "img", "aria-label": label },
    el("polyline", { points }));
}
