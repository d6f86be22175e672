// What each thread ran when, why it ran nothing, and what its worker's I/O threads did. Time runs to the right.

import { bytes, duration, el, replace } from "./format.js";

const COLOURS = 8;
const WIDTH = 1200;
const SPANS = [10, 2, 0.5, 0.1, 0.02];
// Why a thread ran nothing: what the tasks on it wait for.
const GAPS = [["parked", "parked: a receiver has no room"], ["memory", "short of memory"], ["blocked", "waits for disk or network"], ["idle", "waits for input"]];
// What I/O threads do, each kind in a line of its own.
const DISK = [["source", "reads input", "reads"], ["sink", "writes output", "writes"], ["spill", "spills", "spills"], ["read", "reads spilled rows back", "reads back"], ["operator", "other work", "works"]];
const LINE = 6;

const end = (span) => span.start_seconds + span.length_seconds;

export function timeline(root) {
  let seconds = 2;
  let now = null;
  // How far before now the right edge is; moved while the page is held.
  let back = 0;
  let held = false;
  const head = el("div");
  const canvas = el("div", { class: "lanes" });
  replace(root, el("main", { id: "page", tabindex: -1 }));
  root.replaceChildren(head, canvas);

  const colours = new Map();
  const colour = (span) => {
    const key = `${span.job} ${span.name}`;
    if (!colours.has(key)) colours.set(key, colours.size % COLOURS);
    return colours.get(key);
  };

  function controls() {
    const icons = (label, list) => el("ul", { class: "legend" }, el("li", { class: "label" }, label), list.map(([kind, text]) => el("li", {}, el("i", { class: kind }), text)));
    replace(head, el("div", {},
      el("div", { class: "heading" }, el("h2", {}, "Timeline"), el("span", { class: "note" }, "recorded while this page is open; hold it, then turn the wheel to zoom and drag to move")),
      el("div", { class: "filters" }, SPANS.map((value) => el("button", { "data-span": value, "aria-pressed": String(value === seconds) }, duration(value))),
        el("button", { "data-hold": "", "aria-pressed": String(held) }, held ? "Go on" : "Hold"),
        el("a", { class: "button", href: "/api/timeline/trace", download: "aqueduct-trace.json" }, "Chrome trace")),
      colours.size ? icons("Ran", [...colours].slice(-16).map(([key, index]) => [`lane c${index}`, key.replace(/^(\d+) /, "job $1: ")])) : null,
      icons("Ran nothing", GAPS.map(([kind, text]) => [`gap ${kind}`, text])),
      icons("I/O threads", DISK.filter(([kind]) => kind !== "operator").map(([kind, text]) => [`disk ${kind}`, text]))));
  }

  function draw() {
    if (!now) return;
    if (!now.threads.some(([, , steps]) => steps.length) && !now.gaps.some(([, , gaps]) => gaps.length)) {
      canvas.replaceChildren(el("p", { class: "empty" }, "Nothing has run since this page was opened."));
      return;
    }
    const right = now.now_seconds - back;
    const left = right - seconds;
    const x = (time) => Math.max(0, Math.min(WIDTH, ((time - left) / seconds) * WIDTH));
    const isShown = (span) => end(span) > left && span.start_seconds < right;
    const part = (spans) => spans.reduce((all, span) => all + Math.min(end(span), right) - Math.max(span.start_seconds, left), 0) / seconds;
    const row = (label, svg, figure) => el("div", { class: "lanerow" }, el("span", { class: "label" }, label), svg, el("span", { class: "figure" }, figure));
    const box = (span, kind, y, height, title) => el("rect", { class: kind, x: x(span.start_seconds).toFixed(2), y, width: Math.max(0.4, x(end(span)) - x(span.start_seconds)).toFixed(2), height }, el("title", {}, title));
    const rows = now.threads.map(([worker, thread, steps], index) => {
      const shown = steps.filter(isShown);
      const svg = el("svg", { viewBox: `0 0 ${WIDTH} 34`, preserveAspectRatio: "none", role: "img", "aria-label": `worker ${worker}, thread ${thread}` });
      for (const gap of now.gaps[index][2].filter(isShown)) {
        if (x(end(gap)) - x(gap.start_seconds) > 0.5) svg.append(box(gap, `gap ${gap.why}`, 13, 8, `${GAPS.find(([kind]) => kind === gap.why)?.[1] ?? gap.why}\n${duration(gap.length_seconds)}`));
      }
      // Steps too short to be seen stand for those beside them.
      let drawn = -1;
      for (const step of shown) {
        if (x(end(step)) < drawn + 0.3) continue;
        drawn = Math.max(x(end(step)), x(step.start_seconds) + 0.4);
        svg.append(box(step, `lane c${colour(step)}`, 3, 28, `${step.name} [${step.partition}]\njob ${step.job}, in ${step.node}\n${duration(step.length_seconds)}, ${step.end === "running" ? "in progress" : `then ${step.end}`}`));
      }
      return row(`worker ${worker}, thread ${thread}`, svg, `${Math.round(Math.min(1, part(shown)) * 100)} %`);
    });
    for (const [worker, work] of now.disks) {
      const shown = work.filter(isShown);
      if (!shown.length) continue;
      const kinds = DISK.filter(([kind]) => shown.some((span) => span.work === kind));
      const height = kinds.length * LINE + 4;
      const svg = el("svg", { class: "thin", viewBox: `0 0 ${WIDTH} ${height}`, preserveAspectRatio: "none", role: "img", "aria-label": `I/O of worker ${worker}` });
      svg.style.height = `${height}px`;
      for (const span of shown) {
        const line = kinds.findIndex(([kind]) => kind === span.work);
        if (line < 0) continue;
        svg.append(box(span, `disk ${span.work}`, 2 + line * LINE, LINE - 1, `${span.holder} ${kinds[line][2]}${span.bytes === null ? "" : ` ${bytes(span.bytes)}`}${span.job === null ? "" : `\njob ${span.job}`}\n${duration(span.length_seconds)}`));
      }
      const moved = shown.reduce((all, span) => all + (span.bytes ?? 0), 0);
      rows.push(row(`worker ${worker}, I/O`, svg, moved ? bytes(moved) : ""));
    }
    const ago = (time) => (time < 1e-4 ? "now" : `−${duration(time)}`);
    canvas.replaceChildren(...rows, el("div", { class: "lanerow axis" }, el("span", { class: "label" }, ""), el("div", { class: "ends" }, el("span", {}, ago(back + seconds)), el("span", {}, ago(back))), el("span", {})));
  }

  function hold(on) {
    held = on;
    if (!held) {
      back = 0;
      seconds = SPANS.reduce((best, value) => (Math.abs(Math.log(value / seconds)) < Math.abs(Math.log(best / seconds)) ? value : best));
    }
    canvas.classList.toggle("held", held);
    draw();
    controls();
  }

  // Where `event` is on the lanes, as a share of their width; `null` beside them.
  function at(event) {
    const lane = canvas.querySelector(".lanerow svg")?.getBoundingClientRect();
    const share = lane ? (event.clientX - lane.left) / lane.width : -1;
    return share >= 0 && share <= 1 ? share : null;
  }

  canvas.addEventListener("wheel", (event) => {
    const share = at(event);
    if (!held || share === null) return;
    event.preventDefault();
    const before = seconds;
    seconds = Math.max(1e-4, Math.min(60, seconds * (event.deltaY > 0 ? 1.25 : 0.8)));
    // What is under the pointer stays there.
    back = Math.max(0, back + (1 - share) * (before - seconds));
    draw();
    controls();
  }, { passive: false });

  let dragged = null;
  canvas.addEventListener("pointerdown", (event) => {
    const lane = canvas.querySelector(".lanerow svg")?.getBoundingClientRect();
    if (held && lane && at(event) !== null) dragged = { x: event.clientX, back, width: lane.width };
  });
  canvas.addEventListener("pointermove", (event) => {
    if (!dragged) return;
    back = Math.max(0, dragged.back + ((event.clientX - dragged.x) / dragged.width) * seconds);
    draw();
  });
  const drop = () => { dragged = null; };
  addEventListener("pointerup", drop);
  addEventListener("pointercancel", drop);

  async function load() {
    if (held) return;
    const answer = await fetch("/api/timeline").catch(() => null);
    if (!answer?.ok || held) return;
    now = await answer.json();
    draw();
    controls();
  }

  const timer = setInterval(load, 1000);
  controls();
  load();
  return {
    update() {},
    zoom(value) { seconds = value; draw(); controls(); },
    hold() { hold(!held); },
    leave() {
      clearInterval(timer);
      removeEventListener("pointerup", drop);
      removeEventListener("pointercancel", drop);
    },
  };
}
