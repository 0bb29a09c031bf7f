// Pairs of visible texts whose boxes meet, and boxes that stick out of their pane.
() => {
  const found = [], boxes = [], hides = new Map(), cuts = new Map();
  const visible = (e) => e.checkVisibility({ opacityProperty: true, visibilityProperty: true });
  for (const t of document.querySelectorAll("svg text")) if (t.textContent.trim() && visible(t)) { const pane = t.closest("svg").getBoundingClientRect(), r = t.getBoundingClientRect(); if (r.right > pane.left && r.left < pane.right && r.bottom > pane.top && r.top < pane.bottom) boxes.push([t.textContent, r, t]); }
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  for (let n; (n = walker.nextNode());) {
    const e = n.parentElement;
    if (!n.data.trim() || e.closest("svg, script, style, select, .sr, .skip, dialog, sub, sup, .frac")) continue;
    if (!hides.has(e)) hides.set(e, !visible(e));
    if (hides.get(e)) continue;
    const range = document.createRange(); range.selectNodeContents(n);
    for (const r of range.getClientRects()) boxes.push([n.data.trim(), r, e]);
  }
  // What an element's ancestors leave to be seen of it.
  const pane = (e) => {
    if (!e) return { left: -Infinity, top: -Infinity, right: Infinity, bottom: Infinity };
    if (!cuts.has(e)) {
      const p = pane(e.parentElement), clips = getComputedStyle(e).overflow !== "visible" || e.tagName === "svg", b = clips && e.getBoundingClientRect();
      cuts.set(e, clips ? { left: Math.max(p.left, b.left), top: Math.max(p.top, b.top), right: Math.min(p.right, b.right), bottom: Math.min(p.bottom, b.bottom) } : p);
    }
    return cuts.get(e);
  };
  const clip = (e, r) => { const p = pane(e.parentElement); return { left: Math.max(r.left, p.left), top: Math.max(r.top, p.top), right: Math.min(r.right, p.right), bottom: Math.min(r.bottom, p.bottom) }; };
  const flat = boxes.map(([t, r, e]) => [t, clip(e, r), e]).filter(([, r]) => r.right - r.left > 1 && r.bottom - r.top > 3).sort(([, p], [, q]) => p.top - q.top);
  for (let i = 0; i < flat.length; i++) for (let j = i + 1; j < flat.length && flat[j][1].top < flat[i][1].bottom; j++) {
    const [a, p, ea] = flat[i], [b, q, eb] = flat[j];
    if (ea === eb) continue;
    const dx = Math.min(p.right, q.right) - Math.max(p.left, q.left), dy = Math.min(p.bottom, q.bottom) - Math.max(p.top, q.top);
    const svg = ea.closest("svg") && eb.closest("svg");
    const slack = svg ? 0.34 * Math.min(p.bottom - p.top, q.bottom - q.top) : 4;   // line boxes are taller than their letters
    if (dx > 1.5 && dy > slack) found.push(`"${a}" on "${b}" (${dx.toFixed(0)}×${dy.toFixed(0)})`);
  }
  for (const id of ["gate", "source", "flat", "tables", "main"]) { const e = document.getElementById(id); if (e.clientWidth && e.scrollWidth > e.clientWidth + 1 && !(id === "tables" && innerWidth < 700)) found.push(`${id} is wider than its pane by ${e.scrollWidth - e.clientWidth}`); }
  if (document.documentElement.scrollWidth > innerWidth) found.push("the page is wider than the window");
  return found;
}
