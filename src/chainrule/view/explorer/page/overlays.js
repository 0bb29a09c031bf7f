/* ---------- overlays: one more fact on every wire or gate ---------- */
const count = (v, is) => (v ? v.filter(is).length : 0);
const bytes = (n) => (n < 1024 ? `${n} B` : n < 1048576 ? `${(n / 1024).toFixed(1)} KiB` : `${(n / 1048576).toFixed(1)} MiB`);
const topBytes = Object.values(G.vars).reduce((a, v) => Math.max(a, v.bytes), 1);
const topNorm = () => high(G.wires.map((w) => norm(wireGrad(w)) ?? 0)) || 1;
const spent = (g) => g.time[0] + g.time[1];
const slowest = high(Object.values(G.gates).map(spent)) || 1;
const share = (x) => `${Math.round(100 * x)}%`;
const mean = (v) => v.reduce((a, x) => a + x, 0) / v.length;
const deadOf = (g) => (g.units ? g.units.filter((x) => x === 1).length : 0);
/* of a wire: {name, width, tone, dashed}; of a gate: {text, share} */
const OVERLAYS = {
  none: { label: "Overlay", legend: () => "" },
  norm: { label: "Gradient norm", legend: () => "number and line width: norm of the gradient", most: topNorm,
    wire: (w, v, g, seen) => seen.g && { name: num(norm(g)), width: 1 + 7 * Math.sqrt(norm(g) / seen.most), tone: "grad" } },
  zero: { label: "Zero gradients", legend: () => "number and line width: share of gradient elements that are 0",
    wire: (w, v, g, seen) => seen.g && { name: zeros(g) ? share(zeros(g) / g.length) : "none", width: zeros(g) ? 1 + 6 * zeros(g) / g.length : "", tone: "grad" } },
  dead: { label: "Dead units", legend: () => "share of units that are closed for every example; colour: share of zero derivatives",
    gate: (g) => g.units && { text: share(deadOf(g) / g.units.length), share: mean(g.units) } },
  time: { label: "Time", legend: () => "gate colour and number: microseconds, forward and backward",
    gate: (g) => ({ text: spent(g).toFixed(1), share: spent(g) / slowest }) },
  bytes: { label: "Bytes", legend: () => "number and line width: bytes of the value",
    wire: (w, v, g, seen) => seen.v && { name: bytes(v.bytes), width: 1 + 7 * Math.sqrt(v.bytes / topBytes), tone: "value" } },
  saved: { label: "Saved, recomputed", legend: () => savedInAll(),
    wire: (w, v, g, seen) => seen.v && (G.saved.again[w.var] ? { name: `again ×${G.saved.again[w.var]}`, width: 4, tone: "minus", dashed: true } : G.saved.by[w.var] ? { name: "saved", width: 4, tone: "value" } : null) },
  odd: { label: "NaN, infinite, absent", legend: () => "NaN and infinities, and gradients that are absent",
    wire: (w, v, g, seen) => {
      const n = (seen.v ? count(v.value, (x) => !Number.isFinite(x)) : 0) + (seen.g ? count(g, (x) => !Number.isFinite(x)) : 0);
      return n ? { name: `${n} odd`, width: 4, tone: "grad" } : !g && state.step >= SEED ? { name: "absent", width: 4, tone: "minus" } : null;
    } },
};
function savedInAll() {
  const { by, bytes: own, held, again } = G.saved, n = Object.keys(by).length, twice = Object.keys(again).length;
  return `saved for the backward pass: ${n} value${n === 1 ? "" : "s"}, ${bytes(own)} and ${bytes(held)} of inputs${twice ? `; ${twice} computed again` : ""}`;
}
function overlay(name) {
  state.overlay = name in OVERLAYS ? name : "none";
  $("overlay").value = state.overlay;
  paint(); remember();
}
function nextOverlay() { const names = Object.keys(OVERLAYS); overlay(names[(names.indexOf(state.overlay) + 1) % names.length]); }
$("overlay").append(...Object.entries(OVERLAYS).map(([name, { label }]) => make("option", { value: name }, label)));
