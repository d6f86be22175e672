// The graph of a job: laid out left to right by layers, drawn once, then kept up to date in place.

import { bytes, count, el, percent } from "./format.js";

const NODE = { width: 188, height: 110 };
const GAP = { x: 122, fused: 46, y: 44 };
// Smaller than that is read by nobody: then it is scrolled.
const LEAST_SCALE = 0.8;
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

// Column and row of each node: as far right as its inputs ask for, near to them in height.
export function layout(shape) {
  const all = links(shape);
  const inputs = shape.nodes.map(() => []);
  const outputs = shape.nodes.map(() => []);
  for (const link of all) {
    inputs[link.to].push(link.from);
    outputs[link.from].push(link.to);
  }
  // Nodes are declared after their inputs.
  const layer = shape.nodes.map(() => 0);
  shape.nodes.forEach((_, node) => {
    for (const input of inputs[node]) layer[node] = Math.max(layer[node], layer[input] + 1);
  });
  // Sources stand beside those that read them.
  for (let node = shape.nodes.length - 1; node >= 0; node -= 1) {
    if (inputs[node].length === 0 && outputs[node].length > 0) {
      layer[node] = Math.max(0, Math.min(...outputs[node].map((to) => layer[to])) - 1);
    }
  }
  const layers = [];
  layer.forEach((column, node) => (layers[column] ??= []).push(node));
  const row = shape.nodes.map(() => 0);
  const place = () => layers.forEach((nodes) => nodes.forEach((node, index) => { row[node] = index - (nodes.length - 1) / 2; }));
  place();
  const average = (near, node) => near.length ? near.reduce((sum, other) => sum + row[other], 0) / near.length : row[node];
  for (let turn = 0; turn < 6; turn += 1) {
    const near = turn % 2 === 0 ? inputs : outputs;
    for (const nodes of layers) {
      const wanted = new Map(nodes.map((node) => [node, average(near[node], node)]));
      nodes.sort((a, b) => wanted.get(a) - wanted.get(b));
    }
    place();
  }
  const tallest = Math.max(...layers.map((nodes) => nodes.length));
  const middle = PAD + (tallest * (NODE.height + GAP.y) - GAP.y) / 2;
  // Only what is written on needs a long line.
  const left = [PAD];
  for (let column = 1; column < layers.length; column += 1) {
    const written = all.some((link) => link.edge !== null && layer[link.from] < column && layer[link.to] >= column);
    left[column] = left[column - 1] + NODE.width + (written ? GAP.x : GAP.fused);
  }
  return {
    links: all,
    width: left[left.length - 1] + NODE.width + PAD,
    height: 2 * PAD + tallest * (NODE.height + GAP.y) - GAP.y + 14,
    at: shape.nodes.map((_, node) => ({
      x: left[layer[node]],
      y: middle + row[node] * (NODE.height + GAP.y) - NODE.height / 2,
    })),
  };
}

const cut = (text, length) => (text.length > length ? `${text.slice(0, length - 1)}…` : text);

function text(parent, x, y, kind, value, extra = {}) {
  const node = el("text", { x, y, class: kind, ...extra }, value);
  parent.append(node);
  return node;
}

// Draws the graph of `shape`; `update` shows a frame, `select` is told of the node that was chosen.
export function graph(shape, select) {
  const plan = layout(shape);
  const svg = el("svg", { class: "graph", viewBox: `0 0 ${plan.width} ${plan.height}`, width: plan.width, height: plan.height, role: "group", "aria-label": "Graph of the job" });
  svg.style.width = "100%";
  svg.style.height = "auto";
  svg.style.minWidth = `${Math.min(plan.width, Math.round(plan.width * LEAST_SCALE))}px`;
  svg.style.maxWidth = `${plan.width}px`;
  const edgeLayer = el("g");
  const nodeLayer = el("g");
  svg.append(edgeLayer, nodeLayer);

  const edges = plan.links.map((link) => {
    const from = { x: plan.at[link.from].x + NODE.width, y: plan.at[link.from].y + NODE.height / 2 };
    const to = { x: plan.at[link.to].x, y: plan.at[link.to].y + NODE.height / 2 };
    const bend = Math.max(30, (to.x - from.x) / 2);
    const path = el("path", { class: link.edge === null ? "wire fused" : "wire", d: `M${from.x},${from.y} C${from.x + bend},${from.y} ${to.x - bend},${to.y} ${to.x},${to.y}` });
    const group = el("g", {}, path);
    edgeLayer.append(group);
    if (link.edge === null) return null;
    const x = (from.x + to.x) / 2;
    const y = (from.y + to.y) / 2;
    const shown = shape.edges[link.edge];
    const box = el("rect", { class: "queue", x: x - 30, y: y + 5, width: 60, height: 5, rx: 2.5 });
    const fill = el("rect", { class: "queued", x: x - 30, y: y + 5, width: 0, height: 5, rx: 2.5 });
    const title = el("title");
    group.append(box, fill, title);
    const name = text(group, x, y - 14, "exchange", cut(shown.exchange, 18), { "text-anchor": "middle" });
    const rate = text(group, x, y - 2, "rate", "", { "text-anchor": "middle" });
    const held = text(group, x, y + 22, "held", "", { "text-anchor": "middle" });
    const disk = text(group, x, y + 34, "disk", "", { "text-anchor": "middle" });
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
      if (held) parts.push(`${bytes(held)} ${over ? "at most" : role === "operator" ? "state" : "buffers"}`);
      if (now.spilled_bytes) parts.push(`${bytes(now.spilled_bytes)} spilled`);
      node.state.textContent = parts.join(", ");
      node.busy.setAttribute("width", ((NODE.width - 66) * Math.min(1, now.busy)).toFixed(1));
      node.share.textContent = role === "result" ? "" : percent(Math.min(1, now.busy));
      strip(node.strip, now.partitions);
    });
  }
  const place = (node) => plan.at[node];
  return { svg, update, place, width: plan.width };
}

// What else the tasks of a stage do with their time.
function doing(stage) {
  if (!stage) return [];
  const shares = [["parked", stage.parked], ["idle", stage.idle], ["blocked", stage.blocked], ["short of memory", stage.memory]];
  const shown = shares.filter(([, share]) => share >= 0.05).sort((a, b) => b[1] - a[1]).slice(0, 2);
  return shown.map(([name, share], index) => el("tspan", { class: name === "idle" ? "idle" : "held-up" }, `${index ? ", " : ""}${name} ${percent(share)}`));
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
