/* ---------- keys ---------- */
const KEYS = [
  ["→ ←", "one gate on, one gate back", null], ["Home End", "to the start, to the end", null], ["space", "play or pause", null],
  ["/", "search; Enter goes to the next match", null], ["w", "why is this gradient zero?", null], ["p", "paths of the element to the output, ranked", null], ["j", "the gate's Jacobian: the first, the next, none", null], ["e", "change the element that is picked", null], ["o", "next overlay", null], ["[ ]", "fold all layers, unfold all", null],
  ["+ − 0", "zoom in, out, fit the graph", null], ["t", "tables", null], ["c", "colour-blind-safe palette", null], ["d", "light, dark, as the system", null],
  ["Tab Enter", "walk the graph, open a gate", null], ["Esc", "clear the search, the path, the choice", null]];
$("key-list").append(...KEYS.flatMap(([k, what]) => [make("dt", {}, k), make("dd", {}, what)]));
addEventListener("keydown", (e) => {
  const typing = e.target.matches("input:not([type=range]), select, textarea"), onRange = e.target.matches("input[type=range]");
  if (e.ctrlKey || e.metaKey || e.altKey || $("help").open) return;
  if (e.key === "Escape") { $("search").value = ""; search(""); state.why = null; state.pick = null; paint(); panel(); e.target.blur?.(); return; }
  if (e.target.id === "search" && e.key === "Enter") return nextHit();
  if (typing || (onRange && e.key.startsWith("Arrow"))) return;
  const act = {
    ArrowRight: () => go(state.step + 1), ArrowLeft: () => go(state.step - 1), Home: () => go(0), End: () => go(LAST),
    "/": () => $("search").focus(), "+": () => zoom(1.25), "=": () => zoom(1.25), "-": () => zoom(0.8), 0: () => fit(),
    t: () => toggleTables(), c: palette, d: theme, "[": () => foldAll(true), "]": () => foldAll(false), "?": () => $("help").showModal(),
    o: nextOverlay,
    w: () => document.querySelector(".act button[aria-pressed]")?.click(),
    p: () => document.querySelector(".routes-of")?.click(), j: nextJacobian, e: () => $("element")?.select(),
  }[e.key] ?? (e.key === " " && !e.target.matches("button, .node") ? () => play(!state.playing) : null);
  if (act) { e.preventDefault(); if (state.playing && e.key !== " ") play(false); act(); }
});

/* ---------- start ---------- */
$("title").textContent = G.title; $("subtitle").textContent = G.subtitle;
$("subtitle").title = G.subtitle;
$("scrub").max = LAST;
$("end-f").style.width = `${(100 * (SEED - 0.5)) / LAST}%`;
$("scrub").addEventListener("input", (e) => { play(false); go(+e.target.value); });
for (const [id, act] of Object.entries({ first: () => go(0), prev: () => go(state.step - 1), next: () => go(state.step + 1), last: () => go(LAST) })) $(id).addEventListener("click", () => { play(false); act(); });
$("play").addEventListener("click", () => play(!state.playing));
$("in").addEventListener("click", () => zoom(1.25)); $("out").addEventListener("click", () => zoom(0.8)); $("fit").addEventListener("click", () => fit(true));
$("search").addEventListener("input", (e) => search(e.target.value));
$("overlay").addEventListener("change", (e) => overlay(e.target.value));
$("fold").addEventListener("click", () => foldAll(state.folded.size < G.groups.length));
$("table").addEventListener("click", () => toggleTables());
$("skip").addEventListener("click", (e) => { e.preventDefault(); toggleTables(true); });
$("palette").addEventListener("click", palette); $("theme").addEventListener("click", theme);
$("keys").addEventListener("click", () => $("help").showModal());
document.querySelectorAll(".tabs button").forEach((b) => b.addEventListener("click", () => tab(b.dataset.tab)));
addEventListener("resize", () => { fit(); });
addEventListener("beforeprint", () => { tables(); const b = bounds(); graph.setAttribute("viewBox", `${b.x} ${b.y} ${b.w} ${b.h}`); });
addEventListener("afterprint", () => fit());
drawCode(); drawSource(); tab("gate"); setLabels(); foldLabel(); draw(); overlay(state.overlay);
go(state.step, false);
