/* ---------- folding, search, settings ---------- */
const DRAWN = 2000;                                  // larger graphs are not unfolded at once
function foldLabel() {
  const all = state.folded.size === G.groups.length;
  $("fold").textContent = all ? "Unfold" : "Fold"; $("fold").hidden = !G.groups.length || (all && G.nodes.length > DRAWN);
}
function fold(id) {
  state.folded.has(id) ? state.folded.delete(id) : state.folded.add(id);
  redraw();
}
function foldAll(on) { state.folded = new Set(on || G.nodes.length > DRAWN ? G.groups.map((g) => g.id) : []); redraw(); }
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
  if (homes[n.id].some((g) => state.folded.has(g))) { homes[n.id].forEach((g) => state.folded.delete(g)); redraw(); const q = $("search").value, keep = turn; search(q); turn = keep; }
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
