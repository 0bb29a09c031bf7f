/* ---------- why a gradient is absent, zero, not finite, tiny or huge: the words of cr.explain, and marks at its gates ---------- */
const SIGNS = { absent: "∅", zero: "0", NaN: "!", infinite: "!", vanishing: "↓", exploding: "↑" };
const IS = { absent: "absent", zero: "zero", NaN: "NaN", infinite: "infinite", vanishing: "vanishing", exploding: "exploding" };
const isWhat = (kind, names) => (kind === "zero" && names.some((name) => G.vars[name].grad?.some((x) => x)) ? "zero in part" : IS[kind]);
let toldByGate = null;
/* gate -> what happens there, once for all tensors that it happens to: [{names, kind, cause}] */
function happenings() {
  if (toldByGate) return toldByGate;
  toldByGate = {};
  for (const [name, { kind, causes }] of Object.entries(G.why)) for (const cause of causes) {
    if (!cause.gate) continue;
    const here = (toldByGate[cause.gate] ??= []), same = here.find((x) => x.cause.says === cause.says && x.kind === kind);
    if (same) same.names.push(name); else here.push({ names: [name], kind, cause });
  }
  return toldByGate;
}
/* a fault of the forward pass is known when its gate has run, all else when the backward pass has come there */
const markedAt = (id, { cause }) => (cause.says.startsWith("forward") ? stepOf.forward[id] : stepOf.backward[id] ?? SEED);
const marked = (id) => (happenings()[id] ?? []).filter((x) => state.step >= markedAt(id, x));
function marks() {
  $("marks")?.remove();
  const layer = make("g", { id: "marks" }), at = {};
  for (const id of Object.keys(happenings())) for (const x of marked(id)) (at[nodeOf(id)] ??= new Set()).add(SIGNS[x.kind]);
  for (const [id, signs] of Object.entries(at)) {
    if (!L.nodes[id]) continue;
    const [x, y, w, h] = L.nodes[id], sign = signs.size > 1 ? "!" : [...signs][0], cx = x + w / 2 - 4, cy = y - h / 2 + 2;
    const words = id.startsWith("box:") ? "a gate inside changed gradients" : marked(id).map((m) => `the gradient of ${m.names.join(", ")} is ${isWhat(m.kind, m.names)}`).join("; ");
    layer.append(make("g", { class: "mark", "aria-label": words, role: "img", onpointermove: (e) => showTip(e, escape(words)), onpointerleave: hideTip, onclick: () => dom.nodes[id].dispatchEvent(new Event("click")) },
      make("circle", { cx, cy, r: 7.5 }), make("text", { x: cx, y: cy + 4 }, sign)));
  }
  graph.append(layer);
}
const words = (cause) => `${escape(cause.says)}.${cause.elements ? ` <span class="dim">It answers for ${cause.elements} element${cause.elements === 1 ? "" : "s"}.</span>` : ""}${cause.line ? `<br><code>${escape(cause.line)}</code>` : ""}${cause.mend ? `<br><span class="dim">Mend:</span> ${escape(cause.mend)}.` : ""}`;
const knownWhy = (name) => G.why[name] && state.step >= (G.vars[name].grad ? gradAt[trunk[name]] ?? LAST : SEED);
/* in a variable's panel */
function explained(box, name) {
  if (!knownWhy(name)) return;
  const { kind, says, causes } = G.why[name], list = make("ol", { class: "causes" });
  for (const cause of causes) {
    const item = make("li", { html: words(cause) });
    if (cause.gate && node[cause.gate]) item.append(" ", make("button", { class: "small", onclick: () => choose({ gate: cause.gate }) }, `Show ${cause.gate}`));
    list.append(item);
  }
  box.append(make("h3", {}, `Why it is ${isWhat(kind, [name])}`), make("p", { class: "check" }, `${says.replace(/^./, (c) => c.toUpperCase())}.`), list);
}
/* in the panel of the gate where it happens */
function happened(box, id) {
  const here = marked(id);
  if (!here.length) return;
  box.append(make("h3", {}, "What happens to gradients here"), make("ul", { class: "causes" },
    ...here.map((x) => make("li", { html: `The gradient of ${x.names.map(math).join(", ")} is ${isWhat(x.kind, x.names)}: ${words(x.cause)}` }))));
}
