"use strict";
(() => {
  const run = JSON.parse(document.getElementById("run").textContent);
  const $ = (id) => document.getElementById(id);
  // Frames: [left, arrives or -1, from, to, kind, fate, length, unheard]. Marks: [at, lane, kind, text].
  const { frames, marks, lanes, end } = run;
  const begin = run.begin;
  const LOST = new Set(["dropped", "overflowed"]);
  const isLost = (f) => f[1] < 0 || f[7] === 1 || LOST.has(run.fates[f[5]]);
  const frameKinds = run.kinds.length;
  const occurring = new Set(frames.map((f) => f[4]));
  const markKinds = [...new Set(marks.map((m) => m[2]))];
  const hidden = { lanes: new Set(), kinds: new Set() };
  let from = begin, to = end, chosen = null, items = [], words = [];
  let styles, dark, colours;

  // What is not sorted by its end is skipped in blocks, each with its latest end.
  const BLOCK = 256;
  const latest = [];
  frames.forEach((f, i) => {
    const block = Math.floor(i / BLOCK);
    latest[block] = Math.max(latest[block] ?? 0, f[0], f[1]);
  });
  const lowerBound = (list, at, key) => {
    let low = 0, high = list.length;
    while (low < high) {
      const middle = (low + high) >> 1;
      if (key(list[middle]) < at) low = middle + 1;
      else high = middle;
    }
    return low;
  };

  const bands = lanes.map(() => []);
  for (const [at, lane, up, status, view, leads] of run.stands) {
    const last = bands[lane].at(-1);
    if (last?.up === up && last.status === status && last.view === view && last.leads === leads) continue;
    if (last) last.to = at;
    bands[lane].push({ from: at, to: Infinity, up, status, view, leads });
  }
  const cuts = [];
  const open = new Map();
  for (const [at, a, b, cut] of run.links) {
    if (cut) open.set(`${a}-${b}`, { from: at, to: Infinity, a, b });
    else if (open.has(`${a}-${b}`)) {
      const span = open.get(`${a}-${b}`);
      span.to = at;
      cuts.push(span);
      open.delete(`${a}-${b}`);
    }
  }
  cuts.push(...open.values());

  const seconds = (ns) => (ns / 1e9).toFixed(6) + " s";
  const length = (ns) => ns >= 1e9 ? (ns / 1e9).toFixed(2) + " s" : ns >= 1e6 ? (ns / 1e6).toFixed(2) + " ms" : (ns / 1e3).toFixed(1) + " µs";
  const atOf = (item) => item.frame ? item.frame[0] : item.mark[0];
  const frameShown = (f) => !hidden.lanes.has(f[2]) && !hidden.lanes.has(f[3]) && !hidden.kinds.has(f[4]);
  const markShown = (m) => !hidden.lanes.has(m[1]) && !hidden.kinds.has(frameKinds + markKinds.indexOf(m[2]));
  const fateOf = (f) => f[7] === 1 ? "nobody heard it" : f[1] < 0 ? `${run.fates[f[5]]}: it never comes` : f[1] > end ? "still on its way" : run.fates[f[5]];
  const textOf = (item) => item.frame
    ? `${run.kinds[item.frame[4]]} ${lanes[item.frame[2]].name}→${lanes[item.frame[3]].name}${isLost(item.frame) ? " lost" : item.frame[5] ? " " + run.fates[item.frame[5]] : ""}`
    : `${item.mark[2]} ${item.mark[1] < lanes.length ? lanes[item.mark[1]].name + " " : ""}${item.mark[3]}`;

  function readStyles() {
    styles = getComputedStyle(document.documentElement);
    dark = matchMedia("(prefers-color-scheme: dark)").matches;
    colours = [...run.kinds, ...markKinds].map((_, i) => `hsl(${(i * 137.5) % 360} 62% ${dark ? 66 : 40}%)`);
    document.querySelectorAll("#kinds button").forEach((chip) => chip.style.setProperty("--colour", colours[chip.dataset.at]));
  }
  const colour = (name) => styles.getPropertyValue(`--${name}`);

  function chips(parent, names, set, first = 0) {
    names.forEach((name, i) => {
      // A kind that never was needs no filter.
      if (set === hidden.kinds && i < frameKinds && !occurring.has(i)) return;
      const chip = document.createElement("button");
      chip.textContent = name;
      chip.dataset.at = first + i;
      chip.setAttribute("aria-pressed", "true");
      chip.title = "Click: show or hide. Double click: this one alone, and all again.";
      chip.onclick = () => {
        if (!set.delete(first + i)) set.add(first + i);
        refilter();
      };
      chip.ondblclick = () => {
        const others = [...parent.querySelectorAll("button")].filter((other) => other !== chip).map((other) => Number(other.dataset.at));
        const alone = others.every((at) => set.has(at));
        set.clear();
        if (!alone) others.forEach((at) => set.add(at));
        refilter();
      };
      parent.append(chip);
    });
  }

  function refilter() {
    for (const [id, set] of [["processes", hidden.lanes], ["kinds", hidden.kinds]]) {
      $(id).querySelectorAll("button").forEach((chip) => chip.setAttribute("aria-pressed", String(!set.has(Number(chip.dataset.at)))));
    }
    const left = frames.filter(frameShown).map((frame) => ({ frame }));
    const told = marks.filter(markShown).map((mark) => ({ mark }));
    items = [];
    let l = 0, t = 0;
    while (l < left.length || t < told.length) {
      const next = t >= told.length || (l < left.length && left[l].frame[0] <= told[t].mark[0]) ? left[l++] : told[t++];
      if (words.length) {
        const text = textOf(next).toLowerCase();
        if (!words.every((word) => text.includes(word))) continue;
      }
      items.push(next);
    }
    $("count").textContent = `${items.length} events${words.length ? " found" : ""}`;
    $("spacer").style.height = `${items.length * 20}px`;
    list();
    draw();
  }

  function list() {
    const box = $("list");
    box.querySelectorAll(".item").forEach((row) => row.remove());
    const first = Math.max(0, Math.floor(box.scrollTop / 20) - 5);
    const last = Math.min(items.length, first + Math.ceil(box.clientHeight / 20) + 10);
    for (let i = first; i < last; i++) {
      const row = document.createElement("div");
      row.className = "item" + (isSame(items[i], chosen) ? " chosen" : "") + (items[i].frame && isLost(items[i].frame) ? " lost" : "");
      row.style.top = `${i * 20}px`;
      row.textContent = `${(atOf(items[i]) / 1e9).toFixed(6)} ${textOf(items[i])}`;
      row.onclick = () => choose(items[i], true);
      box.append(row);
    }
  }
  const isSame = (one, other) => !!one && !!other && (one.frame ?? one.mark) === (other.frame ?? other.mark);

  function choose(item, go) {
    chosen = item;
    const dl = $("details");
    dl.textContent = "";
    const say = (term, text) => {
      const [dt, dd] = [document.createElement("dt"), document.createElement("dd")];
      [dt.textContent, dd.textContent] = [term, text];
      dl.append(dt, dd);
    };
    if (item?.frame) {
      const f = item.frame;
      say("message", run.kinds[f[4]]);
      say("way", `${lanes[f[2]].name} → ${lanes[f[3]].name}`);
      say("left", seconds(f[0]));
      if (f[1] >= 0) say("arrives", `${seconds(f[1])} (${length(f[1] - f[0])} later)`);
      say("length", `${f[6]} bytes`);
      say("fate", fateOf(f));
    } else if (item) {
      say("event", item.mark[2]);
      say("at", seconds(item.mark[0]));
      if (item.mark[1] < lanes.length) say("process", lanes[item.mark[1]].name);
      say("what", item.mark[3]);
    }
    if (item && go) {
      const at = atOf(item), half = (to - from) / 2;
      if (at < from || at > to) show(at - half, at + half);
    }
    const place = items.findIndex((other) => isSame(other, item));
    const box = $("list");
    if (place >= 0 && (place * 20 < box.scrollTop || place * 20 > box.scrollTop + box.clientHeight - 20)) {
      box.scrollTop = place * 20 - box.clientHeight / 2;
    }
    list();
    draw();
  }

  function step(by) {
    if (!items.length) return;
    let place = items.findIndex((item) => isSame(item, chosen));
    place = place < 0 ? lowerBound(items, from, atOf) - (by > 0 ? 1 : 0) : place;
    choose(items[Math.min(items.length - 1, Math.max(0, place + by))], true);
  }

  function show(a, b) {
    const least = 2000, whole = Math.max(end - begin, least) * 1.04;
    const wide = Math.min(Math.max(b - a, least), whole);
    a = Math.min(Math.max(a, begin - whole * 0.02), end + whole * 0.02 - wide);
    [from, to] = [a, a + wide];
    draw();
  }
  const zoom = (by, around = (from + to) / 2) => show(around - (around - from) * by, around + (to - around) * by);
  function toViolation() {
    const last = items.slice(-60);
    if (!last.length) return show(begin, end);
    show(Math.min(atOf(last[0]), end - 1e6), end + (end - atOf(last[0])) * 0.08);
    const violation = items.findLast((item) => item.mark?.[2] === "violation");
    choose(violation ?? last.at(-1), false);
  }

  const LEFT = 54, TOP = 26;
  const canvas = $("picture"), map = $("map");
  let pending = false;
  function draw() {
    if (pending) return;
    pending = true;
    requestAnimationFrame(() => {
      pending = false;
      paint();
      paintMap();
    });
  }
  function sized(target) {
    const ratio = devicePixelRatio || 1;
    const [w, h] = [target.clientWidth, target.clientHeight];
    if (target.width !== Math.round(w * ratio) || target.height !== Math.round(h * ratio)) {
      [target.width, target.height] = [Math.round(w * ratio), Math.round(h * ratio)];
    }
    const pen = target.getContext("2d");
    pen.setTransform(ratio, 0, 0, ratio, 0, 0);
    pen.clearRect(0, 0, w, h);
    return [pen, w, h];
  }
  const x = (at) => LEFT + ((at - from) / (to - from)) * (canvas.clientWidth - LEFT);
  const timeAt = (px) => from + ((px - LEFT) / (canvas.clientWidth - LEFT)) * (to - from);
  const shownLanes = () => lanes.map((_, i) => i).filter((i) => !hidden.lanes.has(i));
  function heights(h) {
    const shown = shownLanes(), y = [];
    shown.forEach((lane, i) => { y[lane] = TOP + ((i + 0.55) * (h - TOP)) / shown.length; });
    return y;
  }

  function paint() {
    const [pen, w, h] = sized(canvas), y = heights(h);
    pen.font = "11px system-ui, sans-serif";
    axis(pen, w, h);
    pen.save();
    pen.beginPath();
    pen.rect(LEFT, 0, w - LEFT, h);
    pen.clip();
    for (const lane of shownLanes()) paintLane(pen, lane, y[lane], w);
    paintCuts(pen, y);
    const drawn = paintFrames(pen, y);
    paintMarks(pen, y, h);
    pen.restore();
    pen.fillStyle = colour("ink");
    pen.font = "600 12px system-ui, sans-serif";
    for (const lane of shownLanes()) pen.fillText(lanes[lane].name, 8, y[lane] + 4);
    canvas.dataset.drawn = drawn;
    [canvas.dataset.from, canvas.dataset.to] = [Math.round(from), Math.round(to)];
    $("range").textContent = `${seconds(Math.max(0, from))} to ${seconds(to)} (${length(to - from)})`;
  }

  function axis(pen, w, h) {
    const rough = (to - from) / Math.max(2, (w - LEFT) / 110), power = 10 ** Math.floor(Math.log10(rough));
    const unit = [1, 2, 5, 10].map((n) => n * power).find((n) => n >= rough);
    pen.fillStyle = colour("soft");
    pen.strokeStyle = colour("line");
    for (let at = Math.ceil(from / unit) * unit; at <= to; at += unit) {
      pen.beginPath();
      pen.moveTo(x(at), 18);
      pen.lineTo(x(at), h);
      pen.stroke();
      pen.fillText((at / 1e9).toFixed(Math.max(1, Math.min(6, 9 - Math.floor(Math.log10(unit))))), x(at) + 3, 13);
    }
  }

  function paintLane(pen, lane, y, w) {
    pen.strokeStyle = colour("lane");
    pen.beginPath();
    pen.moveTo(LEFT, y);
    pen.lineTo(w, y);
    pen.stroke();
    for (const band of bands[lane]) {
      if (band.to < from || band.from > to) continue;
      const [a, b] = [Math.max(LEFT, x(band.from)), Math.min(w, x(band.to))];
      if (!band.up) {
        pen.fillStyle = colour("down");
        pen.fillRect(a, y - 22, b - a, 30);
        if (b - a > 34) { pen.fillStyle = colour("bad"); pen.fillText("down", a + 4, y - 8); }
        continue;
      }
      if (lanes[lane].kind !== "replica") continue;
      const usual = band.status === "normal";
      pen.fillStyle = `hsl(${(band.view * 67 + 200) % 360} ${usual ? 55 : 25}% ${dark ? 42 : 66}% / ${usual ? 0.85 : 0.4})`;
      pen.fillRect(a, y - 22, Math.max(1, b - a), 14);
      if (band.leads) { pen.fillStyle = colour("ink"); pen.fillRect(a, y - 8, Math.max(1, b - a), 2.5); }
      const text = `${usual ? "" : band.status + " "}v${band.view}${band.leads ? " leads" : ""}`;
      if (b - a > pen.measureText(text).width + 8) { pen.fillStyle = colour("ink"); pen.fillText(text, a + 4, y - 11); }
    }
    for (const [a, b, place, kind] of run.spans) {
      if (place !== lane || b < from || a > to) continue;
      pen.fillStyle = kind === "pause" ? colour("pause") : colour("accent");
      pen.fillRect(x(a), kind === "pause" ? y - 24 : y + 5, Math.max(1.5, x(Math.min(b, to)) - x(a)), kind === "pause" ? 32 : 3);
      if (x(b) - x(a) > 40) { pen.fillStyle = colour("soft"); pen.fillText(kind, Math.max(LEFT, x(a)) + 3, y + 18); }
    }
  }

  function paintCuts(pen, y) {
    pen.strokeStyle = colour("bad");
    pen.setLineDash([6, 3]);
    for (const cut of cuts) {
      if (cut.to < from || cut.from > to || y[cut.a] === undefined || y[cut.b] === undefined) continue;
      const at = y[cut.a] + (cut.b > cut.a ? 1 : -1) * (9 + 2 * cut.b) - (cut.b > cut.a ? 0 : 15);
      pen.beginPath();
      pen.moveTo(Math.max(LEFT, x(cut.from)), at);
      pen.lineTo(x(Math.min(cut.to, to)), at);
      pen.stroke();
    }
    pen.setLineDash([]);
  }

  function visibleFrames(each) {
    const last = lowerBound(frames, to, (f) => f[0]);
    for (let i = 0; i < last; i++) {
      if (i % BLOCK === 0 && latest[i / BLOCK] < from) { i += BLOCK - 1; continue; }
      const f = frames[i];
      if (Math.max(f[0], f[1]) >= from && frameShown(f)) each(f);
    }
  }
  function ends(f, y) {
    const flight = f[1] < 0 ? (to - from) * 0.012 : f[1] - f[0];
    const lost = f[1] < 0 ? 0.5 : 1;
    return [x(f[0]), y[f[2]], x(f[0] + flight * (f[1] < 0 ? 1 : lost)), y[f[2]] + (y[f[3]] - y[f[2]]) * lost];
  }
  const MOST = 7000;
  function paintFrames(pen, y) {
    const visible = [];
    visibleFrames((f) => visible.push(f));
    const every = Math.ceil(visible.length / MOST);
    let drawn = 0;
    pen.lineWidth = every > 1 ? 0.5 : 1;
    visible.forEach((f, i) => {
      if (i % every && !(chosen?.frame === f)) return;
      drawn++;
      const [x0, y0, x1, y1] = ends(f, y), lost = isLost(f), here = chosen?.frame === f;
      pen.globalAlpha = here ? 1 : every > 1 ? 0.35 : lost ? 0.9 : 0.75;
      pen.lineWidth = here ? 3 : every > 1 ? 0.5 : 1.1;
      pen.strokeStyle = pen.fillStyle = colours[f[4]];
      pen.setLineDash(f[5] && !lost ? [5, 3] : []);
      pen.beginPath();
      pen.moveTo(x0, y0);
      pen.lineTo(x1, y1);
      pen.stroke();
      pen.setLineDash([]);
      if (every > 2) return;
      if (lost) cross(pen, x1, y1, 3.5);
      else arrow(pen, x0, y0, x1, y1);
    });
    pen.globalAlpha = 1;
    pen.lineWidth = 1;
    const left = run.left_out.frames ? ` The first ${run.left_out.frames} messages were left out.` : "";
    $("note").textContent = (every > 1 ? `One of ${every} of ${visible.length} messages is drawn: zoom in for all.` : "") + left;
    return drawn;
  }
  function cross(pen, px, py, size) {
    pen.strokeStyle = colour("bad");
    pen.beginPath();
    pen.moveTo(px - size, py - size); pen.lineTo(px + size, py + size);
    pen.moveTo(px - size, py + size); pen.lineTo(px + size, py - size);
    pen.stroke();
  }
  function arrow(pen, x0, y0, x1, y1) {
    const angle = Math.atan2(y1 - y0, x1 - x0);
    pen.beginPath();
    pen.moveTo(x1, y1);
    pen.lineTo(x1 - 7 * Math.cos(angle - 0.35), y1 - 7 * Math.sin(angle - 0.35));
    pen.lineTo(x1 - 7 * Math.cos(angle + 0.35), y1 - 7 * Math.sin(angle + 0.35));
    pen.fill();
  }

  const visibleMarks = () => marks.slice(lowerBound(marks, from, (m) => m[0]), lowerBound(marks, to + 1, (m) => m[0])).filter(markShown);
  function paintMarks(pen, y, h) {
    const visible = visibleMarks(), every = Math.ceil(visible.length / MOST);
    visible.forEach((m, i) => {
      const px = x(m[0]), own = m[1] < lanes.length;
      if (!own) {
        const trouble = m[2] === "trouble";
        pen.strokeStyle = trouble ? colour("accent") : m[2] === "violation" ? colour("bad") : colour("good");
        pen.lineWidth = m[2] === "violation" ? 2.5 : 1.5;
        pen.beginPath();
        pen.moveTo(px, 18);
        pen.lineTo(px, trouble ? 30 : h);
        pen.stroke();
        pen.lineWidth = 1;
        return;
      }
      if (i % every) return;
      const py = y[m[1]];
      pen.fillStyle = pen.strokeStyle = colours[frameKinds + markKinds.indexOf(m[2])];
      if (m[2] === "crash") { pen.lineWidth = 2.5; cross(pen, px, py, 6); pen.lineWidth = 1; }
      else if (m[2] === "start") { pen.beginPath(); pen.moveTo(px - 4, py - 6); pen.lineTo(px + 6, py); pen.lineTo(px - 4, py + 6); pen.fill(); }
      else if (m[2] === "executed") pen.fillRect(px - 1, py - 5, 2, 10);
      else if (m[2] === "disk") { pen.beginPath(); pen.rect(px - 4, py - 4, 8, 8); pen.fill(); }
      else { pen.beginPath(); pen.arc(px, py, 3.2, 0, 7); pen.fill(); }
      if (chosen?.mark === m) { pen.strokeStyle = colour("ink"); pen.beginPath(); pen.arc(px, py, 9, 0, 7); pen.stroke(); }
    });
  }

  let density;
  function paintMap() {
    const [pen, w, h] = sized(map);
    const column = (at) => Math.min(399, Math.max(0, Math.floor(((at - begin) / Math.max(1, end - begin)) * 400)));
    if (!density) {
      density = new Array(400).fill(0);
      frames.forEach((f) => density[column(f[0])]++);
    }
    const most = Math.max(1, ...density);
    pen.fillStyle = colour("lane");
    density.forEach((count, i) => pen.fillRect((i * w) / 400, h - (count / most) * (h - 4), w / 400, h));
    pen.fillStyle = colour("bad");
    marks.forEach((m) => ["crash", "violation"].includes(m[2]) && pen.fillRect((column(m[0]) * w) / 400, 0, 2, m[2] === "crash" ? 8 : h));
    pen.strokeStyle = colour("accent");
    pen.lineWidth = 2;
    const px = (at) => ((at - begin) / Math.max(1, end - begin)) * w;
    pen.strokeRect(px(from), 1, Math.max(3, px(to) - px(from)), h - 2);
  }

  function nearest(px, py) {
    const y = heights(canvas.clientHeight);
    let best = null, close = 7;
    for (const mark of visibleMarks()) {
      const away = mark[1] < lanes.length ? Math.hypot(x(mark[0]) - px, y[mark[1]] - py) : Math.abs(x(mark[0]) - px) + 2;
      if (away < close) [best, close] = [{ mark }, away];
    }
    if (best) return best;
    visibleFrames((frame) => {
      const [x0, y0, x1, y1] = ends(frame, y), [dx, dy] = [x1 - x0, y1 - y0];
      const along = Math.min(1, Math.max(0, ((px - x0) * dx + (py - y0) * dy) / (dx * dx + dy * dy || 1)));
      const away = Math.hypot(x0 + along * dx - px, y0 + along * dy - py);
      if (away < close) [best, close] = [{ frame }, away];
    });
    return best;
  }

  canvas.addEventListener("wheel", (event) => {
    event.preventDefault();
    const wide = to - from;
    if (event.shiftKey || Math.abs(event.deltaX) > Math.abs(event.deltaY)) {
      const by = ((event.deltaX || event.deltaY) / canvas.clientWidth) * wide;
      show(from + by, to + by);
    } else zoom(Math.exp(event.deltaY * 0.0016), timeAt(event.offsetX));
  }, { passive: false });
  let grip = null;
  canvas.onpointerdown = (event) => {
    grip = { x: event.offsetX, from, to, moved: false };
    canvas.setPointerCapture(event.pointerId);
  };
  canvas.onpointermove = (event) => {
    if (!grip) return;
    const by = event.offsetX - grip.x;
    grip.moved ||= Math.abs(by) > 3;
    const move = (by / (canvas.clientWidth - LEFT)) * (grip.to - grip.from);
    if (grip.moved) show(grip.from - move, grip.to - move);
  };
  canvas.onpointerup = (event) => {
    if (grip && !grip.moved) choose(nearest(event.offsetX, event.offsetY), false);
    grip = null;
  };
  map.onclick = (event) => {
    const at = begin + (event.offsetX / map.clientWidth) * (end - begin), half = (to - from) / 2;
    show(at - half, at + half);
  };
  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    if (event.target === $("search")) return event.key === "Escape" && canvas.focus();
    const move = (by) => show(from + (to - from) * by, to + (to - from) * by);
    const keys = {
      ArrowLeft: () => move(-0.2), ArrowRight: () => move(0.2), "+": () => zoom(0.6), "=": () => zoom(0.6), "-": () => zoom(1.6),
      f: () => show(begin, end), v: toViolation, n: () => step(1), p: () => step(-1), "/": () => $("search").focus(),
    };
    if (keys[event.key]) {
      event.preventDefault();
      keys[event.key]();
    }
  });
  $("search").oninput = () => {
    words = $("search").value.toLowerCase().split(/\s+/).filter(Boolean);
    refilter();
  };
  $("list").onscroll = list;
  $("all").onclick = () => show(begin, end);
  $("in").onclick = () => zoom(0.5);
  $("out").onclick = () => zoom(2);
  $("violation").onclick = toViolation;
  if (!run.verdict) $("violation").textContent = "Last events";
  addEventListener("resize", draw);
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => { readStyles(); draw(); });

  $("title").textContent = run.title;
  $("verdict").textContent = run.verdict ? `broke ${run.verdict.checker}: ${run.verdict.what}` : "every promise held";
  $("verdict").className = run.verdict ? "broken" : "";
  $("command").textContent = run.command;
  chips($("processes"), lanes.map((lane) => lane.name), hidden.lanes);
  chips($("kinds"), [...run.kinds, ...markKinds], hidden.kinds);
  readStyles();
  refilter();
  show(begin, end);
})();
