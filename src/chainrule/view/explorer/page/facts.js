"use strict";
const G = JSON.parse(document.getElementById("data").textContent);
const $ = (id) => document.getElementById(id);
if (G.version !== 2) {
  document.body.replaceChildren(`This page was written for version 2 of its data, and they are of version ${G.version}: write it anew with cr.explore.`);
  throw new Error("unknown version of the data");
}
/* JSON has no NaN and no infinities: they come as words */
const revive = (x) => (Array.isArray(x) ? x.map(revive) : typeof x === "string" ? Number(x) : x);
/* records are rows of a table; what repeats in a column is written once */
function records({ keys, words, names, rows }) {
  const told = rows.map((row) => Object.fromEntries(keys.map((key, i) => [key, words[key] ? words[key][row[i]] : row[i]])));
  return names ? Object.fromEntries(names.map((name, i) => [name, told[i]])) : told;
}
for (const key of ["vars", "gates", "nodes", "wires", "code", "steps"]) G[key] = records(G[key]);
/* what a tensor is like, where all of it is in the page */
function stats(v, dtype) {
  if (!v?.length || dtype.startsWith("complex")) return null;
  const some = v.filter(Number.isFinite), squares = some.reduce((a, x) => a + x * x, 0);
  return {
    count: v.length, low: some.length ? some.reduce((a, x) => Math.min(a, x)) : null, high: some.length ? some.reduce((a, x) => Math.max(a, x)) : null,
    zeros: v.filter((x) => x === 0).length, nan: v.filter(Number.isNaN).length, inf: v.filter((x) => Math.abs(x) === Infinity).length, norm: Math.sqrt(squares),
  };
}
for (const v of Object.values(G.vars)) {
  v.value = revive(v.value); v.grad = revive(v.grad); v.numeric = revive(v.numeric); v.error = revive(v.error);
  v.stats ??= { value: stats(v.value, v.dtype), grad: stats(v.grad, v.dtype) };
  for (const s of Object.values(v.stats)) if (s) for (const k in s) s[k] = revive(s[k]);
}
for (const g of Object.values(G.gates)) { g.units = revive(g.units); g.jacobian = g.jacobian.map(revive); g.down = g.down.map(revive); }

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
const formula = (text) => escape(text).replace(/\bnp\./g, "").replace(/[A-Za-z_]\w*/g, (w) => (w in G.vars ? math(w) : w)).replace(/ ?\*\* ?2\b/g, "²").replace(/ \* /g, " × ").replace(/(^|[( ])-/g, "$1−");
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
  step: Math.min(LAST, Math.max(0, parseInt(hash.get("step") ?? "0", 10) || 0)), pick: null, show: null, elem: null, jacobian: null, routes: null,
  folded: new Set((hash.get("fold") ?? (G.open ? "" : G.groups.map((g) => g.id).join(" "))).split(" ").filter((g) => G.groups.some((x) => x.id === g))),
  overlay: hash.get("overlay") ?? "none", playing: null, why: null, follow: false,
};
const root = document.documentElement;
root.dataset.theme = hash.get("theme") ?? "auto";
root.dataset.palette = hash.get("palette") ?? "classic";
const still = () => matchMedia("(prefers-reduced-motion: reduce)").matches;
function remember() {
  const h = new URLSearchParams();
  if (state.step) h.set("step", state.step);
  if (state.folded.size || !G.open) h.set("fold", [...state.folded].join(" "));
  if (state.overlay !== "none") h.set("overlay", state.overlay);
  if (root.dataset.theme !== "auto") h.set("theme", root.dataset.theme);
  if (root.dataset.palette !== "classic") h.set("palette", root.dataset.palette);
  try { history.replaceState(null, "", "#" + h); } catch { /* some viewers of local files forbid it */ }
}
