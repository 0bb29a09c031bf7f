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
      const table = jacobianOf(w.to, w.slot);
      if (!table) { closed++; continue; }
      const row = table[i] ?? [], open = row.filter(([, d]) => d !== 0);
      if (!open.length) { (cuts.get(w.to) ?? cuts.set(w.to, { slot: w.slot, at: [] }).get(w.to)).at.push(i); continue; }
      const output = G.vars[g.output];
      if (open.some(([k]) => output.grad?.[k] !== 0)) cancel++;
      else { open.forEach(([k]) => todo.push([g.output, k])); if (!trail.includes(g.output)) trail.push(g.output); }
    }
  }
  const label = `${name}${index(G.vars[name], start)}`;
  let html = `<p>${closed ? `Some gates behind <code>${label}</code> have too many local derivatives to be in this page; where it closes can be told in part only.` : !cancel ? `Every path from <code>${label}</code> to ${math(G.output)} is closed.` : cuts.size ? `Some paths from <code>${label}</code> are closed, and the terms on the others cancel.` : `The paths from <code>${label}</code> are open, but their terms add up to exactly 0.`}</p>`;
  for (const [id, { slot, at }] of cuts) {
    const g = G.gates[id], operand = g.inputs[slot], route = trail.map(math).join(" → ");
    const says = G.why[name]?.causes.find((cause) => cause.gate === id);
    const own = `at the <b>${escape(g.title)}</b> gate ${formula(g.zero[slot] ?? "its local derivative is 0 here")}${G.vars[operand].shape.length ? `, in all ${at.length} elements on the way` : ""}. The local derivative is 0, so the upstream gradient is multiplied by 0.`;
    html += `<p>${route} ↛ ${math(id)}: ${says ? `${words(says)}${at.length > 1 ? ` <span class="dim">On the way from <code>${label}</code> it closes all ${at.length} elements.</span>` : ""}` : own}</p>`;
  }
  return { label, wires, nodes, cuts, html };
}
function revealPath() {
  if (!state.why) return;
  const hidden = [...state.why.nodes].flatMap((n) => homes[n] ?? []).filter((g) => state.folded.has(g));
  if (hidden.length) { hidden.forEach((g) => state.folded.delete(g)); draw(); foldLabel(); }
}
