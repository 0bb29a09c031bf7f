// Pairs of visible texts whose boxes meet, and boxes that stick out of their pane.
() => {
  const found = [];
  const visible = (e) => { for (let n = e; n && n !== document; n = n.parentElement) { const s = getComputedStyle(n); if (s.visibility === "hidden" || s.display === "none" || +s.opacity === 0) return false; } return true; };
  const leaves = [...document.querySelectorAll("svg text")];
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  const boxes = [];
  for (const t of leaves) if (t.textContent.trim() && visible(t)) { const pane = t.closest("svg").getBoundingClientRect(), r = t.getBoundingClientRect(); if (r.right > pane.left && r.left < pane.right && r.bottom > pane.top && r.top < pane.bottom) boxes.push([t.textContent, r, t]); }
  for (let n; (n = walker.nextNode());) {
    const e = n.parentElement;
    if (!n.data.trim() || e.closest("svg, script, style, select, .sr, .skip, dialog, sub, sup, .frac") || !visible(e)) continue;
    const range = document.createRange(); range.selectNodeContents(n);
    for (const r of range.getClientRects()) boxes.push([n.data.trim(), r, e]);
  }
  const clip = (e, r) => { let { left, top, right, bottom } = r; for (let n = e.parentElement; n; n = n.parentElement) { const o = getComputedStyle(n); if (o.overflow !== "visible" || n.tagName === "svg") { const b = n.getBoundingClientRect(); left = Math.max(left, b.left); right = Math.min(right, b.right); top = Math.max(top, b.top); bottom = Math.min(bottom, b.bottom); } } return { left, top, right, bottom }; };
  const flat = boxes.map(([t, r, e]) => [t, clip(e, r), e]).filter(([, r]) => r.right - r.left > 1 && r.bottom - r.top > 3);
  for (let i = 0; i < flat.length; i++) for (let j = i + 1; j < flat.length; j++) {
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
