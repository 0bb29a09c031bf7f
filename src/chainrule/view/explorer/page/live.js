/* ---------- live inputs: an edit is computed through at once, here in the page ---------- */
const flat = (x) => (x === null || x === undefined ? null : typeof x === "number" ? [x] : Array.from(x, Number));
const leaves = Object.keys(G.vars).filter((name) => G.vars[name].kind !== "computed");
const editable = G.live && leaves.every((name) => !G.vars[name].kept);
const asGiven = (v) => (v.shape.length ? [...v.value] : v.value[0]);
const original = Object.fromEntries(leaves.map((name) => [name, asGiven(G.vars[name])]));
let given = structuredClone(original), before = null, edited = false, differenced = {}, fields = null;
/* of a large tensor only the elements that the page holds */
function thinned(v, list) {
  if (!v.kept || !list) return list;
  return Array.from({ length: v.kept.shape.reduce((a, n) => a * n, 1) }, (_, i) => {
    let at = 0, rest = i;
    const place = v.kept.shape.map(() => 0);
    for (let k = v.shape.length - 1; k >= 0; k--) { place[k] = (rest % v.kept.shape[k]) * v.kept.strides[k]; rest = Math.floor(rest / v.kept.shape[k]); }
    for (let k = 0; k < v.shape.length; k++) at = at * v.shape[k] + place[k];
    return list[at];
  });
}
const KEPT_OF = { vars: ["value", "grad", "numeric", "error", "stats"], gates: ["down", "jacobian", "units"] };
function keepAll() {
  const part = (all, keys) => Object.fromEntries(Object.entries(all).map(([id, x]) => [id, Object.fromEntries(keys.map((k) => [k, x[k]]))]));
  return { vars: part(G.vars, KEPT_OF.vars), gates: part(G.gates, KEPT_OF.gates), why: G.why };
}
function resetAll() {
  given = structuredClone(original); edited = false; differenced = {};
  if (before) { for (const kind of ["vars", "gates"]) for (const [id, x] of Object.entries(before[kind])) Object.assign(G[kind][id], x); G.why = before.why; }
  for (const [k, r] of Object.entries(fields?.rows ?? {})) r.number.value = r.slide.value = given[k];
  refreshed();
}
function inputs(side) {
  const scalars = leaves.filter((name) => !G.vars[name].shape.length && G.vars[name].dtype.startsWith("f"));
  const reset = make("button", { class: "small", disabled: !edited, onclick: resetAll }, "Reset");
  const head = make("h3", { class: "with-button" }, "Inputs", reset), note = edited && Object.keys(before.why).length ? `${G.note} What is said of the values that were given, of why gradients are zero, comes back with Reset.` : G.note;
  if (!scalars.length) return side.append(head, make("p", { class: "dim" }, note));
  if (!fields) {
    const box = make("div", { class: "inputs" }, make("span", { class: "th" }, ""), make("span", { class: "th v" }, "value"), make("span", { class: "th" }, ""), make("span", { class: "th g" }, "gradient"));
    fields = { box, rows: {} };
    for (const name of scalars) {
      const number = make("input", { type: "number", step: "0.1", value: given[name], id: `in-${name}`, oninput: () => edit(name, number.value, slide) });
      const slide = make("input", { type: "range", min: -5, max: 5, step: 0.1, value: given[name], "aria-label": `slider for ${name}`, oninput: () => edit(name, slide.value, number) });
      const g = make("span", { class: "g" });
      fields.rows[name] = { number, slide, g };
      box.append(make("label", { for: `in-${name}`, html: math(name) }), number, slide, g);
    }
  }
  for (const [name, row] of Object.entries(fields.rows)) row.g.textContent = G.vars[name].grad && state.step >= gradAt[trunk[name]] ? num(G.vars[name].grad[0]) : "";
  side.append(head, fields.box, make("p", { class: "dim" }, note));
}
function edit(name, text, other) {
  const x = parseFloat(text);
  if (!Number.isFinite(x)) return;
  given[name] = x; other.value = x;
  const kept = document.activeElement;
  rerun();
  kept?.focus?.();
}
/* one element of a tensor: the one that is picked in its heat map */
function editor(side, name) {
  const v = G.vars[name];
  if (!editable || !leaves.includes(name) || !v.shape.length || v.dtype === "bool") return;
  const i = Math.min(state.elem ?? 0, v.value.length - 1), whole = !v.dtype.startsWith("f");
  const field = make("input", { type: "number", id: "element", step: whole ? 1 : "any", value: given[name][i], onchange: () => setElement(name, i, field.value, whole) });
  side.append(make("p", { class: "element" }, make("label", { for: "element" }, `${name}${index(v, i)} =`), field, make("button", { class: "small", disabled: given[name][i] === original[name][i], onclick: () => setElement(name, i, original[name][i], whole) }, "Undo")));
}
function setElement(name, i, text, whole) {
  let x = parseFloat(text);
  /* whole numbers choose among something: none beyond the largest that was given */
  if (whole) x = Math.min(Math.max(0, Math.round(x)), Math.max(...original[name]));
  if (!Number.isFinite(x) || given[name][i] === x) return;
  given[name][i] = x; state.elem = i;
  const typed = document.activeElement?.id === "element";
  rerun();
  if (typed) $("element")?.select();
}
function rerun() {
  before ??= keepAll();
  edited = JSON.stringify(given) !== JSON.stringify(original);
  if (!edited) return resetAll();
  const r = recompute(given);
  differenced = {};
  for (const [name, v] of Object.entries(G.vars)) {
    const value = flat(r.value[name]), grad = v.grad && flat(r.grad[name]);
    if (value) { v.value = thinned(v, value); }
    if (grad) v.grad = thinned(v, grad);
    v.stats = { value: stats(value ?? v.value, v.dtype), grad: stats(grad, v.dtype) };
  }
  for (const [id, g] of Object.entries(G.gates)) {
    if (g.op === "copy") { g.down = [G.vars[g.output].grad]; continue; }
    g.down = g.down.map((d, slot) => d && (r.down ? flat(r.down[id][slot]) : [flat(r.grad[g.output])[0] * r.local[id][slot]]));
    g.jacobian = before.gates[id].jacobian.map((j, slot) => j && (r.local ? [[[0, r.local[id][slot]]]] : j));
  }
  check(performance.now() + 150);
  for (const [id, g] of Object.entries(G.gates)) if (before.gates[id].units) g.units = unitsOf(id, g);
  G.why = {};
  refreshed();
}
/* central differences again, of what was checked before, as far as there is time (milliseconds) */
function check(until) {
  for (const [name, v] of Object.entries(G.vars)) {
    if (!before.vars[name].numeric) continue;
    v.numeric = performance.now() > until ? null : v.value.map((_, i) => slope(name, i, (r) => flat(r.value[G.output])[0]));
    v.error = v.numeric && Math.max(...v.numeric.map((x, i) => Math.abs(x - v.grad[i])));
  }
}
function slope(name, i, of, put = {}) {
  const v = G.vars[name], x = v.value[i], h = 1e-5 * Math.max(1, Math.abs(x));
  const moved = (dx) => {
    const list = [...v.value];
    list[i] = x + dx;
    const one = v.shape.length ? list : list[0];
    return of(name in given ? recompute({ ...given, [name]: one }, put) : recompute(given, { ...put, [name]: one }));
  };
  return (moved(h) - moved(-h)) / (2 * h);
}
/* A gate's local derivatives: as they are in the page, or after an edit of tensors by central differences of the gate alone. */
function jacobianOf(id, slot) {
  const g = G.gates[id], table = g.jacobian[slot];
  if (!table || !edited || (G.vars[g.output].shape.length === 0 && !G.vars[g.inputs[slot]].shape.length)) return table;
  const name = g.inputs[slot], key = `${id} ${slot}`;
  if (g.inputs.filter((n) => n === name).length > 1) return null;
  if (!differenced[key]) {
    const put = Object.fromEntries(g.inputs.filter((n) => n !== name && !(n in given)).map((n) => [n, G.vars[n].shape.length ? G.vars[n].value : G.vars[n].value[0]]));
    differenced[key] = table.map((column, i) => {
      if (!column.length) return column;
      const slopes = column.map(([k]) => [k, slope(name, i, (r) => flat(r.value[g.output])[k], put)]);
      return slopes;
    });
  }
  return differenced[key];
}
function unitsOf(id, g) {
  const table = jacobianOf(id, 0), n = before.gates[id].units.length;
  if (!table) return null;
  const closed = new Array(n).fill(0);
  table.forEach((column, i) => { if (!column.some(([, d]) => d !== 0)) closed[i % n]++; });
  return closed.map((x) => x / (table.length / n));
}
function refreshed() {
  state.why = null; toldByGate = null;
  paint(); paintCode(true); panel(); says();
  if (!$("tables").hidden) tables();
}
