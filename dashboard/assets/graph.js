// The graph of a job: laid out by layers, left to right or top to bottom, drawn once, then kept up to date in place.

import { bytes, count, el, percent } from "./format.js";

const NODE = { width: 188, height: 110 };
// Between two columns there is something to be written on a line; within a stage nothing is passed on.
const GAP = { x: 122, y: 40, fused: 20 };
// Top to bottom: what is written on a line needs less room that way.
// Half of what is written there, so that it covers no node.
const LABEL = 52;
const DOWN = { x: 26, y: 74 };
// Smaller than that is read by nobody: then it is scrolled, or laid out the other way.
const LEAST_SCALE = 0.5;
const READABLE = 0.62;
const PAD = 28;

// Pairs of nodes that follow each other: within a stage without an edge, else along one.
function links(shape) {
  const found = [];
  for (const stage of shape.stages) {
    for (let i = 1; i < stage.nodes.length; i += 1) found.push({ from: stage.nodes[i - 1], to: stage.nodes[i], edge: null });
  }
  shape.edges.forEach((edge, index) => found.push({ from: edge.from, to: edge.to, edge: index }));
  return found;
}

// A stack of nodes for each stage, and one for each result: in an order in which each comes after its inputs.
function stacks(shape) {
  const found = shape.stages.map((stage) => ({ nodes: stage.nodes, inputs: [], outputs: [], layer: 0, row: 0 }));
  shape.nodes.forEach((node, index) => { if (node.stage === null) found.push({ nodes: [index], inputs: [], outputs: [], layer: 0, row: 0 }); });
  // Nodes are declared after their inputs.
  found.sort((a, b) => a.nodes[0] - b.nodes[0]);
  const of = new Map(found.flatMap((stack) => stack.nodes.map((node) => [node, stack])));
  for (const edge of shape.edges) {
    of.get(edge.from).outputs.push(of.get(edge.to));
    of.get(edge.to).inputs.push(of.get(edge.from));
  }
  return found;
}

// Where each node stands: stages in layers, as far on as their inputs ask for, near to them across; their nodes stacked.
export function layout(shape, down = false) {
  const all = stacks(shape);
  for (const stack of all) stack.layer = Math.max(0, ...stack.inputs.map((input) => input.layer + 1));
  // Sources stand beside those that read them.
  for (const stack of all.toReversed()) {
    if (!stack.inputs.length && stack.outputs.length) stack.layer = Math.max(0, Math.min(...stack.outputs.map((to) => to.layer)) - 1);
  }
  const layers = [];
  for (const stack of all) (layers[stack.layer] ??= []).push(stack);
  const place = () => layers.forEach((stacked) => stacked.forEach((stack, index) => { stack.row = index - (stacked.length - 1) / 2; }));
  place();
  const wanted = (stack, near) => (near.length ? near.reduce((sum, other) => sum + other.row, 0) / near.length : stack.row);
  for (let turn = 0; turn < 6; turn += 1) {
    for (const stacked of layers) {
      const order = new Map(stacked.map((stack) => [stack, wanted(stack, turn % 2 === 0 ? stack.inputs : stack.outputs)]));
      stacked.sort((a, b) => order.get(a) - order.get(b));
    }
    place();
  }
  const tall = (stack) => stack.nodes.length * (NODE.height + GAP.fused) - GAP.fused;
  const total = (sizes, gap) => sizes.reduce((sum, size) => sum + size + gap, -gap);
  const at = shape.nodes.map(() => ({ x: 0, y: 0 }));
  const put = (stack, x, y) => stack.nodes.forEach((node, index) => { at[node] = { x, y: y + index * (NODE.height + GAP.fused) }; });
  let [width, height] = [0, 0];
  if (down) {
    width = Math.max(...layers.map((stacked) => total(stacked.map(() => NODE.width), DOWN.x))) + 2 * PAD;
    let y = PAD;
    for (const stacked of layers) {
      let x = (width - total(stacked.map(() => NODE.width), DOWN.x)) / 2;
      for (const stack of stacked) {
        put(stack, x, y);
        x += NODE.width + DOWN.x;
      }
      y += Math.max(...stacked.map(tall)) + DOWN.y;
    }
    height = y - DOWN.y + PAD;
  } else {
    height = Math.max(...layers.map((stacked) => total(stacked.map(tall), GAP.y))) + 2 * PAD;
    layers.forEach((stacked, column) => {
      let y = (height - total(stacked.map(tall), GAP.y)) / 2;
      for (const stack of stacked) {
        put(stack, PAD + column * (NODE.width + GAP.x), y);
        y += tall(stack) + GAP.y;
      }
    });
    width = 2 * PAD + layers.length * (NODE.width + GAP.x) - GAP.x;
  }
  return { links: links(shape), down, width, height: height + 14, at };
}

// The way to lay a graph out in `width` pixels: left to right if that can be read then.
export function fitting(shape, width) {
  const across = layout(shape);
  if (width >= across.width * READABLE) return across;
  const down = layout(shape, true);
  return width / down.width > width / across.width ? down : across;
}

// How large a graph of this layout is drawn to fit in `width` pixels.
export const scaleToFit = (plan, width) => Math.max(LEAST_SCALE, Math.min(1, width / plan.width));

const cut = (text, length) => (text.length > length ? `${text.slice(0, length - 1)}…` : text);

function text(parent, x, y, kind, value, extra = {}) {
  const node = el("text", { x, y, class: kind, ...extra }, value);
  parent.append(node);
  return node;
}

// Draws the graph of `shape`; `update` shows a frame, `select` is told of the node that was chosen.
export function graph(shape, select, plan = layout(shape)) {
  const svg = el("svg", { class: "graph", viewBox: `0 0 ${plan.width} ${plan.height}`, width: plan.width, height: plan.height, role: "group", "aria-label": "Graph of the job" });
  const scale = (factor) => {
    svg.style.width = `${Math.floor(plan.width * factor)}px`;
    svg.style.height = "auto";
  };
  const edgeLayer = el("g");
  const nodeLayer = el("g");
  svg.append(edgeLayer, nodeLayer);

  const edges = plan.links.map((link) => {
    const [first, last] = [plan.at[link.from], plan.at[link.to]];
    const below = plan.down || link.edge === null;
    const from = below ? { x: first.x + NODE.width / 2, y: first.y + NODE.height } : { x: first.x + NODE.width, y: first.y + NODE.height / 2 };
    const to = below ? { x: last.x + NODE.width / 2, y: last.y } : { x: last.x, y: last.y + NODE.height / 2 };
    const bend = below ? Math.max(8, (to.y - from.y) / 2) : Math.max(30, (to.x - from.x) / 2);
    const [one, two] = below ? [`${from.x},${from.y + bend}`, `${to.x},${to.y - bend}`] : [`${from.x + bend},${from.y}`, `${to.x - bend},${to.y}`];
    const path = el("path", { class: link.edge === null ? "wire fused" : "wire", d: `M${from.x},${from.y} C${one} ${two} ${to.x},${to.y}` });
    const group = el("g", {}, path);
    edgeLayer.append(group);
    if (link.edge === null) return null;
    // Nearer to the end at which it has no others beside it.
    const meets = shape.edges.filter((edge) => edge.to === link.to).length > 1;
    const parts = shape.edges.filter((edge) => edge.from === link.from).length > 1;
    const way = meets === parts ? 0.5 : meets ? 0.3 : 0.7;
    const between = (a, b, c, d) => a * (1 - way) ** 3 + 3 * b * way * (1 - way) ** 2 + 3 * c * way ** 2 * (1 - way) + d * way ** 3;
    const [along, across] = below ? ["y", "x"] : ["x", "y"];
    const middle = { [along]: between(from[along], from[along] + bend, to[along] - bend, to[along]), [across]: between(from[across], from[across], to[across], to[across]) };
    const { y } = middle;
    // Beside a line that goes down, and on one that goes across.
    const x = plan.down ? middle.x + 12 : Math.max(from.x + LABEL, Math.min(to.x - LABEL, middle.x));
    const anchor = { "text-anchor": plan.down ? "start" : "middle" };
    const left = plan.down ? x : x - 30;
    const shown = shape.edges[link.edge];
    const box = el("rect", { class: "queue", x: left, y: y + 5, width: 60, height: 5, rx: 2.5 });
    const fill = el("rect", { class: "queued", x: left, y: y + 5, width: 0, height: 5, rx: 2.5 });
    const title = el("title");
    group.append(box, fill, title);
    const name = text(group, x, y - 14, "exchange", cut(shown.exchange, 18), anchor);
    const rate = text(group, x, y - 2, "rate", "", anchor);
    const held = text(group, x, y + 22, "held", "", anchor);
    const disk = text(group, x, y + 34, "disk", "", anchor);
    return { index: link.edge, path, box, fill, name, rate, held, disk, title };
  }).filter(Boolean);

  const nodes = shape.nodes.map((node, index) => {
    const { x, y } = plan.at[index];
    const group = el("g", { class: `node ${node.role}`, transform: `translate(${x},${y})`, tabindex: 0, role: "button", "aria-label": `${node.name}: show its partitions`, "data-node": index,
      onclick: () => select(index),
      onkeydown: (event) => { if (event.key === "Enter" || event.key === " ") { event.preventDefault(); select(index); } } });
    const title = el("title", {}, node.name === node.kind ? node.name : `${node.name} (${node.kind})${node.detail ? `\n${node.detail}` : ""}`);
    group.append(title, el("rect", { class: "box", width: NODE.width, height: NODE.height, rx: 9 }));
    text(group, 12, 21, "name", cut(node.name, 22));
    text(group, 12, 35, "kind", cut(node.name === node.kind ? node.role : node.kind, 16));
    text(group, NODE.width - 12, 35, "kind", `× ${node.partitions}`, { "text-anchor": "end" });
    const rows = text(group, 12, 54, "rows", "");
    const doing = text(group, 12, 69, "doing", "");
    const state = text(group, 12, 84, "state", "");
    const track = el("rect", { class: "track", x: 12, y: 91, width: NODE.width - 24 - 42, height: 6, rx: 3 });
    const busy = el("rect", { class: "busy", x: 12, y: 91, width: 0, height: 6, rx: 3 });
    const share = text(group, NODE.width - 12, 98, "share", "", { "text-anchor": "end" });
    const strip = el("g", { class: "strip" });
    group.append(track, busy, strip);
    const mark = el("g", { class: "mark" }, el("rect", { x: NODE.width - 82, y: -11, width: 76, height: 20, rx: 10 }), el("text", { x: NODE.width - 44, y: 3, "text-anchor": "middle" }, "bottleneck"));
    group.append(mark);
    nodeLayer.append(group);
    return { group, rows, doing, state, busy, share, strip, mark };
  });

  function update(frame, selected) {
    const fastest = Math.max(1, ...frame.edges.map((edge) => edge.bytes_per_second));
    const over = frame.summary.ended_ms !== null;
    for (const edge of edges) {
      const now = frame.edges[edge.index];
      const fill = Math.min(1, now.fullest);
      const level = fill > 0.8 ? "full" : fill > 0.4 ? "half" : "free";
      edge.path.setAttribute("class", `wire ${level}${shape.edges[edge.index].spools ? " spools" : ""}`);
      edge.path.setAttribute("stroke-width", (1.5 + 5 * (now.bytes_per_second / fastest)).toFixed(1));
      edge.fill.setAttribute("width", (60 * fill).toFixed(1));
      edge.fill.setAttribute("class", `queued ${level}`);
      edge.rate.textContent = over ? `${count(now.rows)} rows` : `${count(now.rows_per_second)} rows/s`;
      edge.held.textContent = over ? bytes(now.bytes) : `${bytes(now.queued_bytes)} / ${bytes(now.capacity_bytes)}`;
      edge.disk.textContent = now.spooled_bytes ? `${bytes(now.spooled_bytes)} spooled` : "";
      edge.title.textContent = `${shape.edges[edge.index].exchange}\n${count(now.rows)} rows, ${count(now.batches)} batches, ${bytes(now.bytes)}\n`
        + `${count(now.batches_per_second)} batches/s, ${bytes(now.bytes_per_second)}/s\nqueued ${bytes(now.queued_bytes)} of ${bytes(now.capacity_bytes)}, the fullest port ${percent(fill)}\nsenders parked ${percent(now.parked)}`;
    }
    const guilty = frame.summary.bottleneck?.node;
    nodes.forEach((node, index) => {
      const now = frame.nodes[index];
      const role = shape.nodes[index].role;
      node.group.setAttribute("class", `node ${role}${guilty === index ? " guilty" : ""}${selected === index ? " selected" : ""}`);
      node.rows.textContent = role === "source" ? `${count(now.rows_out)} rows out`
        : role === "operator" ? `${count(now.rows_in)} → ${count(now.rows_out)} rows` : `${count(now.rows_in)} rows in`;
      node.doing.replaceChildren(...doing(frame.stages[shape.nodes[index].stage]));
      const held = over ? now.peak_state_bytes : now.state_bytes;
      const parts = [];
      // Both are too long for words about the first.
      const what = now.spilled_bytes ? "" : over ? " at most" : role === "operator" ? " state" : " buffers";
      if (held) parts.push(`${bytes(held)}${what}`);
      if (now.spilled_bytes) parts.push(`${bytes(now.spilled_bytes)} spilled`);
      node.state.textContent = parts.join(", ");
      node.busy.setAttribute("width", ((NODE.width - 66) * Math.min(1, now.busy)).toFixed(1));
      node.share.textContent = role === "result" ? "" : percent(Math.min(1, now.busy));
      strip(node.strip, now.partitions);
    });
  }
  const place = (node) => plan.at[node];
  return { svg, update, place, scale, width: plan.width };
}

// What else the tasks of a stage do with their time.
function doing(stage) {
  if (!stage) return [];
  const shares = [["parked", stage.parked], ["idle", stage.idle], ["blocked", stage.blocked], ["short of memory", stage.memory]];
  const shown = shares.filter(([, share]) => share >= 0.05).sort((a, b) => b[1] - a[1]).slice(0, 2);
  return shown.flatMap(([name, share], index) => [index ? el("tspan", { class: "idle" }, ", ") : null, el("tspan", { class: name === "idle" ? "idle" : "held-up" }, `${name} ${percent(share)}`)]).filter(Boolean);
}

// One bar for each partition: skew is seen at a glance.
function strip(group, shares) {
  const width = NODE.width - 24;
  const each = width / Math.max(1, shares.length);
  while (group.childNodes.length > shares.length) group.lastChild.remove();
  while (group.childNodes.length < shares.length) group.append(el("rect", { y: 102, height: 3 }));
  shares.forEach((share, index) => {
    const bar = group.childNodes[index];
    bar.setAttribute("x", (12 + index * each).toFixed(1));
    bar.setAttribute("width", Math.max(0.5, each - 1.5).toFixed(1));
    bar.setAttribute("opacity", (0.12 + 0.88 * Math.min(1, share)).toFixed(2));
  });
}
