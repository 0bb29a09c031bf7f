"use strict";
const G = JSON.parse(document.getElementById("data").textContent);
const $ = (id) => document.getElementById(id);
if (G.version !== 1) {
  document.body.replaceChildren(`This page was written for version 1 of its data, and they are of version ${G.version}: write it anew with cr.explore.`);
  throw new Error("unknown version of the data");
}
/* JSON has no NaN and no infinities: they come as words */
const revive = (x) => (Array.isArray(x) ? x.map(revive) : typeof x === "string" ? Number(x) : x);
for (const v of Object.values(G.vars)) { v.value = revive(v.value); v.grad = revive(v.grad); v.numeric = revive(v.numeric); v.error = revive(v.error); for (const s of Object.values(v.stats)) if (s) for (const k in s) s[k] = revive(s[k]); }
for (const g of Object.values(G.gates)) { g.jacobian = g.jacobian.map(revive); g.down = g.down.map(revive); }

/* ---------- small helpers ---------- */
const SVG = "http://www.w3.org/2000/svg";
function make(tag, attrs = {}, ...children) {
  const svg = /^(svg|g|path|rect|circle|text|tspan|line)$/.test(tag);
  const node = svg ? document.createElementNS(SVG, tag) : document.createElement(tag);
  for (const [key, value] of Object.entries(attrs)) {
    if (key.startsWith("on")) node.addEventListener(key.slice(2), value);
    else if (key === "html") node.innerHTML = value;
    else if (key.startsWith("aria-")) node.setAttribute(key, value);
    else if (value !== null && value !== undefined && value !== false) node.setAttribute(key, value === true ? "" : value);
  }
  node.append(...children.filter((c) => c !== null && c !== undefined));
  return node;
}
const escape = (s) => String(s).replace(/[&<>]/g, (c) => ({ "&": "&amp;", "<": "&lt;", ">": "&gt;" }[c]));
function num(x) {
  if (x === null || x === undefined) return "·";
  if (!Number.isFinite(x)) return Number.isNaN(x) ? "NaN" : x > 0 ? "∞" : "−∞";
  if (x === 0) return "0";
  let s = Math.abs(x) >= 1e5 || (x !== 0 && Math.abs(x) < 0.0005) ? x.toExponential(1) : x !== 0 && Math.abs(x) < 0.005 ? x.toFixed(4) : x.toFixed(2);
  if (/^-0(\.0+)?$/.test(s)) s = s.slice(1);
  return s.replace(/-/g, "−");
}
const signed = (x) => (x < 0 ? `(${num(x)})` : num(x));
const math = (name) => escape(name).replace(/^([A-Za-z]+)(\d+)$/, "<i>$1</i><sub>$2</sub>").replace(/^([A-Za-z]+)$/, "<i>$1</i>");
const formula = (text) => escape(text).replace(/[A-Za-z_]\w*/g, (w) => (w in G.vars ? math(w) : w)).replace(/\*\*2/g, "²").replace(/ \* /g, " × ").replace(/(^|[( ])-/g, "$1−");
const frac = (a, b) => `<span class="frac"><span>∂${math(a)}</span><span>∂${math(b)}</span></span>`;
const shape = (s) => (s.length ? s.join("×") : "scalar");
const finite = (v) => v.filter(Number.isFinite);
const low = (v) => finite(v).reduce((a, x) => Math.min(a, x), Infinity), high = (v) => finite(v).reduce((a, x) => Math.max(a, x), -Infinity);
const norm = (v) => (v ? Math.sqrt(finite(v).reduce((a, x) => a + x * x, 0)) : null);
const zeros = (v) => (v ? v.filter((x) => x === 0).length : 0);
/* a tensor is drawn by its last two axes; those before them are chosen by sliders */
const held = (v) => v.kept?.shape ?? v.shape;         // of a large tensor only every so many-th element is in the page
const grid = (s) => (s.length === 0 ? [1, 1] : s.length === 1 ? [1, s[0]] : s.slice(-2));
const lead = {};
function offset(name) {
  const s = held(G.vars[name]), at = lead[name] ?? [];
  let i = 0;
  for (let k = 0; k < s.length - 2; k++) i = i * s[k] + (at[k] ?? 0);
  return s.length > 2 ? i * s.at(-1) * s.at(-2) : 0;
}
function index(v, i) {
  const s = held(v), at = [];
  for (let k = s.length - 1; k >= 0; k--) { at.unshift((i % s[k]) * (v.kept?.strides[k] ?? 1)); i = Math.floor(i / s[k]); }
  return at.length ? `[${at.join(", ")}]` : "";
}
/* blocks of a slice: at most `most` rows and columns, each shown by its element of largest magnitude */
function blocks(name, most) {
  const [rows, cols] = grid(held(G.vars[name])), r = Math.min(rows, most), c = Math.min(cols, most), start = offset(name), found = [];
  for (let i = 0; i < r; i++) for (let j = 0; j < c; j++) {
    const block = [];
    for (let y = Math.floor(i * rows / r); y < Math.floor((i + 1) * rows / r); y++) for (let x = Math.floor(j * cols / c); x < Math.floor((j + 1) * cols / c); x++) block.push(start + y * cols + x);
    found.push(block);
  }
  return { rows: r, cols: c, cells: found, thinned: r < rows || c < cols };
}
const size = (x) => (Number.isNaN(x) ? Infinity : Math.abs(x));
const loudest = (data, block) => block.reduce((a, i) => (size(data[i]) > size(data[a]) ? i : a), block[0]);
const odd = (s) => (s ? [s.nan && `${s.nan} NaN`, s.inf && `${s.inf} infinite`].filter(Boolean).join(", ") : "");
const css = (s) => s.replace(/[^\w]/g, "_");

/* ---------- what is known when ---------- */
const LAST = G.steps.length - 1;
const SEED = G.steps.findIndex((s) => s.phase === "seed");
const node = Object.fromEntries(G.nodes.map((n) => [n.id, n]));
const wire = Object.fromEntries(G.wires.map((w) => [w.id, w]));
const into = {}, from = {}, valueAt = {}, gradAt = {}, stepOf = { forward: {}, backward: {} };
for (const n of G.nodes) { into[n.id] = []; from[n.id] = []; }
for (const w of G.wires) { into[w.to].push(w); from[w.from].push(w); }
for (const [name, v] of Object.entries(G.vars)) if (v.kind !== "computed") valueAt[name] = 0;
G.steps.forEach((s, i) => {
  if (s.phase === "forward") { for (const o of G.gates[s.node].outputs) valueAt[o] = i; stepOf.forward[s.node] = i; }
  if (s.phase === "seed" || s.phase === "backward") { for (const w of into[s.node]) gradAt[w.id] = i; stepOf.backward[s.node] = i; }
});
const trunk = {};                                   // variable -> the wire that carries its whole gradient
for (const w of G.wires) if (node[w.from].kind !== "copy") trunk[w.var] = w.id;
const uses = {};                                    // variable -> the gates that read it
for (const w of G.wires) if (node[w.to].kind === "gate") (uses[w.var] ??= []).push(w);
const wireGrad = (w) => (node[w.to].kind === "out" ? G.vars[w.var].grad : G.gates[w.to].down[w.slot]);

/* ---------- state ---------- */
const hash = new URLSearchParams(location.hash.slice(1));
const state = {
  step: Math.min(LAST, Math.max(0, parseInt(hash.get("step") ?? "0", 10) || 0)), pick: null, show: null, elem: null,
  folded: new Set((hash.get("fold") ?? ("" in G.layouts ? "" : G.groups.map((g) => g.id).join(" "))).split(" ").filter((g) => G.groups.some((x) => x.id === g))),
  overlay: hash.get("overlay") ?? "none", playing: null, why: null, follow: false,
};
const root = document.documentElement;
root.dataset.theme = hash.get("theme") ?? "auto";
root.dataset.palette = hash.get("palette") ?? "classic";
const still = () => matchMedia("(prefers-reduced-motion: reduce)").matches;
function remember() {
  const h = new URLSearchParams();
  if (state.step) h.set("step", state.step);
  if (state.folded.size) h.set("fold", [...state.folded].join(" "));
  if (state.overlay !== "none") h.set("overlay", state.overlay);
  if (root.dataset.theme !== "auto") h.set("theme", root.dataset.theme);
  if (root.dataset.palette !== "classic") h.set("palette", root.dataset.palette);
  try { history.replaceState(null, "", "#" + h); } catch { /* some viewers of local files forbid it */ }
}

/* ---------- drawing the graph ---------- */
const graph = $("graph"), CELL = 5, MOST = 16;
let L, dom;
/* where not every set of folded layers was laid out, one layer is unfolded at a time */
const key = (folded) => [...folded].sort().join(" ");
function layout() {
  if (!(key(state.folded) in G.layouts)) state.folded = new Set(G.groups.map((g) => g.id));
  return G.layouts[key(state.folded)] ?? Object.values(G.layouts)[0];
}
function svgName(text, cls, x, y) {
  const t = make("text", { class: cls, x, y }), m = /^([A-Za-z]+)(\d+)$/.exec(text);
  if (m) t.append(m[1], make("tspan", { dy: 4, "font-size": "70%", "font-style": "normal" }, m[2])); else t.append(text);
  return t;
}
function heat(rows, cols, x, y, cls) {
  const g = make("g", { class: cls, transform: `translate(${x},${y})` });
  g.append(make("rect", { class: "frame", x: -0.5, y: -0.5, width: cols * CELL + 1, height: rows * CELL + 1 }));
  g.cells = [];
  for (let r = 0; r < rows; r++) for (let c = 0; c < cols; c++) {
    const cell = make("rect", { x: c * CELL, y: r * CELL, width: CELL, height: CELL });
    g.cells.push(cell); g.append(cell);
  }
  return g;
}
function tint(cells, values, plus) {
  const top = high(values.map(Math.abs)) || 1;
  cells.forEach((cell, i) => {
    const a = Math.abs(values[i]) / top, strange = !Number.isFinite(values[i]);
    cell.setAttribute("class", strange ? "cell-x" : values[i] < 0 ? "cell-m" : plus);
    cell.setAttribute("fill-opacity", strange ? 1 : values[i] === 0 ? 0 : (0.1 + 0.8 * a).toFixed(3));
  });
}
function draw() {
  L = layout();
  dom = { wires: {}, nodes: {}, groups: {} };
  graph.replaceChildren();
  const under = make("g"), lines = make("g"), tops = make("g"), layer = make("g", { id: "pulses" });
  for (const g of G.groups) {
    const box = L.groups[g.id];
    if (!box) continue;
    const [x, y, w, h] = box;
    const item = make("g", { class: "group", onclick: () => fold(g.id) }, make("rect", { x, y, width: w, height: h, rx: 10 }),
      make("text", { x: x + 12, y: y + 19 }, `− ${g.label}`));
    under.append(item); dom.groups[g.id] = item;
  }
  for (const w of G.wires) {
    const place = L.wires[w.id];
    if (!place) continue;
    const v = G.vars[w.var], [x, y, width, height] = place.seat, s = v.shape.length > 0;
    const small = blocks(w.var, MOST), { rows, cols } = small, hw = cols * CELL, hh = rows * CELL;
    const item = make("g", { class: "wire" }, make("path", { class: "line", d: place.path }), make("path", { class: "hit", d: place.path }),
      make("rect", { x: x - width / 2, y: y - height / 2, width, height, fill: "transparent", cursor: "pointer" }));
    item.place = place; item.blocks = small.cells;
    item.name = make("text", { class: "name", x, y: s ? y - hh - 10 : y - 22 });
    item.append(item.name);
    if (s) {
      item.hv = heat(rows, cols, x - hw / 2, y - hh - 5, "heat-v");
      item.hg = heat(rows, cols, x - hw / 2, y + 5, "heat-g");
      item.append(item.hv, item.hg, make("text", { class: "heat-none", x, y: y + 17 }, "no grad"));
    } else {
      item.value = make("text", { class: "value", x, y: y - 6 });
      item.grad = make("text", { class: "grad", x, y: y + 18 });
      item.append(item.value, item.grad);
    }
    item.addEventListener("click", () => choose({ var: w.var, wire: w.id }));
    item.addEventListener("pointermove", (e) => tipWire(e, w, item));
    item.addEventListener("pointerleave", hideTip);
    lines.append(item); dom.wires[w.id] = item;
  }
  for (const [id, [x, y, w, h]] of Object.entries(L.nodes)) {
    const n = node[id], folded = id.startsWith("box:");
    const round = w === h;
    const item = make("g", { class: `node ${folded ? "box" : n.kind} ${n && n.kind !== "gate" && n.kind !== "copy" ? "leafy" : ""}`, tabindex: 0, role: "button" });
    item.append(round ? make("circle", { class: "body", cx: x, cy: y, r: w / 2 }) : make("rect", { class: "body", x: x - w / 2, y: y - h / 2, width: w, height: h, rx: folded ? 10 : n.kind === "gate" ? h / 2 : 6 }));
    if (folded) {
      const g = G.groups.find((g) => `box:${g.id}` === id);
      item.setAttribute("aria-label", `${g.label}, folded; press Enter to unfold`);
      item.append(make("text", { class: "glyph", x, y: y - 4 }, `+ ${g.label}`), make("text", { class: "small", x, y: y + 14 }, g.detail));
      item.addEventListener("click", () => fold(g.id));
    } else if (n.kind === "gate") {
      const glyph = G.gates[id].glyph;
      item.setAttribute("aria-label", `${G.gates[id].title} gate, output ${G.gates[id].output}`);
      item.glyph = make("text", { class: `glyph${glyph.length > 1 ? " long" : ""}`, x, y: y + 5 }, glyph);
      item.below = make("text", { class: "below", x, y: y + 13 });
      item.append(item.glyph, item.below); item.cy = y;
    } else if (n.kind === "copy") {
      item.setAttribute("aria-label", `${n.var} is used more than once: its gradients add here`);
      item.append(make("circle", { cx: x, cy: y, r: 16, fill: "transparent" }));
    } else {
      item.setAttribute("aria-label", n.kind === "out" ? `output ${n.var}` : `${G.vars[n.var].kind} ${n.var}`);
      item.append(svgName(G.vars[n.var].label, "leaf", x, y + 6));
    }
    if (!folded) item.addEventListener("click", () => choose(n.kind === "gate" || n.kind === "copy" ? { gate: id } : { var: n.var, wire: trunk[n.var] }));
    item.addEventListener("keydown", (e) => { if (e.key === "Enter") item.dispatchEvent(new Event("click")); });
    tops.append(item); dom.nodes[id] = item;
  }
  graph.append(under, lines, tops, layer);
  fit();
}

/* ---------- painting one moment ---------- */
const nodeOf = (id) => (id && L.nodes[id] ? id : id && node[id].group ? `box:${node[id].group}` : id);
function paint() {
  const step = G.steps[state.step], t = state.step;
  const flowF = new Set(), flowB = new Set();
  if (step.phase === "forward") { into[step.node].forEach((w) => flowF.add(w.id)); }
  if (step.phase === "backward" || step.phase === "seed") into[step.node].forEach((w) => flowB.add(w.id));
  const sel = state.pick;
  for (const [id, item] of Object.entries(dom.wires)) {
    const w = wire[id], v = G.vars[w.var], g = wireGrad(w);
    const hasV = t >= valueAt[w.var], hasG = g && t >= gradAt[id];
    item.classList.toggle("known", hasV);
    item.classList.toggle("has-v", hasV);
    item.classList.toggle("has-g", !!hasG);
    item.classList.toggle("no-g", !g && t >= SEED);
    item.classList.toggle("flow-f", flowF.has(id));
    item.classList.toggle("flow-b", flowB.has(id) && !!g);
    item.classList.toggle("sel", sel?.wire === id);
    item.classList.toggle("path", !!state.why?.wires.has(id));
    if (item.value) { item.value.textContent = num(v.value[0]); item.grad.textContent = g ? num(g[0]) : ""; }
    else { tint(item.hv.cells, item.blocks.map((b) => v.value[loudest(v.value, b)]), "cell-v"); if (g) tint(item.hg.cells, item.blocks.map((b) => g[loudest(g, b)]), "cell-g"); }
    let name = v.shape.length ? `${v.label} ${shape(v.shape)}` : v.label;
    let width = "", tone = "var(--grad)";
    if (hasG && state.overlay === "norm") { name = num(norm(g)); width = 1 + 7 * Math.sqrt(norm(g) / topNorm()); }
    if (hasV && state.overlay === "bytes") { name = bytes(v.bytes); width = 1 + 7 * Math.sqrt(v.bytes / topBytes); tone = "var(--value)"; }
    if (state.overlay === "odd") { const n = (hasV ? count(v.value, (x) => !Number.isFinite(x)) : 0), m = (hasG ? count(g, (x) => !Number.isFinite(x)) : 0); if (n || m) { name = `${n + m} odd`; width = 4; } else if (!g && t >= SEED) { name = "absent"; width = 4; tone = "var(--minus)"; } }
    if (hasG && state.overlay === "zero") { name = zeros(g) ? `${Math.round(100 * zeros(g) / g.length)}%` : "none"; width = zeros(g) ? 1 + 6 * zeros(g) / g.length : ""; }
    item.name.textContent = name;
    item.querySelector(".line").style.strokeWidth = width;
    item.querySelector(".line").style.stroke = width ? tone : "";
    item.querySelector(".line").style.strokeOpacity = width ? 0.55 : "";
  }
  const times = Object.values(G.gates).map((g) => g.time[0] + g.time[1]), slow = high(times);
  for (const [id, item] of Object.entries(dom.nodes)) {
    const n = node[id], on = step.node && nodeOf(step.node) === id;
    const done = !n || n.kind === "leaf" || (n.kind === "out" ? t >= SEED : t >= (valueAt[n.var] ?? 0));
    item.classList.toggle("todo", !done);
    item.classList.toggle("on-f", !!on && step.phase === "forward");
    item.classList.toggle("on-b", !!on && step.phase !== "forward");
    item.classList.toggle("sel", !!sel && (sel.gate === id || (!!n && (n.kind === "leaf" || n.kind === "out") && n.var === sel.var)));
    item.classList.toggle("path", !!state.why && (state.why.nodes.has(id)));
    item.classList.toggle("cut", !!state.why?.cuts.has(id));
    if (item.below) {
      const time = state.overlay === "time" ? G.gates[id].time[0] + G.gates[id].time[1] : null;
      item.below.textContent = time === null ? "" : time.toFixed(1);
      item.glyph.setAttribute("y", item.cy + (time === null ? 5 : 1));
      item.querySelector(".body").style.fill = time === null || on ? "" : `color-mix(in oklab, var(--minus) ${Math.round(60 * time / slow)}%, var(--panel))`;
    }
  }
  graph.classList.toggle("lit", !!state.why);
  $("legend-more").textContent = { none: "", norm: " · number and line width: norm of the gradient", zero: " · number and line width: share of gradient elements that are 0", time: " · gate colour and number: microseconds, forward and backward", bytes: " · number and line width: bytes of the value", odd: " · NaN and infinities, and gradients that are absent" }[state.overlay];
}
const count = (v, is) => (v ? v.filter(is).length : 0);
const bytes = (n) => (n < 1024 ? `${n} B` : n < 1048576 ? `${(n / 1024).toFixed(1)} KiB` : `${(n / 1048576).toFixed(1)} MiB`);
const topBytes = Object.values(G.vars).reduce((a, v) => Math.max(a, v.bytes), 1);
const topNorm = () => high(G.wires.map((w) => norm(wireGrad(w)) ?? 0)) || 1;

/* ---------- the travelling value or gradient ---------- */
let flight = 0;
function travel() {
  const step = G.steps[state.step], layer = $("pulses"), mine = ++flight;
  layer.replaceChildren();
  if (still() || !step.node || document.hidden) return;
  const back = step.phase !== "forward";
  const ins = into[step.node].filter((w) => dom.wires[w.id] && (!back || wireGrad(w)));
  const outs = from[step.node].filter((w) => dom.wires[w.id]);
  const legs = back ? [outs.map((w) => [w, "to-gate-back"]), ins.map((w) => [w, "from-gate-back"])] : [ins.map((w) => [w, "in"]), outs.map((w) => [w, "out"])];
  const arrive = back ? ins : outs;
  const arriving = arrive.map((w) => dom.wires[w.id]);
  arriving.forEach((item) => (back ? [item.grad, item.hg] : [item.value, item.hv]).forEach((x) => x && (x.style.opacity = 0)));
  const show = () => arriving.forEach((item) => [item.grad, item.hg, item.value, item.hv].forEach((x) => x && (x.style.opacity = "")));
  const run = (leg, then) => {
    if (!leg.length) return then();
    const dots = leg.map(([w, way]) => {
      const path = dom.wires[w.id].querySelector(".line"), total = path.getTotalLength(), sx = dom.wires[w.id].place.seat[0];
      let mid = total / 2;
      for (let i = 0; i <= 80; i++) { const s = total * i / 80; if (path.getPointAtLength(s).x >= sx) { mid = s; break; } }
      const dot = make("circle", { class: `pulse ${back ? "b" : "f"}`, r: 5.5 });
      layer.append(dot);
      const [a, b] = { in: [mid, total], out: [0, mid], "to-gate-back": [mid, 0], "from-gate-back": [total, mid] }[way];
      return { dot, path, a, b };
    });
    const start = performance.now(), long = 330;
    const tick = (now) => {
      if (mine !== flight) return dots.forEach((d) => d.dot.remove()), show();
      const u = Math.min(1, Math.max(0, (now - start) / long)), e = u * u * (3 - 2 * u);
      for (const d of dots) { const p = d.path.getPointAtLength(d.a + (d.b - d.a) * e); d.dot.setAttribute("cx", p.x); d.dot.setAttribute("cy", p.y); }
      if (u < 1) requestAnimationFrame(tick); else { dots.forEach((d) => d.dot.remove()); then(); }
    };
    requestAnimationFrame(tick);
  };
  run(legs[0], () => run(legs[1], show));
}

/* ---------- camera ---------- */
let view = { x: 0, y: 0, w: 100, h: 100 };
const bounds = () => ({ x: -18, y: -14, w: L.size[0] + 36, h: L.size[1] + 28 });
function aim(next, smooth) {
  const go = (v) => { view = v; graph.setAttribute("viewBox", `${v.x} ${v.y} ${v.w} ${v.h}`); mini(); };
  clearInterval(aim.timer);
  if (!smooth || still()) return go(next);
  const a = { ...view }, start = performance.now();
  aim.timer = setInterval(() => {
    const u = Math.min(1, (performance.now() - start) / 320), e = u * u * (3 - 2 * u);
    go({ x: a.x + (next.x - a.x) * e, y: a.y + (next.y - a.y) * e, w: a.w + (next.w - a.w) * e, h: a.h + (next.h - a.h) * e });
    if (u === 1) clearInterval(aim.timer);
  }, 16);
}
function fit(whole) {
  const b = bounds(), cw = graph.clientWidth || 1, ch = graph.clientHeight || 1;
  const scale = Math.min(cw / b.w, ch / b.h, 1.3);
  state.follow = scale < 0.6 && !whole;
  if (state.follow) return follow(false);
  aim({ x: b.x + b.w / 2 - cw / scale / 2, y: b.y + b.h / 2 - ch / scale / 2, w: cw / scale, h: ch / scale });
}
function follow(smooth) {
  if (!state.follow) return;
  const b = bounds(), cw = graph.clientWidth, ch = graph.clientHeight, scale = Math.min(1, Math.max(0.74, ch / b.h));
  const w = cw / scale, h = ch / scale, step = G.steps[state.step];
  const id = state.pick?.gate ?? (state.pick?.var ? Object.keys(node).find((n) => node[n].var === state.pick.var) : null) ?? step.node ?? G.nodes[0].id;
  const [x, y] = L.nodes[nodeOf(id)] ?? [0, 0];
  const clamp = (c, size, low, full) => (size >= full ? low + full / 2 - size / 2 : Math.min(low + full - size, Math.max(low, c - size / 2)));
  aim({ x: clamp(x, w, b.x, b.w), y: clamp(y, h, b.y, b.h), w, h }, smooth);
}
function zoom(by, cx = 0.5, cy = 0.5) {
  const low = Math.min(graph.clientWidth / 8, 120), w = Math.min(bounds().w * 2.5, Math.max(low, view.w / by)), k = w / view.w;
  state.follow = false;
  aim({ x: view.x + view.w * cx * (1 - k), y: view.y + view.h * cy * (1 - k), w, h: view.h * k });
}
function mini() {
  const b = bounds(), m = $("mini"), partial = view.w < b.w - 2 || view.h < b.h - 2;
  m.style.display = partial ? "" : "none";
  if (!partial) return;
  const width = Math.min(150, graph.clientWidth * 0.24);
  m.setAttribute("viewBox", `${b.x} ${b.y} ${b.w} ${b.h}`); m.setAttribute("width", width); m.setAttribute("height", Math.min(60, width * b.h / b.w));
  const on = nodeOf(G.steps[state.step].node);
  m.replaceChildren(make("rect", { x: view.x, y: view.y, width: view.w, height: view.h }),
    ...Object.values(L.wires).map((w) => make("path", { d: w.path })),
    ...Object.entries(L.nodes).map(([id, [x, y]]) => make("circle", { cx: x, cy: y, r: id === on ? 26 : 15, class: id === on ? "on" : null })));
}
const touches = new Map();
let grabbed = null;
graph.addEventListener("pointerdown", (e) => {
  touches.set(e.pointerId, e);
  grabbed = { x: e.clientX, y: e.clientY, view: { ...view }, moved: false, gap: null };
});
addEventListener("pointermove", (e) => {
  if (!touches.has(e.pointerId) || !grabbed) return;
  touches.set(e.pointerId, e);
  const k = view.w / graph.clientWidth, box = graph.getBoundingClientRect();
  if (touches.size === 2) {
    const [p, q] = [...touches.values()], gap = Math.hypot(p.clientX - q.clientX, p.clientY - q.clientY);
    if (grabbed.gap) zoom(gap / grabbed.gap, ((p.clientX + q.clientX) / 2 - box.x) / box.width, ((p.clientY + q.clientY) / 2 - box.y) / box.height);
    grabbed.gap = gap; grabbed.moved = true;
    return;
  }
  const dx = e.clientX - grabbed.x, dy = e.clientY - grabbed.y;
  if (!grabbed.moved && Math.hypot(dx, dy) < 5) return;
  grabbed.moved = true; state.follow = false; graph.classList.add("drag"); hideTip();
  aim({ ...view, x: grabbed.view.x - dx * k, y: grabbed.view.y - dy * k });
});
const letGo = (e) => { touches.delete(e.pointerId); graph.classList.remove("drag"); if (!touches.size) setTimeout(() => (grabbed = null)); };
addEventListener("pointerup", letGo); addEventListener("pointercancel", letGo);
graph.addEventListener("click", (e) => { if (grabbed?.moved) { e.stopPropagation(); e.preventDefault(); } }, true);
graph.addEventListener("wheel", (e) => {
  e.preventDefault();
  const b = graph.getBoundingClientRect();
  zoom(Math.exp(-e.deltaY * 0.0016), (e.clientX - b.x) / b.width, (e.clientY - b.y) / b.height);
}, { passive: false });

/* ---------- hover ---------- */
const tip = $("tip");
function showTip(e, html) {
  tip.innerHTML = html; tip.hidden = false;
  const w = tip.offsetWidth, h = tip.offsetHeight;
  tip.style.left = Math.max(6, Math.min(innerWidth - w - 6, e.clientX + 12)) + "px";
  tip.style.top = (e.clientY + 18 + h > innerHeight ? e.clientY - h - 10 : e.clientY + 16) + "px";
}
const hideTip = () => (tip.hidden = true);
function tipWire(e, w, item) {
  const v = G.vars[w.var], g = wireGrad(w), seen = state.step >= valueAt[w.var], seenG = g && state.step >= gradAt[w.id];
  if (grabbed?.moved) return;
  let i = 0, where = v.shape.length ? ` ${shape(v.shape)}` : "";
  if (v.shape.length) {
    const cell = [item.hv, item.hg].map((m) => m.cells.indexOf(e.target)).find((k) => k >= 0) ?? -1;
    if (cell < 0) return showTip(e, `<b>${w.var}</b>${where}${seenG ? `<br>gradient norm ${num(norm(g))}` : ""}${!g && v.absent ? `<br>${v.absent}` : ""}`);
    i = loudest(v.value, item.blocks[cell]); where = index(v, i);
  }
  showTip(e, `<b>${w.var}${where}</b>${seen ? `<br>value ${num(v.value[i])}` : "<br>not computed yet"}${seenG ? `<br>gradient ${num(g[i])}` : ""}`);
}

/* ---------- the code ---------- */
const stepOfLine = [];
G.steps.forEach((s, i) => s.lines.forEach((line) => (stepOfLine[line] = i)));
function drawCode() {
  const box = $("flat");
  let phase = "";
  G.code.forEach((line, i) => {
    if (line.phase !== phase) { phase = line.phase; box.append(make("h3", {}, phase === "forward" ? "Forward" : "Backward, the same lines reversed")); }
    const at = stepOfLine[i];
    const text = escape(line.text).replace(/grad_\w+/g, '<span class="gr">$&</span>');
    line.at = at;
    line.dom = make("button", { class: `code ${phase === "backward" ? "back" : ""}`, onclick: () => go(at), title: `Go to step ${at}` },
      make("span", { class: "text", html: text }), make("span", { class: "note" }));
    box.append(line.dom);
  });
}
function paintCode(fresh = false) {
  const now = G.steps[state.step].lines;
  G.code.forEach((line, i) => {
    const seen = line.at <= state.step, here = now.includes(i);
    if (line.seen === seen && !line.here && !here && !fresh) return;
    line.seen = seen; line.here = here;
    line.dom.classList.toggle("now", here);
    line.dom.classList.toggle("todo", !seen);
    if (now.includes(i)) line.dom.setAttribute("aria-current", "step"); else line.dom.removeAttribute("aria-current");
    const note = line.dom.lastChild, w = line.wire && wire[line.wire], v = G.vars[line.var ?? w.var], data = w ? wireGrad(w) : v.value;
    note.textContent = line.at > state.step || line.between || !data ? "" : v.shape.length ? shape(v.shape) : num(data[0]);
    note.className = `note ${v.shape.length ? "" : w ? "g" : "v"}`;
  });
  show($("flat"), G.code[now[0]]?.dom, G.code[now.at(-1)]?.dom);
  paintSource();
}

function show(box, first, last) {
  if (!first) return void (box.scrollTop = 0);
  const top = first.offsetTop, bottom = last.offsetTop + last.offsetHeight;
  if (top < box.scrollTop + 30 || bottom > box.scrollTop + box.clientHeight - 30) box.scrollTop = (top + bottom) / 2 - box.clientHeight / 2;
}

/* ---------- the user's source ---------- */
const sourceLines = {};
function drawSource() {
  const box = $("source"), first = {};
  G.steps.forEach((s, i) => { const line = s.phase === "forward" && G.gates[s.node].line; if (line) first[line] ??= i; });
  box.hidden = !G.source.length;
  for (const file of G.source) {
    const indent = Math.min(...file.lines.filter((l) => l.trim()).map((l) => /^\s*/.exec(l)[0].length));
    box.append(make("h3", {}, `Your code, ${file.file}`));
    file.lines.forEach((text, i) => {
      const where = `${file.file}:${file.first + i}`, at = first[where];
      const parts = [make("span", { class: "number", "aria-hidden": true }, file.first + i), make("span", { class: "text" }, text.slice(indent) || " ")];
      const line = at === undefined ? make("div", { class: "code still" }, ...parts) : make("button", { class: "code", title: `Go to step ${at}`, onclick: () => go(at) }, ...parts);
      sourceLines[where] = line;
      box.append(line);
    });
  }
}
function paintSource() {
  const step = G.steps[state.step], here = G.gates[step.node]?.line;
  for (const [where, line] of Object.entries(sourceLines)) {
    line.classList.toggle("now", where === here);
    line.classList.toggle("back", step.phase !== "forward");
  }
  if (sourceLines[here]) show($("source"), sourceLines[here], sourceLines[here]);
}

/* ---------- the gate panel ---------- */
const dots = '<span class="dim">not computed yet</span>';
function subject() {
  const step = G.steps[state.step];
  return state.pick ?? (step.node && G.gates[step.node] ? { gate: step.node } : step.node ? { var: G.output, wire: trunk[G.output] } : { var: G.nodes[0].var, wire: trunk[G.nodes[0].var] });
}
function verdict({ grad, numeric, error }) {
  if (!numeric || !grad) return "";
  if (!Number.isFinite(error)) return `numeric check: not possible, as ${finite(grad).length < grad.length ? "the gradient" : "the difference"} is not finite`;
  const good = error <= 1e-5 * Math.max(1, high(grad.map(Math.abs))), power = error > 0 ? ` within 10<sup>${String(Math.ceil(Math.log10(error))).replace("-", "−")}</sup>` : " exactly";
  return `${grad.length === 1 ? `numeric ${num(numeric[0])}, ` : "numeric check "}<b class="${good ? "" : "bad"}">${good ? "agrees" : "differs"}</b>${good ? power : ` by ${num(error)}`}`;
}
function panel() {
  const box = $("gate"), s = subject();
  box.replaceChildren();
  const facts = make("div", { class: "facts" }), side = make("div", { class: "side" });
  const g = s.gate && G.gates[s.gate];
  const names = g ? [...new Set([...g.inputs, g.output])] : [s.var];
  const phase = G.steps[state.step].phase;
  if (!names.includes(state.show)) state.show = g ? (phase === "backward" ? g.inputs.find((n) => G.vars[n].grad) ?? g.output : g.output) : s.var;
  if (g) gateFacts(box, facts, g, s.gate); else varFacts(box, facts, s);
  box.append(facts, side);
  if (names.some((n) => G.vars[n].shape.length)) inspector(side, names, g);
  if (G.live) inputs(side); else if (!side.children.length) side.remove();
}
function gateFacts(box, facts, g, id) {
  const t = state.step, out = G.vars[g.output], seen = t >= valueAt[g.output];
  const shapes = g.op === "copy" ? shape(out.shape) : `${g.inputs.map((n) => shape(G.vars[n].shape)).join(", ")} → ${shape(out.shape)}`;
  box.append(make("div", { class: "head" }, make("h2", { html: g.op === "copy" ? `Branch at ${math(g.output)}` : `${escape(g.title).replace(/^./, (c) => c.toUpperCase())}` }),
    make("span", { class: "badge" }, g.pattern), make("span", { class: "dim" }, `${shapes}${g.line ? ` · ${g.line}` : ""}`)));
  if (g.op === "copy") return branchFacts(facts, g, id);
  const numbers = out.shape.length === 0 && g.inputs.every((n) => !G.vars[n].shape.length);
  let text = `<span class="math">${math(g.output)}</span> = ${formula(g.forward)}`;
  if (numbers && seen) {
    const filled = escape(g.forward).replace(/[A-Za-z_]\w*/g, (w) => (w in G.vars ? signed(G.vars[w].value[0]) : w)).replace(/ \* /g, " × ").replace(/(^|[( ])-/g, "$1−").replace(/\(\((−[^()]*)\)\)/g, "($1)");
    text += ` = ${filled} = <span class="v">${num(out.value[0])}</span>`;
  }
  facts.append(make("h3", {}, "Forward"), make("p", { class: "eq", html: text }), make("h3", {}, "Backward: upstream × local = downstream"));
  const flow = make("div", { class: "flow" });
  g.inputs.forEach((name, slot) => {
    const w = into[id].find((w) => w.slot === slot), known = t >= gradAt[w.id], down = g.down[slot], local = g.local[slot];
    const row = make("div", { class: "into" }, make("span", { class: "to", html: math(G.vars[name].label) }));
    const cell = make("div");
    if (!down) cell.append(make("p", { class: "eq dim" }, `no gradient: ${G.vars[name].absent || "the gate passes none on"}`));
    else if (numbers && local && g.jacobian[slot]?.[0]?.[0]) {
      const local = g.jacobian[slot][0][0][1], tex = formula(g.local[slot]), plain = num(local);
      const value = seen && !/^[-−\d.]+$/.test(g.local[slot]) ? ` = <span class="v">${plain}</span>` : "";
      cell.append(make("p", { class: "eq", html: `${frac(g.output, name)} = ${tex}${value}` }));
      cell.append(make("p", { class: "eq", html: known ? `<span class="g">${signed(out.grad?.[0])}</span> × ${signed(local)} = <span class="g">${num(down[0])}</span> <span class="check">&ensp;${verdict(G.vars[name])}</span>` : dots }));
    } else {
      if (local) cell.append(make("p", { class: "eq", html: `${frac(g.output, name)}: ${formula(local)}` }));
      const whole = trunk[name] === w.id;
      cell.append(make("p", { class: "eq", html: `<code>${escape(g.back[slot] ?? "").replace(/grad_\w+/g, '<span class="g">$&</span>')}</code>` }));
      cell.append(make("p", { class: "check", html: known ? (whole ? verdict(G.vars[name]) : `one part of the gradient of ${math(name)}: the branch adds it up`) : "not computed yet" }));
    }
    row.append(cell); flow.append(row);
  });
  facts.append(flow);
  const full = g.inputs.reduce((a, n, i) => a + (g.down[i] ? G.vars[n].shape.reduce((x, y) => x * y, 1) * out.shape.reduce((x, y) => x * y, 1) * (out.bytes / Math.max(1, out.shape.reduce((x, y) => x * y, 1))) : 0), 0);
  if (!numbers && full) facts.append(make("p", { class: "check", html: `${g.jacobian.some(Boolean) ? `${g.jacobian.reduce((a, j) => a + (j ? j.reduce((x, row) => x + row.length, 0) : 0), 0)} local derivatives can be other than 0. ` : ""}The local derivatives as full matrices would take ${bytes(full)}; they are never formed.` }));
  const slot = g.inputs.indexOf(state.show ?? ""), i = state.elem ?? 0;
  if (!(numbers && g.local[slot]) && slot >= 0 && g.down[slot] && g.jacobian[slot] && t >= gradAt[into[id].find((w) => w.slot === slot).id]) oneElement(facts, g, slot, i);
}
function oneElement(facts, g, slot, i) {
  const name = g.inputs[slot], v = G.vars[name], up = G.vars[g.output].grad, row = g.jacobian[slot][i] ?? [];
  if (i >= v.value.length) return;
  const shown = row.slice(0, 8).map(([k, d]) => `<span class="g">${signed(up?.[k])}</span> × ${signed(d)}`).join(" + ");
  facts.append(make("h3", { html: `One element, <code>${name}${index(v, i)}</code>` }),
    make("p", { class: "eq", html: `${shown || "no path"}${row.length > 8 ? " + …" : ""} = <span class="g">${num(g.down[slot][i])}</span>` }));
}
function branchFacts(facts, g, id) {
  const v = G.vars[g.output], parts = g.branches.map((b) => wire[b]), known = state.step >= gradAt[into[id][0].id], i = Math.min(state.elem ?? 0, v.value.length - 1);
  facts.append(make("h3", {}, "Forward"), make("p", { class: "eq", html: `${math(g.output)} is used ${parts.length} times: by ${parts.map((w) => (node[w.to].kind === "out" ? "the output" : `${escape(G.gates[w.to].title)} (${math(G.gates[w.to].output)})`)).join(" and ")}.` }),
    make("h3", {}, "Backward: gradients add at a branch"));
  if (!v.grad) return facts.append(make("p", { class: "eq dim" }, `no gradient: ${v.absent}`));
  if (!known) return facts.append(make("p", { class: "eq", html: dots }));
  facts.append(make("p", { class: "eq", html: `<code>${g.output}${index(v, i)}</code>: ${parts.filter(wireGrad).map((w) => `<span class="g">${signed(wireGrad(w)[i])}</span>`).join(" + ")} = <span class="g">${num(v.grad[i])}</span>` }),
    make("p", { class: "check", html: verdict(v) }));
}
const told = (s) => (!s ? "no elements" : `${s.low === null ? "nothing finite" : `from ${num(s.low)} to ${num(s.high)}`}, ${s.zeros.toLocaleString("en")} of ${s.count.toLocaleString("en")} are 0${odd(s) ? `, <b class="bad">${odd(s)}</b>` : ""}`);
function varFacts(box, facts, s) {
  const v = G.vars[s.var], seen = state.step >= valueAt[s.var], known = v.grad && state.step >= gradAt[trunk[s.var]];
  box.append(make("div", { class: "head" }, make("h2", { html: `${v.kind === "computed" ? (s.var === G.output ? "Output" : "Value") : v.kind.replace(/^./, (c) => c.toUpperCase())} ${math(s.var)}` }),
    make("span", { class: "dim" }, shape(v.shape))));
  if (!v.shape.length) {
    facts.append(make("h3", {}, "Value"), make("p", { class: "eq", html: seen ? `<span class="v">${num(v.value[0])}</span>` : dots }));
    facts.append(make("h3", {}, "Gradient"), make("p", { class: "eq", html: !v.grad ? `<span class="dim">absent: ${v.absent}</span>` : known ? `${frac(G.output, s.var)} = <span class="g">${num(v.grad[0])}</span> <span class="check">&ensp;${verdict(v)}</span>` : dots }));
    if (known && s.var !== G.output) facts.append(make("p", { class: "check", html: `Raise ${math(s.var)} by 0.01 and ${math(G.output)} changes by about ${num(v.grad[0] * 0.01)}.` }));
    if (known && v.grad[0] === 0) whyButton(facts, s.var, 0);
  } else {
    facts.append(make("h3", {}, "Value"), make("p", { class: "eq", html: seen ? told(v.stats.value) : dots }));
    facts.append(make("h3", {}, "Gradient"), make("p", { class: "eq", html: !v.grad ? `<span class="dim">absent: ${v.absent}</span>` : known ? `norm ${num(v.stats.grad?.norm)}, ${told(v.stats.grad)}` : dots }));
    if (known) facts.append(make("p", { class: "check", html: verdict(v) }));
  }
}
function inspector(side, names, g) {
  side.append(make("h3", {}, "Tensors"));
  if (names.length > 1) {
    const chips = make("div", { class: "chips" });
    names.forEach((n) => chips.append(make("button", { "aria-pressed": n === state.show, onclick: () => { state.show = n; state.elem = null; panel(); } }, n)));
    side.append(chips);
  }
  const name = state.show, v = G.vars[name], t = state.step;
  let grad = v.grad, known = v.grad && t >= gradAt[trunk[name]];
  let caption = "gradient";
  if (g && g.op !== "copy") {
    const w = into[Object.keys(G.gates).find((k) => G.gates[k] === g)].find((w) => w.var === name);
    if (w) { grad = wireGrad(w); known = grad && t >= gradAt[w.id]; if (w.id !== trunk[name]) caption = "gradient on this branch"; }
  }
  const maps = make("div", { class: "maps" });
  maps.append(figure(name, v, t >= valueAt[name] ? v.value : null, "value", "cell-v", "v"));
  maps.append(figure(name, v, known ? grad : null, caption, "cell-g", "g", grad ? null : "no gradient asked for"));
  side.append(...sliders(name), maps);
  if (known && zeros(grad)) {
    let i = state.elem;
    if (i === null || grad[i] !== 0) i = firstZero(grad, v);
    whyButton(side, name, i);
  }
}
function sliders(name) {
  const v = G.vars[name], s = held(v);
  return s.slice(0, -2).map((n, k) => {
    const says = make("span", { class: "dim" }), at = (lead[name] ??= s.slice(0, -2).map(() => 0));
    const tell = () => (says.textContent = `axis ${k}: ${at[k] * (v.kept?.strides[k] ?? 1)} of ${v.shape[k]}`);
    const range = make("input", { type: "range", min: 0, max: n - 1, value: at[k], "aria-label": `axis ${k} of ${name}`, oninput: () => { at[k] = +range.value; state.elem = null; tell(); paint(); }, onchange: () => panel() });
    tell();
    return make("label", { class: "axis-pick" }, range, says);
  });
}
function firstZero(grad, v) {
  if (v.shape.length > 2) return grad.indexOf(0);
  const [rows, cols] = grid(held(v));
  for (let c = 0; c < cols; c++) if (Array.from({ length: rows }, (_, r) => grad[r * cols + c]).every((x) => x === 0)) return c;
  return grad.indexOf(0);
}
function figure(name, v, data, caption, plus, cls, empty) {
  if (!data) return make("figure", {}, make("figcaption", { class: cls }, caption), make("p", { class: "dim" }, empty ?? "not computed yet"));
  const { rows, cols, cells: at, thinned } = blocks(name, MOST), words = cols <= 8, longest = Math.max(0, ...data.slice(0, 4096).map((x) => num(x).length)), wide = words ? Math.max(42, 7 * longest) : 16, tall = words ? (rows > 4 ? 17 : 21) : 16;
  const W = cols * wide + 18, H = rows * tall + (words ? 14 : 4), top0 = words ? 14 : 4, all = data.filter(Number.isFinite);
  const svg = make("svg", { width: W, height: H + 40, viewBox: `0 0 ${W} ${H + 40}`, role: "img", "aria-label": `${caption} of ${name}, shape ${shape(v.shape)}` });
  const fig = make("figure", {}, make("figcaption", { class: cls }, caption), svg);
  if (words && !thinned) for (let c = 0; c < cols; c++) svg.append(make("text", { class: "axis", x: 18 + c * wide + wide / 2, y: 9 }, c));
  const fills = [], shown = at.map((block) => loudest(data, block));
  shown.forEach((i, k) => {
    const r = Math.floor(k / cols), c = k % cols, X = 18 + c * wide, Y = top0 + r * tall, x = data[i];
    if (c === 0 && words && !thinned) svg.append(make("text", { class: "axis", x: 8, y: Y + tall / 2 + 4 }, r));
    const fill = make("rect", { x: X, y: Y, width: wide, height: tall });
    fills.push(fill);
    svg.append(make("g", { class: `cell${state.elem === i ? " pick" : ""}`, onclick: () => { state.elem = i; state.show = name; panel(); },
      onpointermove: (e) => showTip(e, `<b>${name}${index(v, i)}</b>${at[k].length > 1 ? `, the largest of ${at[k].length}` : ""}<br>${caption} ${String(x).replace("-", "−")}`), onpointerleave: hideTip },
      make("rect", { class: "frame", x: X, y: Y, width: wide, height: tall }), fill, words ? make("text", { x: X + wide / 2, y: Y + tall / 2 + 4, "pointer-events": "none" }, x === 0 ? "0" : num(x)) : null));
  });
  tint(fills, shown.map((i) => data[i]), plus);
  if (words) fills.forEach((c) => c.setAttribute("fill-opacity", c.getAttribute("fill-opacity") * 0.6));
  if (state.elem !== null) { const p = svg.querySelector(".pick"); if (p) svg.append(p); }
  if (thinned || v.kept) fig.append(make("p", { class: "dim" }, `${shape(v.shape)}${v.kept ? `, every ${v.kept.strides.map((x) => (x === 1 ? "1st" : x === 2 ? "2nd" : x === 3 ? "3rd" : `${x}th`)).join(", ")} element` : ""}${thinned ? "; each cell the largest of its block" : ""}`));
  if (all.length <= 2) { svg.setAttribute("height", H + 2); svg.setAttribute("viewBox", `0 0 ${W} ${H + 2}`); return fig; }
  const least = low(all), most = high(all), n = Math.min(12, Math.max(4, all.length)), bins = new Array(n).fill(0);
  all.forEach((x) => bins[Math.min(n - 1, Math.floor(n * (x - least) / (most - least || 1)))]++);
  const top = Math.max(...bins), span = W - 18, hist = make("g", { class: "hist" }, make("line", { x1: 18, x2: W, y1: H + 26, y2: H + 26 }));
  bins.forEach((b, k) => hist.append(make("rect", { class: plus, x: 18 + span * k / n + 0.5, width: Math.max(1, span / n - 1), y: H + 26 - 20 * b / top, height: 20 * b / top })));
  if (span > 90) hist.append(make("text", { class: "axis", x: 18, y: H + 37, style: "text-anchor:start" }, num(least)), make("text", { class: "axis", x: W, y: H + 37, style: "text-anchor:end" }, num(most)));
  svg.append(hist);
  return fig;
}

/* ---------- why is this gradient zero? ---------- */
function whyButton(box, name, i) {
  const label = `${name}${index(G.vars[name], i)}`;
  const on = state.why?.label === label;
  box.append(make("p", { class: "act" }, make("button", { "aria-pressed": on, onclick: () => { state.elem = i; state.why = on ? null : why(name, i); revealPath(); paint(); panel(); } }, on ? "Clear the path" : `Why is the gradient of ${label} zero?`)));
  if (on) { const head = $("gate").querySelector(".head"); head.after(make("div", { class: "why", html: state.why.html })); $("gate").scrollTop = 0; }
}
function why(name, start) {
  const seen = new Set(), wires = new Set(), nodes = new Set([node[`leaf:${name}`] ? `leaf:${name}` : name]), cuts = new Map(), trail = [name];
  let cancel = 0, closed = 0;
  const todo = [[name, start]];
  while (todo.length) {
    const [v, i] = todo.pop(), key = `${v} ${i}`;
    if (seen.has(key)) continue;
    seen.add(key);
    if (trunk[v]) { wires.add(trunk[v]); nodes.add(wire[trunk[v]].to); }
    for (const w of uses[v] ?? []) {
      const g = G.gates[w.to];
      wires.add(w.id); nodes.add(w.to);
      if (!g.down[w.slot]) continue;                  // no gradient comes from there at all
      if (!g.jacobian[w.slot]) { closed++; continue; }
      const row = g.jacobian[w.slot][i] ?? [], open = row.filter(([, d]) => d !== 0);
      if (!open.length) { (cuts.get(w.to) ?? cuts.set(w.to, { slot: w.slot, at: [] }).get(w.to)).at.push(i); continue; }
      const output = G.vars[g.output];
      if (open.some(([k]) => output.grad?.[k] !== 0)) cancel++;
      else { open.forEach(([k]) => todo.push([g.output, k])); if (!trail.includes(g.output)) trail.push(g.output); }
    }
  }
  const label = `${name}${index(G.vars[name], start)}`;
  let html = `<p>${closed ? `Some gates behind <code>${label}</code> have too many local derivatives to be in this page; where it closes can be told in part only.` : !cancel ? `Every path from <code>${label}</code> to ${math(G.output)} is closed.` : cuts.size ? `Some paths from <code>${label}</code> are closed, and the terms on the others cancel.` : `The paths from <code>${label}</code> are open, but their terms add up to exactly 0.`}</p>`;
  for (const [id, { slot, at }] of cuts) {
    const g = G.gates[id], operand = g.inputs[slot], xs = at.map((i) => G.vars[operand].value[i]), reason = g.zero[slot] ?? "its local derivative is 0 here";
    const route = trail.map(math).join(" → ");
    html += `<p>${route} ↛ ${math(id)}: at the <b>${escape(g.title)}</b> gate ${formula(reason)}${G.vars[operand].shape.length ? `, in all ${at.length} elements on the way` : ""}${g.op === "relu" ? ` (from ${num(Math.min(...xs))} to ${num(Math.max(...xs))})` : ""}. The local derivative is 0, so the upstream gradient is multiplied by 0.</p>`;
    if (g.op === "relu") html += "<p>To open it again: a larger bias, a smaller learning rate, or a rectifier with a slope below 0.</p>";
  }
  return { label, wires, nodes, cuts, html };
}
function revealPath() {
  if (!state.why) return;
  const hidden = [...state.why.nodes].map((n) => node[n]?.group).filter((g) => g && state.folded.has(g));
  if (hidden.length) { hidden.forEach((g) => state.folded.delete(g)); if (!(key(state.folded) in G.layouts)) state.folded = new Set(G.groups.map((g) => g.id).filter((g) => g !== hidden[0])); draw(); foldLabel(); }
}

/* ---------- live inputs ---------- */
const original = Object.fromEntries(Object.entries(G.vars).filter(([, v]) => v.kind !== "computed").map(([k, v]) => [k, v.value[0]]));
const given = { ...original };
let fields = null;
function inputs(side) {
  if (!fields) {
    const box = make("div", { class: "inputs" }, make("span", { class: "th" }, ""), make("span", { class: "th v" }, "value"), make("span", { class: "th" }, ""), make("span", { class: "th g" }, "gradient"));
    fields = { box, rows: {} };
    for (const name of Object.keys(given)) {
      const number = make("input", { type: "number", step: "0.1", value: given[name], id: `in-${name}`, oninput: () => edit(name, number.value, slide) });
      const slide = make("input", { type: "range", min: -5, max: 5, step: 0.1, value: given[name], "aria-label": `slider for ${name}`, oninput: () => edit(name, slide.value, number) });
      const g = make("span", { class: "g" });
      fields.rows[name] = { number, slide, g };
      box.append(make("label", { for: `in-${name}`, html: math(name) }), number, slide, g);
    }
  }
  for (const [name, row] of Object.entries(fields.rows)) row.g.textContent = state.step >= gradAt[trunk[name]] ? num(G.vars[name].grad[0]) : "";
  const changed = Object.keys(given).some((k) => given[k] !== original[k]);
  const reset = () => { Object.assign(given, original); for (const [k, r] of Object.entries(fields.rows)) r.number.value = r.slide.value = given[k]; rerun(); };
  side.append(make("h3", { class: "with-button" }, "Inputs", make("button", { class: "small", disabled: !changed, onclick: reset }, "Reset")), fields.box, make("p", { class: "dim" }, G.note));
}
function edit(name, text, other) {
  const x = parseFloat(text);
  if (!Number.isFinite(x)) return;
  given[name] = x; other.value = x;
  const kept = document.activeElement;
  rerun();
  kept?.focus?.();
}
function rerun() {
  const r = recompute(given), h = 1e-5, at = (v, put) => recompute(v, put).value[G.output];
  for (const [name, v] of Object.entries(G.vars)) {
    const x = r.value[name];
    v.value = [x];
    if (!v.grad) continue;
    v.grad = [r.grad[name]];
    v.numeric = [name in given ? (at({ ...given, [name]: x + h }) - at({ ...given, [name]: x - h })) / (2 * h) : (at(given, { [name]: x + h }) - at(given, { [name]: x - h })) / (2 * h)];
    v.error = Math.abs(v.grad[0] - v.numeric[0]);
  }
  for (const [id, g] of Object.entries(G.gates)) {
    if (g.op === "copy") { g.down = g.down.map((d) => d && [r.grad[g.output]]); continue; }
    g.down = g.down.map((d, slot) => d && [r.grad[g.output] * r.local[id][slot]]);
    g.jacobian = g.jacobian.map((j, slot) => j && [[[0, r.local[id][slot]]]]);
  }
  state.why = null;
  paint(); paintCode(true); panel(); says(); if (!$("tables").hidden) tables();
}

/* ---------- steps ---------- */
function says() {
  const s = G.steps[state.step], g = s.node && G.gates[s.node], n = state.step, back = LAST - SEED;
  const name = g && (g.op === "copy" ? `branch of ${math(g.output)}` : escape(g.title));
  const code = s.lines.map((i) => G.code[i].text), text = code.length ? `<code>${escape(code.join("; "))}</code>` : "";
  $("says").innerHTML = {
    start: `<b>The inputs are given.</b><span class="dim">Compute gate by gate with → or the buttons.</span>`,
    forward: `<span><b class="v">Forward ${n} of ${SEED - 1}</b> · ${name}</span>${text}`,
    seed: `<span><b class="g">Backward 0 of ${back}</b> · the output's own gradient is 1</span>${text}`,
    backward: `<span><b class="g">Backward ${n - SEED} of ${back}</b> · ${name}</span>${text}`,
  }[s.phase];
  $("scrub").value = n;
  $("scrub").setAttribute("aria-valuetext", $("says").textContent);
  $("scrub").style.setProperty("--now", s.phase === "start" ? "var(--soft)" : s.phase === "forward" ? "var(--value)" : "var(--grad)");
  const cut = (100 * (SEED - 0.5)) / LAST, here = (100 * n) / LAST;
  const tone = (c, known) => (known ? `var(--${c})` : `color-mix(in srgb, var(--${c}) 25%, var(--paper))`);
  $("scrub").style.setProperty("--track", `linear-gradient(90deg, ${tone("value", true)} 0 ${Math.min(here, cut)}%, ${tone("value", false)} ${Math.min(here, cut)}% ${cut}%, ${tone("grad", true)} ${cut}% ${Math.max(here, cut)}%, ${tone("grad", false)} ${Math.max(here, cut)}%)`);
  $("first").disabled = $("prev").disabled = n === 0;
  $("last").disabled = $("next").disabled = n === LAST;
}
function go(to, animate = true) {
  const step = Math.min(LAST, Math.max(0, to)), ahead = step > state.step;
  state.step = step; state.pick = null; state.elem = null; state.show = null; state.why = null;
  flight++;
  paint(); paintCode(); panel(); says(); follow(true); mini(); remember();
  if (animate && ahead) travel(); else $("pulses").replaceChildren();
}
function choose(what) {
  state.pick = what; state.elem = null; state.show = null; state.why = null;
  paint(); panel(); tab("gate");
}
function play(on) {
  clearInterval(state.playing);
  state.playing = null;
  if (on) {
    if (state.step === LAST) go(0);
    state.playing = setInterval(() => (state.step === LAST ? play(false) : go(state.step + 1)), 1150);
    go(state.step + 1);
  }
  $("play").setAttribute("aria-label", on ? "Pause" : "Play");
  $("play-icon").setAttribute("d", on ? "M4 3h3v10H4zM9 3h3v10H9z" : "M4 2.5l9 5.5-9 5.5z");
}

/* ---------- folding, search, tables, settings ---------- */
function foldLabel() {
  const all = state.folded.size === G.groups.length;
  $("fold").textContent = all ? "Unfold" : "Fold"; $("fold").hidden = !G.groups.length || (all && !("" in G.layouts));
}
function fold(id) {
  const next = new Set(state.folded), ids = G.groups.map((g) => g.id);
  next.has(id) ? next.delete(id) : next.add(id);
  state.folded = key(next) in G.layouts ? next : new Set(state.folded.has(id) ? ids.filter((x) => x !== id) : ids);
  redraw();
}
function foldAll(on) { state.folded = new Set(on || !("" in G.layouts) ? G.groups.map((g) => g.id) : []); redraw(); }
function redraw() { flight++; draw(); paint(); foldLabel(); follow(false); remember(); }
let found = [], turn = 0;
function search(text) {
  const q = text.trim().toLowerCase();
  graph.classList.toggle("searching", !!q);
  for (const x of [...Object.values(dom.nodes), ...Object.values(dom.wires)]) x.classList.remove("hit");
  found = []; turn = -1;
  $("hits").textContent = "";
  if (!q) return;
  for (const n of G.nodes) {
    const g = G.gates[n.id], words = [n.var, g?.title, g?.op, g?.glyph, g?.pattern, G.vars[n.var].kind].join(" ").toLowerCase();
    if (n.kind !== "out" && words.includes(q)) { found.push(n); dom.nodes[nodeOf(n.id)]?.classList.add("hit"); from[n.id].forEach((w) => dom.wires[w.id]?.classList.add("hit")); }
  }
  $("hits").textContent = `${found.length} found`;
}
function nextHit() {
  if (!found.length) return;
  turn = (turn + 1) % found.length;
  const n = found[turn];
  if (n.group && state.folded.has(n.group)) { fold(n.group); const q = $("search").value, keep = turn; search(q); turn = keep; }
  choose(n.kind === "gate" || n.kind === "copy" ? { gate: n.id } : { var: n.var, wire: trunk[n.var] });
  const [x, y] = L.nodes[nodeOf(n.id)];
  if (view.w < bounds().w) aim({ ...view, x: x - view.w / 2, y: y - view.h / 2 }, true);
  $("hits").textContent = `${turn + 1} of ${found.length}`;
}
function tables() {
  const show = (v) => (!v ? "absent" : v.length <= 12 ? v.map(num).join(", ") : `${v.length} numbers, ${num(low(v))} to ${num(high(v))}, ${zeros(v)} zero`);
  const whole = (v, s) => (!v ? "absent" : v.length <= 12 ? v.map(num).join(", ") : told(s));
  const cell = (html, i, heads) => make(i ? "td" : "th", { role: i ? "cell" : "rowheader", scope: i ? null : "row", class: i ? "num" : null, "data-label": heads[i], html: html && `<div>${html}</div>` });
  const build = (caption, heads, rows) => make("table", { role: "table" }, make("caption", {}, caption),
    make("thead", { role: "rowgroup" }, make("tr", { role: "row" }, ...heads.map((h) => make("th", { scope: "col", role: "columnheader" }, h)))),
    make("tbody", { role: "rowgroup" }, ...rows.map((r) => make("tr", { role: "row" }, ...r.map((c, i) => cell(String(c), i, heads))))));
  $("tables").replaceChildren(
    build("Tensors, after the whole backward pass", ["name", "kind", "shape", "value", "gradient", "check"],
      Object.entries(G.vars).map(([n, v]) => [n, v.kind, shape(v.shape), `<span class="v">${whole(v.value, v.stats.value)}</span>`, v.grad ? `<span class="g">${whole(v.grad, v.stats.grad)}</span>` : `absent: ${v.absent}`, v.grad ? verdict(v) : ""])),
    build("Gates, in forward order", ["output", "gate", "statement", "pattern", "local derivatives", "downstream gradients", "time"],
      Object.entries(G.gates).map(([id, g]) => [id, escape(g.title), g.op === "copy" ? `${g.output} is used ${g.branches.length} times` : `<code>${escape(`${g.output} = ${g.forward}`)}</code>`, g.pattern,
        g.inputs.map((n, i) => (g.local[i] ? `to ${n}: ${formula(g.local[i])}` : "")).filter(Boolean).join("<br>"), g.inputs.map((n, i) => `${n}: <span class="g">${show(g.down[i])}</span>`).join("<br>"), g.op === "copy" ? "" : `${(g.time[0] + g.time[1]).toFixed(1)}\u00a0µs`])),
    build("Steps", ["step", "phase", "gate", "statements"],
      G.steps.map((s, i) => [i, s.phase, s.node && G.gates[s.node] ? `${escape(G.gates[s.node].title)} (${G.gates[s.node].output})` : "", s.lines.map((l) => `<code>${escape(G.code[l].text)}</code>`).join("<br>")])));
}
function toggleTables(on = $("tables").hidden) {
  if (on) tables();
  $("tables").hidden = !on; document.body.classList.toggle("tables", on);
  $("table").setAttribute("aria-pressed", on); $("table").textContent = on ? "Graph" : "Tables";
  if (on) $("tables").focus();
}
function palette() { root.dataset.palette = root.dataset.palette === "safe" ? "classic" : "safe"; setLabels(); remember(); }
function theme() { root.dataset.theme = { auto: "dark", dark: "light", light: "auto" }[root.dataset.theme]; setLabels(); remember(); }
function setLabels() {
  $("palette").setAttribute("aria-pressed", root.dataset.palette === "safe");
  $("theme").textContent = { auto: "Auto", dark: "Dark", light: "Light" }[root.dataset.theme];
}
function overlay(name) { state.overlay = name; $("overlay").value = name; paint(); remember(); }
function tab(name) {
  $("main").dataset.tab = name;
  document.querySelectorAll(".tabs button").forEach((b) => b.setAttribute("aria-selected", b.dataset.tab === name));
  if (name === "code") paintCode(true);
}

/* ---------- keys ---------- */
const KEYS = [
  ["→ ←", "one gate on, one gate back", null], ["Home End", "to the start, to the end", null], ["space", "play or pause", null],
  ["/", "search; Enter goes to the next match", null], ["w", "why is this gradient zero?", null], ["o", "next overlay", null], ["[ ]", "fold all layers, unfold all", null],
  ["+ − 0", "zoom in, out, fit the graph", null], ["t", "tables", null], ["c", "colour-blind-safe palette", null], ["d", "light, dark, as the system", null],
  ["Tab Enter", "walk the graph, open a gate", null], ["Esc", "clear the search, the path, the choice", null]];
$("key-list").append(...KEYS.flatMap(([k, what]) => [make("dt", {}, k), make("dd", {}, what)]));
addEventListener("keydown", (e) => {
  const typing = e.target.matches("input:not([type=range]), select, textarea"), onRange = e.target.matches("input[type=range]");
  if (e.ctrlKey || e.metaKey || e.altKey || $("help").open) return;
  if (e.key === "Escape") { $("search").value = ""; search(""); state.why = null; state.pick = null; paint(); panel(); e.target.blur?.(); return; }
  if (e.target.id === "search" && e.key === "Enter") return nextHit();
  if (typing || (onRange && e.key.startsWith("Arrow"))) return;
  const act = {
    ArrowRight: () => go(state.step + 1), ArrowLeft: () => go(state.step - 1), Home: () => go(0), End: () => go(LAST),
    "/": () => $("search").focus(), "+": () => zoom(1.25), "=": () => zoom(1.25), "-": () => zoom(0.8), 0: () => fit(),
    t: () => toggleTables(), c: palette, d: theme, "[": () => foldAll(true), "]": () => foldAll(false), "?": () => $("help").showModal(),
    o: () => overlay({ none: "norm", norm: "zero", zero: "time", time: "bytes", bytes: "odd", odd: "none" }[state.overlay]),
    w: () => document.querySelector(".act button[aria-pressed]")?.click(),
  }[e.key] ?? (e.key === " " && !e.target.matches("button, .node") ? () => play(!state.playing) : null);
  if (act) { e.preventDefault(); if (state.playing && e.key !== " ") play(false); act(); }
});

/* ---------- start ---------- */
$("title").textContent = G.title; $("subtitle").textContent = G.subtitle;
$("subtitle").title = G.subtitle;
$("scrub").max = LAST;
$("end-f").style.width = `${(100 * (SEED - 0.5)) / LAST}%`;
$("scrub").addEventListener("input", (e) => { play(false); go(+e.target.value); });
for (const [id, act] of Object.entries({ first: () => go(0), prev: () => go(state.step - 1), next: () => go(state.step + 1), last: () => go(LAST) })) $(id).addEventListener("click", () => { play(false); act(); });
$("play").addEventListener("click", () => play(!state.playing));
$("in").addEventListener("click", () => zoom(1.25)); $("out").addEventListener("click", () => zoom(0.8)); $("fit").addEventListener("click", () => fit(true));
$("search").addEventListener("input", (e) => search(e.target.value));
$("overlay").addEventListener("change", (e) => overlay(e.target.value));
$("fold").addEventListener("click", () => foldAll(state.folded.size < G.groups.length));
$("table").addEventListener("click", () => toggleTables());
$("skip").addEventListener("click", (e) => { e.preventDefault(); toggleTables(true); });
$("palette").addEventListener("click", palette); $("theme").addEventListener("click", theme);
$("keys").addEventListener("click", () => $("help").showModal());
document.querySelectorAll(".tabs button").forEach((b) => b.addEventListener("click", () => tab(b.dataset.tab)));
addEventListener("resize", () => { fit(); });
addEventListener("beforeprint", () => { tables(); const b = bounds(); graph.setAttribute("viewBox", `${b.x} ${b.y} ${b.w} ${b.h}`); });
addEventListener("afterprint", () => fit());
drawCode(); drawSource(); tab("gate"); setLabels(); foldLabel(); draw(); overlay(state.overlay);
go(state.step, false);
