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
