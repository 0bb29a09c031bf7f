/* ---------- folding, search, settings ---------- */
function foldLabel() {
  const all = state.folded.size === G.groups.length;
  $("fold").textContent = all ? "Unfold" : "Fold"; $("fold").hidden = !G.groups.length || (all && !("" in G.layouts));
}
function fold(id) {
  const next = new Set(state.folded), ids = G.groups.map((g) => g.id);
  next.has(id) ? next.delete(id) : next.add(id);
  state.folded = key(next) in G.layouts ? next : new Set(state.folded.has(id) ? ids.filter((x) => x !== id) : ids);
  redraw();
}
function foldAll(on) { state.folded = new Set(on || !("" in G.layouts) ? G.groups.map((g) => g.id) : []); redraw(); }
function redraw() { flight++; draw(); paint(); foldLabel(); follow(false); remember(); }
let found = [], turn = 0;
function search(text) {
  const q = text.trim().toLowerCase();
  graph.classList.toggle("searching", !!q);
  for (const x of [...Object.values(dom.nodes), ...Object.values(dom.wires)]) x.classList.remove("hit");
  found = []; turn = -1;
  $("hits").textContent = "";
  if (!q) return;
  for (const n of G.nodes) {
    const g = G.gates[n.id], words = [n.var, g?.title, g?.op, g?.glyph, g?.pattern, G.vars[n.var].kind].join(" ").toLowerCase();
    if (n.kind !== "out" && words.includes(q)) { found.push(n); dom.nodes[nodeOf(n.id)]?.classList.add("hit"); from[n.id].forEach((w) => dom.wires[w.id]?.classList.add("hit")); }
  }
  $("hits").textContent = `${found.length} found`;
}
function nextHit() {
  if (!found.length) return;
  turn = (turn + 1) % found.length;
  const n = found[turn];
  if (n.group && state.folded.has(n.group)) { fold(n.group); const q = $("search").value, keep = turn; search(q); turn = keep; }
  choose(n.kind === "gate" || n.kind === "copy" ? { gate: n.id } : { var: n.var, wire: trunk[n.var] });
  const [x, y] = L.nodes[nodeOf(n.id)];
  if (view.w < bounds().w) aim({ ...view, x: x - view.w / 2, y: y - view.h / 2 }, true);
  $("hits").textContent = `${turn + 1} of ${found.length}`;
}
function palette() { root.dataset.palette = root.dataset.palette === "safe" ? "classic" : "safe"; setLabels(); remember(); }
function theme() { root.dataset.theme = { auto: "dark", dark: "light", light: "auto" }[root.dataset.theme]; setLabels(); remember(); }
function setLabels() {
  $("palette").setAttribute("aria-pressed", root.dataset.palette === "safe");
  $("theme").textContent = { auto: "Auto", dark: "Dark", light: "Light" }[root.dataset.theme];
}
function tab(name) {
  $("main").dataset.tab = name;
  document.querySelectorAll(".tabs button").forEach((b) => b.setAttribute("aria-selected", b.dataset.tab === name));
  if (name === "code") paintCode(true);
}
