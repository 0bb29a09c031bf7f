/* ---------- one layout per box, put together for the boxes that are unfolded ---------- */
const SIDE = 30, TITLE = 34, FOOT = 12;               // around what stands in an unfolded box
const group = Object.fromEntries(G.groups.map((g) => [g.id, g]));
/* the boxes that a node stands in, the outermost first */
const boxesTo = (id) => { const path = []; for (let g = id; g; g = group[g].parent) path.unshift(g); return path; };
const homes = Object.fromEntries(G.nodes.map((n) => [n.id, boxesTo(n.group)]));
/* where it is seen: itself, or the outermost folded box around it */
const nodeOf = (id) => { const box = id && homes[id]?.find((g) => state.folded.has(g)); return box ? `box:${box}` : id; };

/* Coordinates are stretched where boxes unfold: what lies in a box's span moves apart, all else keeps its order, so nothing comes to overlap. */
function stretch(spans) {
  const cuts = [...new Set(spans.flatMap(([a, b]) => [a, b]))].sort((a, b) => a - b), pieces = [];
  for (let i = 0; i + 1 < cuts.length; i++) {
    const more = Math.max(1, ...spans.filter(([a, b]) => a <= cuts[i] && b >= cuts[i + 1]).map(([, , k]) => k)) - 1;
    if (more) pieces.push([cuts[i], cuts[i + 1], more]);
  }
  const at = (t) => pieces.reduce((sum, [a, b, more]) => sum + more * (Math.min(Math.max(t, a), b) - a), t);
  at.bends = (low, high) => pieces.some(([a, b]) => (a > low && a < high) || (b > low && b < high));
  return at;
}
/* a chain of cubic curves, x and y by turns; where the stretch bends it is cut small */
function bent(points, fx, fy) {
  const moved = [fx(points[0]), fy(points[1])];
  for (let i = 0; i + 7 < points.length; i += 6) {
    const p = points.slice(i, i + 8), xs = [p[0], p[2], p[4], p[6]], ys = [p[1], p[3], p[5], p[7]];
    const straight = !fx.bends(Math.min(...xs), Math.max(...xs)) && !fy.bends(Math.min(...ys), Math.max(...ys)), n = straight ? 1 : 10;
    const part = (z, a, b) => {
      const at = (t) => { const u = 1 - t; return u * u * u * z[0] + 3 * u * u * t * z[1] + 3 * u * t * t * z[2] + t * t * t * z[3]; };
      const slope = (t) => { const u = 1 - t; return 3 * (u * u * (z[1] - z[0]) + 2 * u * t * (z[2] - z[1]) + t * t * (z[3] - z[2])); };
      return [at(a) + slope(a) * (b - a) / 3, at(b) - slope(b) * (b - a) / 3, at(b)];
    };
    for (let k = 0; k < n; k++) {
      const x = part(xs, k / n, (k + 1) / n), y = part(ys, k / n, (k + 1) / n);
      for (let j = 0; j < 3; j++) moved.push(fx(x[j]), fy(y[j]));
    }
  }
  return moved;
}
const shifted = (points, dx, dy) => points.map((x, i) => x + (i % 2 ? dy : dx));
/* pieces of a wire one after another, joined by level curves */
function joined(pieces) {
  const whole = [...pieces[0]];
  for (const piece of pieces.slice(1)) {
    const [a, b] = whole.slice(-2), [c, d] = piece, mid = (a + c) / 2;
    whole.push(mid, b, mid, d, c, d, ...piece.slice(2));
  }
  return whole;
}
/* what stands in a box, or in the whole (""), with everything in it that is unfolded */
function arrange(id) {
  const plan = G.layouts[id], open = Object.keys(plan.nodes).filter((n) => n.startsWith("box:") && !state.folded.has(n.slice(4))).map((n) => n.slice(4));
  const inner = Object.fromEntries(open.map((g) => [g, arrange(g)]));
  const spans = (axis, around) => open.map((g) => { const at = plan.nodes[`box:${g}`], half = at[axis + 2] / 2; return [at[axis] - half, at[axis] + half, Math.max(1, (inner[g].size[axis] + around) / (2 * half))]; });
  const fx = stretch(spans(0, 2 * SIDE)), fy = stretch(spans(1, TITLE + FOOT));
  const depth = boxesTo(id).length, standing = (end) => (homes[end][depth] ? `box:${homes[end][depth]}` : end);
  /* gates and folded boxes move, but do not grow: a curve ends where it ended at them */
  function curve(points, tail, head) {
    if (!open.length) return points;
    const moved = bent(points, fx, fy);
    for (const [end, at, control] of [[tail, 0, 2], [head, points.length - 2, moved.length - 4]]) {
      const spot = end && !inner[homes[end][depth]] && plan.nodes[standing(end)], last = at ? moved.length - 2 : 0;
      if (!spot) continue;
      const dx = fx(spot[0]) + points[at] - spot[0] - moved[last], dy = fy(spot[1]) + points[at + 1] - spot[1] - moved[last + 1];
      for (const i of [last, control]) { moved[i] += dx; moved[i + 1] += dy; }
    }
    return moved;
  }
  const out = { size: [fx(plan.size[0]), fy(plan.size[1])], nodes: {}, wires: {}, groups: {}, entries: {}, exits: {} };
  for (const [name, [x, y, w, h]] of Object.entries(plan.nodes)) if (!inner[name.slice(4)] || !name.startsWith("box:")) out.nodes[name] = [fx(x), fy(y), w, h];
  for (const g of open) {
    const [x, y, w, h] = plan.nodes[`box:${g}`], left = fx(x - w / 2), top = fy(y - h / 2), width = fx(x + w / 2) - left, height = fy(y + h / 2) - top, a = inner[g];
    const dx = left + (width - a.size[0]) / 2, dy = top + TITLE + (height - TITLE - FOOT - a.size[1]) / 2;
    out.groups[g] = [left, top, width, height];
    for (const [name, [nx, ny, nw, nh]] of Object.entries(a.nodes)) out.nodes[name] = [nx + dx, ny + dy, nw, nh];
    for (const [name, [gx, gy, gw, gh]] of Object.entries(a.groups)) out.groups[name] = [gx + dx, gy + dy, gw, gh];
    for (const [name, at] of Object.entries(a.wires)) out.wires[name] = { seat: [at.seat[0] + dx, at.seat[1] + dy, at.seat[2], at.seat[3]], before: shifted(at.before, dx, dy), after: shifted(at.after, dx, dy) };
    for (const side of ["entries", "exits"]) for (const name in a[side]) a[side][name] = shifted(a[side][name], dx, dy);
  }
  const into = (name, end, own) => { const a = inner[homes[end][depth]]; return a ? joined([own, a.entries[name]]) : own; };
  const outOf = (name, end, own) => { const a = inner[homes[end][depth]]; return a ? joined([a.exits[name], own]) : own; };
  for (const [name, [seat, before, after]] of Object.entries(plan.wires)) {
    out.wires[name] = { seat: [fx(seat[0]), fy(seat[1]), seat[2], seat[3]], before: outOf(name, wire[name].from, curve(before, wire[name].from, null)), after: into(name, wire[name].to, curve(after, null, wire[name].to)) };
  }
  for (const [name, points] of Object.entries(plan.entries)) out.entries[name] = into(name, wire[name].to, curve(points, null, wire[name].to));
  for (const [name, points] of Object.entries(plan.exits)) out.exits[name] = outOf(name, wire[name].from, curve(points, wire[name].from, null));
  return out;
}
function layout() {
  const whole = arrange(""), text = (points) => points.map((x) => Math.round(x * 10) / 10).join(" ");
  for (const at of Object.values(whole.wires)) {
    const [x, y, w] = at.seat;
    at.path = `M${text(at.before.slice(0, 2))}C${text(at.before.slice(2))}L${text([x - w / 2, y, x + w / 2, y])}L${text(at.after.slice(0, 2))}C${text(at.after.slice(2))}`;
  }
  return whole;
}
