/* ---------- drawing the graph ---------- */
const graph = $("graph"), CELL = 5, MOST = 16;
let L, dom;
function svgName(text, cls, x, y) {
  const t = make("text", { class: cls, x, y }), m = /^([A-Za-z]+)(\d+)$/.exec(text);
  if (m) t.append(m[1], make("tspan", { dy: 4, "font-size": "70%", "font-style": "normal" }, m[2])); else t.append(text);
  return t;
}
function heat(rows, cols, x, y, cls) {
  const g = make("g", { class: cls, transform: `translate(${x},${y})` });
  g.append(make("rect", { class: "frame", x: -0.5, y: -0.5, width: cols * CELL + 1, height: rows * CELL + 1 }));
  g.cells = [];
  for (let r = 0; r < rows; r++) for (let c = 0; c < cols; c++) {
    const cell = make("rect", { x: c * CELL, y: r * CELL, width: CELL, height: CELL });
    g.cells.push(cell); g.append(cell);
  }
  return g;
}
function tint(cells, values, plus) {
  const top = high(values.map(Math.abs)) || 1;
  cells.forEach((cell, i) => {
    const a = Math.abs(values[i]) / top, strange = !Number.isFinite(values[i]);
    cell.setAttribute("class", strange ? "cell-x" : values[i] < 0 ? "cell-m" : plus);
    cell.setAttribute("fill-opacity", strange ? 1 : values[i] === 0 ? 0 : (0.1 + 0.8 * a).toFixed(3));
  });
}
function draw() {
  L = layout();
  dom = { wires: {}, nodes: {}, groups: {} };
  graph.replaceChildren();
  const under = make("g"), lines = make("g"), tops = make("g"), layer = make("g", { id: "pulses" });
  for (const g of G.groups) {
    const box = L.groups[g.id];
    if (!box) continue;
    const [x, y, w, h] = box;
    const item = make("g", { class: "group", onclick: () => fold(g.id) }, make("rect", { x, y, width: w, height: h, rx: 10 }),
      make("text", { x: x + 12, y: y + 19 }, `− ${g.label}`));
    under.append(item); dom.groups[g.id] = item;
  }
  for (const w of G.wires) {
    const place = L.wires[w.id];
    if (!place) continue;
    const v = G.vars[w.var], [x, y, width, height] = place.seat, s = v.shape.length > 0;
    const small = blocks(w.var, MOST), { rows, cols } = small, hw = cols * CELL, hh = rows * CELL;
    const item = make("g", { class: "wire" }, make("path", { class: "line", d: place.path }), make("path", { class: "hit", d: place.path }),
      make("rect", { x: x - width / 2, y: y - height / 2, width, height, fill: "transparent", cursor: "pointer" }));
    item.place = place; item.blocks = small.cells;
    item.name = make("text", { class: "name", x, y: s ? y - hh - 10 : y - 22 });
    item.append(item.name);
    if (s) {
      item.hv = heat(rows, cols, x - hw / 2, y - hh - 5, "heat-v");
      item.hg = heat(rows, cols, x - hw / 2, y + 5, "heat-g");
      item.append(item.hv, item.hg, make("text", { class: "heat-none", x, y: y + 17 }, "no grad"));
    } else {
      item.value = make("text", { class: "value", x, y: y - 6 });
      item.grad = make("text", { class: "grad", x, y: y + 18 });
      item.append(item.value, item.grad);
    }
    item.addEventListener("click", () => choose({ var: w.var, wire: w.id }));
    item.addEventListener("pointermove", (e) => tipWire(e, w, item));
    item.addEventListener("pointerleave", hideTip);
    lines.append(item); dom.wires[w.id] = item;
  }
  for (const [id, [x, y, w, h]] of Object.entries(L.nodes)) {
    const n = node[id], folded = id.startsWith("box:");
    const round = w === h;
    const item = make("g", { class: `node ${folded ? "box" : n.kind} ${n && n.kind !== "gate" && n.kind !== "copy" ? "leafy" : ""}`, tabindex: 0, role: "button" });
    item.append(round ? make("circle", { class: "body", cx: x, cy: y, r: w / 2 }) : make("rect", { class: "body", x: x - w / 2, y: y - h / 2, width: w, height: h, rx: folded ? 10 : n.kind === "gate" ? h / 2 : 6 }));
    if (folded) {
      const g = G.groups.find((g) => `box:${g.id}` === id);
      item.setAttribute("aria-label", `${g.label}, folded; press Enter to unfold`);
      item.append(make("text", { class: "glyph", x, y: y - 4 }, `+ ${g.label}`), make("text", { class: "small", x, y: y + 14 }, g.detail));
      item.addEventListener("click", () => fold(g.id));
    } else if (n.kind === "gate") {
      const glyph = G.gates[id].glyph;
      item.setAttribute("aria-label", `${G.gates[id].title} gate, output ${G.gates[id].output}`);
      item.glyph = make("text", { class: `glyph${glyph.length > 1 ? " long" : ""}`, x, y: y + 5 }, glyph);
      item.below = make("text", { class: "below", x, y: y + 13 });
      item.append(item.glyph, item.below); item.cy = y;
    } else if (n.kind === "copy") {
      item.setAttribute("aria-label", `${n.var} is used more than once: its gradients add here`);
      item.append(make("circle", { cx: x, cy: y, r: 16, fill: "transparent" }));
    } else {
      item.setAttribute("aria-label", n.kind === "out" ? `output ${n.var}` : `${G.vars[n.var].kind} ${n.var}`);
      item.append(svgName(G.vars[n.var].label, "leaf", x, y + 6));
    }
    if (!folded) item.addEventListener("click", () => choose(n.kind === "gate" || n.kind === "copy" ? { gate: id } : { var: n.var, wire: trunk[n.var] }));
    item.addEventListener("keydown", (e) => { if (e.key === "Enter") item.dispatchEvent(new Event("click")); });
    tops.append(item); dom.nodes[id] = item;
  }
  graph.append(under, lines, tops, layer);
  fit();
}
