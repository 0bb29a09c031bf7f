/* ---------- the code ---------- */
const stepOfLine = [];
G.steps.forEach((s, i) => s.lines.forEach((line) => (stepOfLine[line] = i)));
const BLOCK = 100;                                   // lines that are laid out together, when they come into sight
function drawCode() {
  const box = $("flat"), html = G.code.map((line, i) => {
    const head = line.phase === G.code[i - 1]?.phase ? "" : `<h3>${line.phase === "forward" ? "Forward" : "Backward, the same lines reversed"}</h3>`;
    const text = escape(line.text).replace(/grad_\w+/g, '<span class="gr">$&</span>');
    line.at = stepOfLine[i];
    return `${head}<button class="code${line.phase === "backward" ? " back" : ""}" title="Go to step ${line.at}"><span class="text">${text}</span><span class="note"></span></button>`;
  });
  for (let i = 0; i < html.length; i += BLOCK) box.append(make("div", { class: "block", html: html.slice(i, i + BLOCK).join("") }));
  const lines = [...box.querySelectorAll("button")];
  lines.forEach((dom, i) => (G.code[i].dom = dom));
  box.addEventListener("click", (e) => { const i = lines.indexOf(e.target.closest("button")); if (i >= 0) go(G.code[i].at); });
}
function paintCode(fresh = false) {
  const now = G.steps[state.step].lines;
  G.code.forEach((line, i) => {
    const seen = line.at <= state.step, here = now.includes(i);
    if (line.seen === seen && !line.here && !here && !fresh) return;
    line.seen = seen; line.here = here;
    line.dom.classList.toggle("now", here);
    line.dom.classList.toggle("todo", !seen);
    if (now.includes(i)) line.dom.setAttribute("aria-current", "step"); else line.dom.removeAttribute("aria-current");
    const note = line.dom.lastChild, w = line.wire && wire[line.wire], v = G.vars[line.var ?? w.var], data = w ? wireGrad(w) : v.value;
    note.textContent = line.at > state.step || line.between || !data ? "" : v.shape.length ? shape(v.shape) : num(data[0]);
    note.className = `note ${v.shape.length ? "" : w ? "g" : "v"}`;
  });
  show($("flat"), G.code[now[0]]?.dom, G.code[now.at(-1)]?.dom);
  paintSource();
}

function show(box, first, last) {
  if (!first) return void (state.step || (box.scrollTop = 0));
  const start = box.getBoundingClientRect().top - box.scrollTop, top = first.getBoundingClientRect().top - start, bottom = last.getBoundingClientRect().bottom - start;
  if (top < box.scrollTop + 30 || bottom > box.scrollTop + box.clientHeight - 30) box.scrollTop = (top + bottom) / 2 - box.clientHeight / 2;
}

/* ---------- the user's source ---------- */
const sourceLines = {};
function drawSource() {
  const box = $("source"), first = {};
  G.steps.forEach((s, i) => { const line = s.phase === "forward" && G.gates[s.node].line; if (line) first[line] ??= i; });
  box.hidden = !G.source.length;
  for (const file of G.source) {
    const indent = Math.min(...file.lines.filter((l) => l.trim()).map((l) => /^\s*/.exec(l)[0].length));
    box.append(make("h3", {}, `Your code, ${file.file}`));
    file.lines.forEach((text, i) => {
      const where = `${file.file}:${file.first + i}`, at = first[where];
      const parts = [make("span", { class: "number", "aria-hidden": true }, file.first + i), make("span", { class: "text" }, text.slice(indent) || " ")];
      const line = at === undefined ? make("div", { class: "code still" }, ...parts) : make("button", { class: "code", title: `Go to step ${at}`, onclick: () => go(at) }, ...parts);
      sourceLines[where] = line;
      box.append(line);
    });
  }
}
function paintSource() {
  const step = G.steps[state.step], here = G.gates[step.node]?.line;
  for (const [where, line] of Object.entries(sourceLines)) {
    line.classList.toggle("now", where === here);
    line.classList.toggle("back", step.phase !== "forward");
  }
  if (sourceLines[here]) show($("source"), sourceLines[here], sourceLines[here]);
}
