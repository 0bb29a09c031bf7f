/* ---------- a gate's Jacobian, on request: only what can be non-zero is drawn ---------- */
const entries = (table) => table.flatMap((column, i) => column.map(([k, d]) => [k, i, d]));
function jacobianFacts(facts, g, id) {
  const slots = g.inputs.map((_, slot) => slot).filter((slot) => g.structure[slot] && g.structure[slot].rows * g.structure[slot].cols > 1);
  if (!slots.length) return;
  const chips = make("div", { class: "chips" });
  for (const slot of slots) {
    const on = state.jacobian === slot;
    chips.append(make("button", { class: "jacobian", "aria-pressed": on, onclick: () => { state.jacobian = on ? null : slot; panel(); $("gate").querySelectorAll(".jacobian")[slots.indexOf(slot)]?.focus(); }, "aria-label": `Jacobian of ${g.output} by ${g.inputs[slot]}` }, `∂${g.output}/∂${g.inputs[slot]}`));
  }
  facts.append(make("h3", {}, "Jacobian"), chips);
  if (slots.includes(state.jacobian)) jacobianView(facts, g, id, state.jacobian);
}
const percent = (x) => (x > 0 && x < 0.0001 ? "less than 0.01%" : `${+(100 * x).toPrecision(3)}%`);
/* "diagonal: 64 of 4,096 entries can be non-zero; not forming it saves 16.0 KiB" */
function sparsity({ rows, cols, entries: n, most, kind, bytes: whole }) {
  const all = rows * cols, of = all.toLocaleString("en"), can = n ?? most, part = can && can < all ? ` (${percent(can / all)})` : "";
  const lies = can === null ? `${of} entries; which of them can be non-zero is not counted above 200,000` : `${n === null ? "at most " : ""}${can.toLocaleString("en")} of ${of} entries can be non-zero${part}`;
  return `${kind ? `${kind}: ` : ""}${lies}; not forming it saves ${bytes(whole)}`;
}
function jacobianView(facts, g, id, slot) {
  const s = g.structure[slot], name = g.inputs[slot], out = g.output, table = jacobianOf(id, slot);
  facts.append(make("p", { class: "check", html: `${s.rows.toLocaleString("en")} × ${s.cols.toLocaleString("en")}, a row per element of ${math(out)}, a column per element of ${math(name)}. ${sparsity(s).replace(/^./, (c) => c.toUpperCase())}.${edited && table ? " After an edit: by central differences, here in the page." : ""}` }));
  if (state.step < valueAt[out]) return facts.append(make("p", { class: "eq", html: dots }));
  if (!table) return facts.append(make("p", { class: "check" }, s.entries === null || s.entries > 400 ? "Its numbers are not in this page: they are above 400 entries." : "Its numbers are not in this page."));
  const all = entries(table), written = s.rows <= 12 && s.cols <= 8, w = written ? 44 : Math.min(16, 330 / s.cols), h = written ? 18 : Math.min(16, 230 / s.rows);
  const W = s.cols * w + 2, H = s.rows * h + 2, vo = G.vars[out], vi = G.vars[name];
  const at = (k, i) => `∂${out}${index(vo, k)}/∂${name}${index(vi, i)}`;
  const svg = make("svg", { width: W, height: H, viewBox: `-1 -1 ${W} ${H}`, role: "img", "aria-label": `Jacobian of ${out} by ${name}, ${sparsity(s)}` });
  svg.append(make("rect", { class: "frame", x: 0, y: 0, width: s.cols * w, height: s.rows * h }));
  const cells = all.map(([k, i, d]) => {
    const fill = make("rect", { x: i * w, y: k * h, width: w, height: h });
    svg.append(make("g", { class: "cell", onpointermove: (e) => showTip(e, `<b>${at(k, i)}</b><br>${num(d)}`), onpointerleave: hideTip, onclick: () => { state.elem = i; state.show = name; panel(); } },
      make("rect", { class: "possible", x: i * w, y: k * h, width: w, height: h }), fill, written ? make("text", { x: i * w + w / 2, y: k * h + h / 2 + 4, "pointer-events": "none" }, num(d)) : null));
    return fill;
  });
  tint(cells, all.map(([, , d]) => d), "cell-v");
  if (written) cells.forEach((c) => c.setAttribute("fill-opacity", c.getAttribute("fill-opacity") * 0.6));
  const list = make("table", {}, make("caption", {}, `Entries of the Jacobian of ${out} by ${name} that can be non-zero`), ...all.slice(0, 100).map(([k, i, d]) => make("tr", {}, make("th", { scope: "row" }, at(k, i)), make("td", {}, num(d)))));
  facts.append(make("div", { class: "maps jac" }, make("figure", {}, svg)), make("div", { class: "sr" }, list));
}
/* ---------- units of a gate that closes ---------- */
function unitFacts(facts, g) {
  if (!g.units) return;
  const n = g.units.length, dead = deadOf(g), step = Math.max(1, Math.ceil(n / 256)), shown = g.units.filter((_, i) => i % step === 0), cols = Math.min(32, shown.length), w = cols <= 8 ? 36 : 11;
  const rows = Math.ceil(shown.length / cols), svg = make("svg", { width: cols * w + 2, height: rows * 18 + 2, viewBox: `-1 -1 ${cols * w + 2} ${rows * 18 + 2}`, role: "img", "aria-label": `share of zero derivatives of each of ${n} units` });
  shown.forEach((x, k) => {
    const X = (k % cols) * w, Y = Math.floor(k / cols) * 18;
    svg.append(make("g", { class: "cell", onpointermove: (e) => showTip(e, `<b>unit ${k * step}</b><br>closed for ${share(x)}${x === 1 ? ": dead" : ""}`), onpointerleave: hideTip },
      make("rect", { class: "frame", x: X, y: Y, width: w, height: 18 }), make("rect", { class: "cell-m", x: X, y: Y, width: w, height: 18, "fill-opacity": 0.7 * x }), cols <= 8 ? make("text", { x: X + w / 2, y: Y + 13, "pointer-events": "none" }, share(x)) : null));
  });
  facts.append(make("h3", {}, "Units"), make("p", { class: "check" }, `${dead} of ${n} units ${dead === 1 ? "is" : "are"} dead: the local derivative is 0 for every example. In all, ${share(mean(g.units))} of the derivatives are 0. Darker: closed more often.`),
    make("div", { class: "maps" }, make("figure", {}, svg)));
}
function nextJacobian() {
  const all = [...$("gate").querySelectorAll(".jacobian")], on = all.findIndex((b) => b.getAttribute("aria-pressed") === "true");
  (all[on + 1] ?? all[on])?.click();
}
