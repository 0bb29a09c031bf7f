/* ---------- one element's paths to the output, ranked by what they contribute ---------- */
const LOOKED = 200000, SHOWN = 8;
/* from an element to the elements that it reaches through one gate; slots of the same gate are one edge with a multiplicity */
function onward(name, i, shut) {
  const found = new Map();
  for (const w of uses[name] ?? []) {
    const g = G.gates[w.to];
    if (!g.down[w.slot]) continue;
    const table = jacobianOf(w.to, w.slot);
    if (!table) { shut.add(w.to); continue; }
    for (const [k, d] of table[i] ?? []) {
      const key = `${w.to} ${k}`, edge = found.get(key);
      if (edge) { edge.d += d; edge.times++; edge.wires.push(w.id); } else found.set(key, { gate: w.to, name: g.output, i: k, d, times: 1, wires: [w.id] });
    }
  }
  return [...found.values()];
}
/* Exact: of each element that is reached first the largest product that lies ahead, then best first by product so far times that bound. */
function routes(name, start) {
  const at = (v, i) => `${v} ${i}`, memo = new Map(), shut = new Set(), todo = [[name, start, false]];
  let looked = 0, cut = false;
  while (todo.length) {
    const [v, i, ready] = todo.pop(), key = at(v, i);
    if (ready) {
      const here = memo.get(key);
      for (const e of here.edges) {
        const next = memo.get(at(e.name, e.i));
        here.best = Math.max(here.best, size(e.d) * next.best || 0); here.sum += e.d * next.sum; here.all += Math.abs(e.d) * next.all; here.count += e.times * next.count;
      }
      continue;
    }
    if (memo.has(key)) continue;
    const end = v === G.output, edges = end ? [] : looked > LOOKED ? ((cut = true), []) : onward(v, i, shut);
    looked += edges.length;
    memo.set(key, { edges, best: +end, sum: +end, all: +end, count: +end });
    todo.push([v, i, true], ...edges.map((e) => [e.name, e.i, false]));
  }
  const top = memo.get(at(name, start)), found = [], heap = [];
  const push = (x) => { let n = heap.push(x) - 1; for (let p; n && heap[(p = (n - 1) >> 1)].bound < heap[n].bound; n = p) [heap[p], heap[n]] = [heap[n], heap[p]]; };
  const pop = () => {
    const first = heap[0], last = heap.pop();
    if (heap.length) { heap[0] = last; for (let n = 0, c; (c = 2 * n + 1) < heap.length; n = c) { if (c + 1 < heap.length && heap[c + 1].bound > heap[c].bound) c++; if (heap[c].bound <= heap[n].bound) break; [heap[c], heap[n]] = [heap[n], heap[c]]; } }
    return first;
  };
  if (top.best > 0) push({ name, i: start, product: 1, times: 1, bound: top.best, before: null, edge: null });
  for (let turns = 0; heap.length && found.length < SHOWN; turns++) {
    if (turns > LOOKED) { cut = true; break; }
    const p = pop();
    if (p.name === G.output) { found.push(p); continue; }
    for (const e of memo.get(at(p.name, p.i)).edges) {
      const product = p.product * e.d, bound = size(product) * memo.get(at(e.name, e.i)).best;
      if (bound > 0) push({ name: e.name, i: e.i, product, times: p.times * e.times, bound, before: p, edge: e });
    }
  }
  return { found: found.map(unrolled), sum: top.sum, all: top.all, count: top.count, shut, cut };
}
function unrolled(end) {
  const stops = [], wires = new Set([trunk[G.output]]), nodes = new Set(["out:"]);
  for (let p = end; p; p = p.before) {
    stops.unshift({ name: p.name, i: p.i });
    wires.add(trunk[p.name]); nodes.add(wire[trunk[p.name]].from); nodes.add(wire[trunk[p.name]].to);
    p.edge?.wires.forEach((w) => { wires.add(w); nodes.add(wire[w].to); });
  }
  for (const w of into["out:"]) wires.add(w.id);
  return { product: end.product, times: end.times, stops, wires, nodes };
}
function routeFacts(box, name, i, grad) {
  const v = G.vars[name], label = `${name}${index(v, i)}`, open = state.routes === label;
  const toggle = () => { state.routes = open ? null : label; state.elem = v.shape.length ? i : null; state.why = null; paint(); panel(); $("gate").querySelector(".routes-of")?.focus(); };
  box.append(make("p", { class: "act" }, make("button", { class: "routes-of", "aria-expanded": open, onclick: toggle }, open ? "Hide the paths" : `Paths from ${label} to ${G.output}`)));
  if (!open) return;
  const r = routes(name, i), many = r.count.toLocaleString("en"), whole = grad[i];
  const list = make("ol", { class: "routes" });
  r.found.forEach((p, place) => {
    const part = whole ? p.product / whole : p.product / (r.all || 1), on = state.why?.label === `path ${place} of ${label}`;
    const light = () => { state.why = on ? null : { label: `path ${place} of ${label}`, wires: p.wires, nodes: p.nodes, cuts: new Map(), html: "" }; revealPath(); paint(); panel(); $("gate").querySelectorAll(".routes button")[place]?.focus(); };
    list.append(make("li", {}, make("button", { "aria-pressed": on, onclick: light, "aria-label": `path ${place + 1}: contributes ${num(p.product)}, ${percentOf(part)}; by way of ${p.stops.map((s) => s.name + index(G.vars[s.name], s.i)).join(", ")}` },
      make("span", { class: "part" }, make("span", { class: "bar", style: `width:${Math.min(100, 100 * Math.abs(part)).toFixed(1)}%` }), make("span", { class: "g" }, num(p.product)), make("span", { class: "dim" }, percentOf(part))),
      make("span", { class: "route", html: p.stops.map((s) => `${math(s.name)}${index(G.vars[s.name], s.i)}`).join(" → ") + (p.times > 1 ? ` <span class="dim">×${p.times}</span>` : "") }))));
  });
  const near = Math.abs(r.sum - whole) <= 1e-4 * Math.max(r.all, Math.abs(whole));
  const rest = r.found.length < r.count ? `${r.found.length ? `the ${r.found.length} largest are listed` : "none contributes"}` : "";
  const closed = `Paths through ${[...r.shut].join(", ")} are left out: more than 400 local derivatives.`;
  const said = !r.count ? (r.shut.size ? closed : `No path leads from ${label} to ${G.output}.`)
    : `${r.count === 1 ? "One path" : `${many} paths`}${rest ? `, ${rest}` : ""}. ${r.count === 1 ? "It is" : "All together they are"} ${num(r.sum)}, ${near ? "the gradient itself" : Number.isFinite(r.sum) ? `where the gradient is ${num(whole)}` : "so they cannot be ranked to the end"}.${r.all > 1.5 * Math.abs(r.sum) ? " Many of them cancel." : ""}${r.shut.size ? ` ${closed}` : ""}${r.cut ? " The search was cut after 200,000 steps: others may be larger." : ""}`;
  box.append(make("p", { class: "check" }, said), list);
}
const percentOf = (x) => (Number.isFinite(x) ? `${Math.abs(x) >= 0.0995 || x === 0 ? Math.round(100 * x) : +(100 * x).toPrecision(1)}%`.replace("-", "−") : "·");
