/* ---------- the same facts as tables ---------- */
function tables() {
  const show = (v) => (!v ? "absent" : v.length <= 12 ? v.map(num).join(", ") : `${v.length} numbers, ${num(low(v))} to ${num(high(v))}, ${zeros(v)} zero`);
  const whole = (v, s) => (!v ? "absent" : v.length <= 12 ? v.map(num).join(", ") : told(s));
  const cell = (html, i, heads) => make(i ? "td" : "th", { role: i ? "cell" : "rowheader", scope: i ? null : "row", class: i ? "num" : null, "data-label": heads[i], html: html && `<div>${html}</div>` });
  const build = (caption, heads, rows) => make("table", { role: "table" }, make("caption", {}, caption),
    make("thead", { role: "rowgroup" }, make("tr", { role: "row" }, ...heads.map((h) => make("th", { scope: "col", role: "columnheader" }, h)))),
    make("tbody", { role: "rowgroup" }, ...rows.map((r) => make("tr", { role: "row" }, ...r.map((c, i) => cell(String(c), i, heads))))));
  $("tables").replaceChildren(
    build("Tensors, after the whole backward pass", ["name", "kind", "shape", "value", "gradient", "check", "saved", "why"],
      Object.entries(G.vars).map(([n, v]) => [n, v.kind, shape(v.shape), `<span class="v">${whole(v.value, v.stats.value)}</span>`, v.grad ? `<span class="g">${whole(v.grad, v.stats.grad)}</span>` : `absent: ${v.absent}`, v.grad ? verdict(v) : "", savedIn(n), G.why[n] ? `${escape(G.why[n].says)}. ${G.why[n].causes.map(words).join("<br>")}` : ""])),
    build("Gates, in forward order", ["output", "gate", "statement", "pattern", "local derivatives", "downstream gradients", "Jacobians", "time"],
      Object.entries(G.gates).map(([id, g]) => [id, escape(g.title), g.op === "copy" ? `${g.output} is used ${g.branches.length} times` : `<code>${escape(`${g.output} = ${g.forward}`)}</code>`, g.pattern,
        g.inputs.map((n, i) => (g.local[i] ? `to ${n}: ${formula(g.local[i])}` : "")).filter(Boolean).join("<br>"), g.inputs.map((n, i) => `${n}: <span class="g">${show(g.down[i])}</span>`).join("<br>"),
        [...g.inputs.map((n, i) => g.structure[i] && g.structure[i].rows * g.structure[i].cols > 1 && `by ${n}: ${sparsity(g.structure[i])}`), g.units && `${deadOf(g)} of ${g.units.length} units are dead`].filter(Boolean).join("<br>"), g.op === "copy" ? "" : `${(g.time[0] + g.time[1]).toFixed(1)}\u00a0µs`])),
    build("Steps", ["step", "phase", "gate", "statements"],
      G.steps.map((s, i) => [i, s.phase, s.node && G.gates[s.node] ? `${escape(G.gates[s.node].title)} (${G.gates[s.node].output})` : "", s.lines.map((l) => `<code>${escape(G.code[l].text)}</code>`).join("<br>")])));
}
const savedIn = (n) => (G.saved.again[n] ? `computed again ×${G.saved.again[n]}` : G.saved.by[n] ? `for ${G.saved.by[n].join(", ")}` : "");
function toggleTables(on = $("tables").hidden) {
  if (on) tables();
  $("tables").hidden = !on; document.body.classList.toggle("tables", on);
  $("table").setAttribute("aria-pressed", on); $("table").textContent = on ? "Graph" : "Tables";
  if (on) $("tables").focus();
}
