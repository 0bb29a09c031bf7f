/* ---------- tensors as heat maps, in the panel ---------- */
function inspector(side, names, g) {
  side.append(make("h3", {}, "Tensors"));
  if (names.length > 1) {
    const chips = make("div", { class: "chips" });
    names.forEach((n) => chips.append(make("button", { "aria-pressed": n === state.show, onclick: () => { state.show = n; state.elem = null; panel(); } }, n)));
    side.append(chips);
  }
  const name = state.show, v = G.vars[name], t = state.step;
  let grad = v.grad, known = v.grad && t >= gradAt[trunk[name]];
  let caption = "gradient";
  if (g && g.op !== "copy") {
    const w = into[Object.keys(G.gates).find((k) => G.gates[k] === g)].find((w) => w.var === name);
    if (w) { grad = wireGrad(w); known = grad && t >= gradAt[w.id]; if (w.id !== trunk[name]) caption = "gradient on this branch"; }
  }
  const maps = make("div", { class: "maps" });
  maps.append(figure(name, v, t >= valueAt[name] ? v.value : null, "value", "cell-v", "v"));
  maps.append(figure(name, v, known ? grad : null, caption, "cell-g", "g", grad ? null : "no gradient asked for"));
  side.append(...sliders(name));
  editor(side, name);
  side.append(maps);
  if (known && zeros(grad)) {
    let i = state.elem;
    if (i === null || grad[i] !== 0) i = firstZero(grad, v);
    whyButton(side, name, i);
  }
}
function sliders(name) {
  const v = G.vars[name], s = held(v);
  return s.slice(0, -2).map((n, k) => {
    const says = make("span", { class: "dim" }), at = (lead[name] ??= s.slice(0, -2).map(() => 0));
    const tell = () => (says.textContent = `axis ${k}: ${at[k] * (v.kept?.strides[k] ?? 1)} of ${v.shape[k]}`);
    const range = make("input", { type: "range", min: 0, max: n - 1, value: at[k], "aria-label": `axis ${k} of ${name}`, oninput: () => { at[k] = +range.value; state.elem = null; tell(); paint(); }, onchange: () => panel() });
    tell();
    return make("label", { class: "axis-pick" }, range, says);
  });
}
function firstZero(grad, v) {
  if (v.shape.length > 2) return grad.indexOf(0);
  const [rows, cols] = grid(held(v));
  for (let c = 0; c < cols; c++) if (Array.from({ length: rows }, (_, r) => grad[r * cols + c]).every((x) => x === 0)) return c;
  return grad.indexOf(0);
}
/* arrow keys in a heat map go from element to element; Enter goes on to its field, where it can be changed */
function walk(e, name, v, at, rows, cols, caption) {
  const by = { ArrowRight: [0, 1], ArrowLeft: [0, -1], ArrowDown: [1, 0], ArrowUp: [-1, 0] }[e.key];
  if (e.key === "Enter" && $("element")) { e.preventDefault(); return $("element").select(); }
  if (!by) return;
  e.preventDefault(); e.stopPropagation();
  const now = Math.max(0, at.findIndex((block) => block.includes(state.elem))), first = state.elem === null;
  const r = Math.min(rows - 1, Math.max(0, Math.floor(now / cols) + (first ? 0 : by[0]))), c = Math.min(cols - 1, Math.max(0, (now % cols) + (first ? 0 : by[1])));
  state.elem = at[r * cols + c][0]; state.show = name;
  panel();
  [...document.querySelectorAll(".side .maps svg")].find((s) => s.getAttribute("aria-label").startsWith(caption))?.focus();
  $("spoken").textContent = `${name}${index(v, state.elem)}: ${caption} ${num((caption === "value" ? v.value : v.grad ?? v.value)[state.elem])}`;
}
function figure(name, v, data, caption, plus, cls, empty) {
  if (!data) return make("figure", {}, make("figcaption", { class: cls }, caption), make("p", { class: "dim" }, empty ?? "not computed yet"));
  const { rows, cols, cells: at, thinned } = blocks(name, MOST), words = cols <= 8, longest = Math.max(0, ...data.slice(0, 4096).map((x) => num(x).length)), wide = words ? Math.max(42, 7 * longest) : 16, tall = words ? (rows > 4 ? 17 : 21) : 16;
  const W = cols * wide + 18, H = rows * tall + (words ? 14 : 4), top0 = words ? 14 : 4, all = data.filter(Number.isFinite);
  const svg = make("svg", { width: W, height: H + 40, viewBox: `0 0 ${W} ${H + 40}`, tabindex: 0, role: "application", "aria-label": `${caption} of ${name}, shape ${shape(v.shape)}: arrow keys choose an element` });
  svg.addEventListener("keydown", (e) => walk(e, name, v, at, rows, cols, caption));
  const fig = make("figure", {}, make("figcaption", { class: cls }, caption), svg);
  if (words && !thinned) for (let c = 0; c < cols; c++) svg.append(make("text", { class: "axis", x: 18 + c * wide + wide / 2, y: 9 }, c));
  const fills = [], shown = at.map((block) => loudest(data, block));
  shown.forEach((i, k) => {
    const r = Math.floor(k / cols), c = k % cols, X = 18 + c * wide, Y = top0 + r * tall, x = data[i];
    if (c === 0 && words && !thinned) svg.append(make("text", { class: "axis", x: 8, y: Y + tall / 2 + 4 }, r));
    const fill = make("rect", { x: X, y: Y, width: wide, height: tall });
    fills.push(fill);
    svg.append(make("g", { class: `cell${state.elem === i ? " pick" : ""}`, onclick: () => { state.elem = i; state.show = name; panel(); if (plus === "cell-v" && matchMedia("(hover: hover)").matches) $("element")?.select(); },
      onpointermove: (e) => showTip(e, `<b>${name}${index(v, i)}</b>${at[k].length > 1 ? `, the largest of ${at[k].length}` : ""}<br>${caption} ${String(x).replace("-", "−")}`), onpointerleave: hideTip },
      make("rect", { class: "frame", x: X, y: Y, width: wide, height: tall }), fill, words ? make("text", { x: X + wide / 2, y: Y + tall / 2 + 4, "pointer-events": "none" }, x === 0 ? "0" : num(x)) : null));
  });
  tint(fills, shown.map((i) => data[i]), plus);
  if (words) fills.forEach((c) => c.setAttribute("fill-opacity", c.getAttribute("fill-opacity") * 0.6));
  if (state.elem !== null) { const p = svg.querySelector(".pick"); if (p) svg.append(p); }
  if (thinned || v.kept) fig.append(make("p", { class: "dim" }, `${shape(v.shape)}${v.kept ? `, every ${v.kept.strides.map((x) => (x === 1 ? "1st" : x === 2 ? "2nd" : x === 3 ? "3rd" : `${x}th`)).join(", ")} element` : ""}${thinned ? "; each cell the largest of its block" : ""}`));
  if (all.length <= 2) { svg.setAttribute("height", H + 2); svg.setAttribute("viewBox", `0 0 ${W} ${H + 2}`); return fig; }
  const least = low(all), most = high(all), n = Math.min(12, Math.max(4, all.length)), bins = new Array(n).fill(0);
  all.forEach((x) => bins[Math.min(n - 1, Math.floor(n * (x - least) / (most - least || 1)))]++);
  const top = Math.max(...bins), span = W - 18, hist = make("g", { class: "hist" }, make("line", { x1: 18, x2: W, y1: H + 26, y2: H + 26 }));
  bins.forEach((b, k) => hist.append(make("rect", { class: plus, x: 18 + span * k / n + 0.5, width: Math.max(1, span / n - 1), y: H + 26 - 20 * b / top, height: 20 * b / top })));
  if (span > 90) hist.append(make("text", { class: "axis", x: 18, y: H + 37, style: "text-anchor:start" }, num(least)), make("text", { class: "axis", x: W, y: H + 37, style: "text-anchor:end" }, num(most)));
  svg.append(hist);
  return fig;
}
