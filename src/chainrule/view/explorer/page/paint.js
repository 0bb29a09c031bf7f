/* ---------- painting one moment ---------- */
function paint() {
  const step = G.steps[state.step], t = state.step;
  const flowF = new Set(), flowB = new Set();
  if (step.phase === "forward") { into[step.node].forEach((w) => flowF.add(w.id)); }
  if (step.phase === "backward" || step.phase === "seed") into[step.node].forEach((w) => flowB.add(w.id));
  const sel = state.pick;
  const most = OVERLAYS[state.overlay].most?.();
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
    const over = OVERLAYS[state.overlay].wire?.(w, v, g, { v: hasV, g: !!hasG, most }), line = item.querySelector(".line");
    item.name.textContent = over?.name ?? (v.shape.length ? `${v.label} ${shape(v.shape)}` : v.label);
    item.classList.toggle("dashed", !!over?.dashed);
    line.style.strokeWidth = over?.width ?? "";
    line.style.stroke = over?.width ? `var(--${over.tone})` : "";
    line.style.strokeOpacity = over?.width ? 0.55 : "";
  }
  const lit = state.why && new Set([...state.why.nodes].map(nodeOf));
  for (const [id, item] of Object.entries(dom.nodes)) {
    const n = node[id], on = step.node && nodeOf(step.node) === id;
    const done = !n || n.kind === "leaf" || (n.kind === "out" ? t >= SEED : t >= (valueAt[n.var] ?? 0));
    item.classList.toggle("todo", !done);
    item.classList.toggle("on-f", !!on && step.phase === "forward");
    item.classList.toggle("on-b", !!on && step.phase !== "forward");
    item.classList.toggle("sel", !!sel && (sel.gate === id || (!!n && (n.kind === "leaf" || n.kind === "out") && n.var === sel.var)));
    item.classList.toggle("path", !!lit?.has(id));
    item.classList.toggle("cut", !!state.why?.cuts.has(id));
    if (item.below) {
      const over = OVERLAYS[state.overlay].gate?.(G.gates[id]);
      item.below.textContent = over?.text ?? "";
      item.glyph.setAttribute("y", item.cy + (over ? 1 : 5));
      item.querySelector(".body").style.fill = !over || on ? "" : `color-mix(in oklab, var(--minus) ${Math.round(60 * over.share)}%, var(--panel))`;
    }
  }
  graph.classList.toggle("lit", !!state.why);
  const legend = OVERLAYS[state.overlay].legend();
  $("legend-more").textContent = legend && ` · ${legend}`;
  marks();
}
