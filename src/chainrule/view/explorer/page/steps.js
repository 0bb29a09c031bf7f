/* ---------- steps ---------- */
function says() {
  const s = G.steps[state.step], g = s.node && G.gates[s.node], n = state.step, back = LAST - SEED;
  const name = g && (g.op === "copy" ? `branch of ${math(g.output)}` : escape(g.title));
  const code = s.lines.map((i) => G.code[i].text), text = code.length ? `<code>${escape(code.join("; "))}</code>` : "";
  $("says").innerHTML = {
    start: `<b>The inputs are given.</b><span class="dim">Compute gate by gate with → or the buttons.</span>`,
    forward: `<span><b class="v">Forward ${n} of ${SEED - 1}</b> · ${name}</span>${text}`,
    seed: `<span><b class="g">Backward 0 of ${back}</b> · the output's own gradient is 1</span>${text}`,
    backward: `<span><b class="g">Backward ${n - SEED} of ${back}</b> · ${name}</span>${text}`,
  }[s.phase];
  $("scrub").value = n;
  $("scrub").setAttribute("aria-valuetext", $("says").textContent);
  $("scrub").style.setProperty("--now", s.phase === "start" ? "var(--soft)" : s.phase === "forward" ? "var(--value)" : "var(--grad)");
  const cut = (100 * (SEED - 0.5)) / LAST, here = (100 * n) / LAST;
  const tone = (c, known) => (known ? `var(--${c})` : `color-mix(in srgb, var(--${c}) 25%, var(--paper))`);
  $("scrub").style.setProperty("--track", `linear-gradient(90deg, ${tone("value", true)} 0 ${Math.min(here, cut)}%, ${tone("value", false)} ${Math.min(here, cut)}% ${cut}%, ${tone("grad", true)} ${cut}% ${Math.max(here, cut)}%, ${tone("grad", false)} ${Math.max(here, cut)}%)`);
  $("first").disabled = $("prev").disabled = n === 0;
  $("last").disabled = $("next").disabled = n === LAST;
}
function go(to, animate = true) {
  const step = Math.min(LAST, Math.max(0, to)), ahead = step > state.step;
  state.step = step; state.pick = null; state.elem = null; state.show = null; state.why = null;
  flight++;
  paint(); paintCode(); panel(); says(); follow(true); mini(); remember();
  if (animate && ahead) travel(); else $("pulses").replaceChildren();
}
function choose(what) {
  state.pick = what; state.elem = null; state.show = null; state.why = null;
  paint(); panel(); tab("gate"); follow(true);
}
function play(on) {
  clearInterval(state.playing);
  state.playing = null;
  if (on) {
    if (state.step === LAST) go(0);
    state.playing = setInterval(() => (state.step === LAST ? play(false) : go(state.step + 1)), 1150);
    go(state.step + 1);
  }
  $("play").setAttribute("aria-label", on ? "Pause" : "Play");
  $("play-icon").setAttribute("d", on ? "M4 3h3v10H4zM9 3h3v10H9z" : "M4 2.5l9 5.5-9 5.5z");
}
