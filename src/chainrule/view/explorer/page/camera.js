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
