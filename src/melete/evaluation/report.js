for (const line of document.querySelectorAll(".type")) {
  line.querySelector("button").onclick = async () => {
    const code = line.querySelector("code");
    getSelection().selectAllChildren(code);
    try { await navigator.clipboard.writeText(code.textContent); } catch { document.execCommand("copy"); }
  };
}

function figure(value) {
  const size = Math.abs(value);
  if (size >= 1e4) return value.toLocaleString("en", { maximumFractionDigits: 0 });
  if (size !== 0 && size < 1e-3) return value.toExponential(2);
  return String(Number(value.toPrecision(4)));
}

function tickLabel(value) {
  const size = Math.abs(value);
  if (size >= 1e6) return figure(value / 1e6) + "M";
  if (size >= 1e4) return figure(value / 1e3) + "k";
  return size !== 0 && size < 1e-3 ? value.toExponential(0) : String(Number(value.toPrecision(3)));
}

function niceTicks(low, high, count) {
  const raw = (high - low) / count, power = 10 ** Math.floor(Math.log10(raw));
  const step = [1, 2, 5, 10].find((m) => m * power >= raw) * power;
  const ticks = [];
  for (let i = Math.ceil(low / step); i * step <= high + step * 1e-9; i++) ticks.push(i * step);
  return ticks;
}

function logTicks(low, high) {
  const ticks = [];
  for (let power = Math.floor(Math.log10(low)); 10 ** power <= high; power++)
    for (const m of [1, 2, 3, 5]) if (m * 10 ** power >= low && m * 10 ** power <= high) ticks.push(m * 10 ** power);
  return ticks.length > 2 ? ticks : niceTicks(low, high, 4);
}

function svg(name, attributes, parent) {
  const node = document.createElementNS("http://www.w3.org/2000/svg", name);
  for (const key in attributes) node.setAttribute(key, attributes[key]);
  parent.append(node);
  return node;
}

// A line through the finite points; a gap where a value is missing.
function trace(xs, ys, x, y) {
  let path = "", pen = "M";
  ys.forEach((value, i) => {
    if (value === null) { pen = "M"; return; }
    path += pen + x(xs[i]).toFixed(1) + " " + y(value).toFixed(1);
    pen = "L";
  });
  return path;
}

function nearest(xs, at) {
  let low = 0, high = xs.length - 1;
  while (high - low > 1) {
    const middle = (low + high) >> 1;
    if (xs[middle] <= at) low = middle; else high = middle;
  }
  return Math.abs(xs[high] - at) < Math.abs(xs[low] - at) ? high : low;
}

function draw(box, lines, log) {
  box.replaceChildren();
  const width = box.clientWidth, height = box.clientHeight;
  const left = 46, right = 8, top = 8, bottom = 22;
  const finite = (line) => line.ys.filter((v) => v !== null && (!log || v > 0));
  // What sets the height: the calm lines after their first twentieth, so that neither one wild step nor the fall
  // from random weights flattens the rest.
  const settled = (line) => ({ ys: line.xs.length > 40 ? line.ys.slice(Math.ceil(line.xs.length / 20)) : line.ys });
  let values = lines.filter((line) => line.kind !== "raw").map(settled).flatMap(finite);
  if (!values.length) values = lines.flatMap(finite);
  if (!values.length) return;
  let low = Math.min(...values), high = Math.max(...values);
  const room = log ? 0 : (high - low || Math.abs(high) || 1) * 0.05;
  low = lines[0].zero ? 0 : low - room;
  high += room;
  if (log) { low *= 0.97; high *= 1.03; }
  const first = Math.min(...lines.map((line) => line.xs[0] ?? Infinity));
  const last = Math.max(...lines.map((line) => line.xs[line.xs.length - 1] ?? -Infinity), first + 1);
  const x = (v) => left + ((v - first) / (last - first)) * (width - left - right);
  const part = log ? (v) => Math.log(Math.max(v, low) / low) / Math.log(high / low) : (v) => (v - low) / (high - low);
  const y = (v) => height - bottom - part(v) * (height - top - bottom);
  const picture = svg("svg", { "aria-hidden": "true" }, box);
  for (const tick of log ? logTicks(low, high) : niceTicks(low, high, height > 200 ? 6 : 4)) {
    svg("line", { class: "grid", x1: left, x2: width - right, y1: y(tick), y2: y(tick) }, picture);
    svg("text", { x: left - 8, y: y(tick) + 4, "text-anchor": "end" }, picture).textContent = tickLabel(tick);
  }
  for (const tick of niceTicks(first, last, width > 500 ? 8 : 4)) {
    if (tick !== Math.round(tick)) continue;
    svg("text", { x: x(tick), y: height - 4, "text-anchor": "middle" }, picture).textContent = tickLabel(tick);
  }
  const clip = "clip-" + box.dataset.chart;
  const edge = { x: left, y: top - 6, width: Math.max(width - left - right, 0), height: height - top - bottom + 8 };
  svg("rect", edge, svg("clipPath", { id: clip }, picture));
  const inside = svg("g", { "clip-path": `url(#${clip})` }, picture);
  for (const line of lines) svg("path", { class: line.kind, d: trace(line.xs, line.ys, x, y) }, inside);
  for (const line of lines.filter((one) => one.kind === "valid" && one.xs.length <= 80))
    line.xs.forEach((step, i) => svg("circle", { cx: x(step), cy: y(line.ys[i]), r: 3.5 }, picture));
  hover(box, picture, lines, { x, left, right, top, bottom, width, height, first, last });
}

function hover(box, picture, lines, at) {
  const cursor = svg("line", { class: "cursor", y1: at.top, y2: at.height - at.bottom, visibility: "hidden" }, picture);
  const tip = document.createElement("div");
  tip.className = "tip";
  tip.hidden = true;
  box.append(tip);
  box.onpointerleave = () => { tip.hidden = true; cursor.setAttribute("visibility", "hidden"); };
  box.onpointermove = (event) => {
    const inner = (event.clientX - box.getBoundingClientRect().left - at.left) / (at.width - at.left - at.right);
    const wanted = at.first + inner * (at.last - at.first);
    const step = lines[0].xs[nearest(lines[0].xs, wanted)];
    tip.replaceChildren();
    const say = (label, value) => {
      const row = tip.appendChild(document.createElement("div"));
      row.append(label, " ", value);
    };
    const number = Math.round(step).toLocaleString("en");
    say(root.lang === "zh" ? `第 ${number} 步` : `step ${number}`, "");
    for (const line of lines) {
      const i = nearest(line.xs, step);
      if (line.ys[i] === undefined || line.ys[i] === null) continue;
      say(line.name ? document.querySelector(`.key.${line.name} [lang=${root.lang}]`).textContent : "", figure(line.ys[i]));
    }
    cursor.setAttribute("x1", at.x(step));
    cursor.setAttribute("x2", at.x(step));
    cursor.setAttribute("visibility", "visible");
    tip.hidden = false;
    const beside = at.x(step) + 10;
    tip.style.left = (beside + tip.offsetWidth > at.width ? at.x(step) - 10 - tip.offsetWidth : beside) + "px";
  };
}

function drawAll() {
  for (const box of document.querySelectorAll("[data-chart]")) {
    const name = box.dataset.chart;
    if (name.startsWith("figure-")) { draw(box, [{ xs: data.figure_step, ys: data[name], kind: "valid" }], false); continue; }
    if (name !== "loss") { draw(box, [{ xs: data.step, ys: data[name], kind: "plain", zero: true }], false); continue; }
    const lines = [
      { xs: data.step, ys: data.loss, kind: "raw", name: "train_raw" },
      { xs: data.step, ys: data.smooth, kind: "smooth", name: "train_smooth" },
    ];
    if (data.valid.length) lines.push({ xs: data.valid_step, ys: data.valid, kind: "valid", name: "validation" });
    draw(box, lines, document.getElementById("log").checked);
  }
}

if (data.step.length) {
  const log = document.getElementById("log");
  log.checked = kept("log") === "yes";
  log.onchange = () => { kept("log", log.checked ? "yes" : "no"); drawAll(); };
  new ResizeObserver(drawAll).observe(document.querySelector("main"));
}
