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
  if (editable) inputs(side); else if (!side.children.length) side.remove();
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
    const filled = escape(g.forward).replace(/\bnp\./g, "").replace(/[A-Za-z_]\w*/g, (w) => (w in G.vars ? signed(G.vars[w].value[0]) : w)).replace(/ \* /g, " × ").replace(/(^|[( ])-/g, "$1−").replace(/\(\((−[^()]*)\)\)/g, "($1)");
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
  if (G.vars[g.output].grad) facts.append(make("p", { class: "check", html: keepsFacts(id) }));
  jacobianFacts(facts, g, id);
  unitFacts(facts, g);
  happened(facts, id);
  const slot = g.inputs.indexOf(state.show ?? ""), i = state.elem ?? 0;
  if (!(numbers && g.local[slot]) && slot >= 0 && g.down[slot] && jacobianOf(id, slot) && t >= gradAt[into[id].find((w) => w.slot === slot).id]) oneElement(facts, g, id, slot, i);
}
function oneElement(facts, g, id, slot, i) {
  const name = g.inputs[slot], v = G.vars[name], up = G.vars[g.output].grad, row = jacobianOf(id, slot)[i] ?? [];
  if (i >= v.value.length) return;
  const shown = row.slice(0, 8).map(([k, d]) => `<span class="g">${signed(up?.[k])}</span> × ${signed(d)}`).join(" + ");
  facts.append(make("h3", { html: `One element, <code>${name}${index(v, i)}</code>` }),
    make("p", { class: "eq", html: `${shown || "no path"}${row.length > 8 ? " + …" : ""} = <span class="g">${num(g.down[slot][i])}</span>` }));
}
function keepsFacts(id) {
  const kept = Object.entries(G.saved.by).filter(([, gates]) => gates.includes(id)).map(([name]) => `${math(name)} (${bytes(G.vars[name].bytes)})`);
  return kept.length ? `Keeps ${kept.join(" and ")} for its backward step.` : "Its backward step needs no value: nothing is kept for it.";
}
function savedFacts(facts, name) {
  const gates = G.saved.by[name], again = G.saved.again[name], by = gates && `Kept for the backward steps of ${gates.map(math).join(", ")}: ${bytes(G.vars[name].bytes)}.`;
  const text = again ? `Computed again in the backward pass, ${again === 1 ? "once" : `${again} times`}.` : by || (G.vars[name].kind === "computed" ? "No backward step reads it: it can be freed once it is used." : "");
  if (text) facts.append(make("p", { class: "check", html: text }));
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
    if (known && s.var !== G.output) routeFacts(facts, s.var, 0, v.grad);
  } else {
    facts.append(make("h3", {}, "Value"), make("p", { class: "eq", html: seen ? told(v.stats.value) : dots }));
    facts.append(make("h3", {}, "Gradient"), make("p", { class: "eq", html: !v.grad ? `<span class="dim">absent: ${v.absent}</span>` : known ? `norm ${num(v.stats.grad?.norm)}, ${told(v.stats.grad)}` : dots }));
    if (known) facts.append(make("p", { class: "check", html: verdict(v) }));
    if (known && v.value.length) routeFacts(facts, s.var, Math.min(state.elem ?? 0, v.value.length - 1), v.grad);
  }
  explained(facts, s.var);
  savedFacts(facts, s.var);
}
