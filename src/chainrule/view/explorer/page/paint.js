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
