const { tokens, layers, heads, size } = data;
const bytes = Uint8Array.from(atob(data.weights), (letter) => letter.charCodeAt(0));
const weights = new Uint16Array(bytes.buffer);

// A word of the page's own in the language that is shown.
function word(key, n) {
  const both = document.getElementById("word-" + key).content;
  return both.querySelector(`[lang=${root.lang}]`).textContent.replace("{n}", n);
}

function visible(text) {
  return text.replace(/\n/g, "↵").replace(/\t/g, "⇥").replace(/^ +$/, "␣");
}

function label(text) {
  const shown = visible(text).trim();
  return shown.length > 12 ? shown.slice(0, 11) + "…" : shown;
}

function percent(share) {
  return share >= 0.001 ? (100 * share).toFixed(1) + " %" : (100 * share).toPrecision(1) + " %";
}

// -- token by token --

const flow = document.getElementById("tokens");
let picked = -1;

function showGuesses() {
  const box = document.getElementById("guesses");
  box.replaceChildren();
  if (picked < 0) return;
  const token = tokens[picked];
  const list = token ? token.guesses : data.after;
  const head = box.appendChild(document.createElement("h3"));
  const name = head.appendChild(document.createElement("b"));
  name.textContent = token ? label(token.text) : "…";
  if (token && token.p !== null) {
    head.append(percent(token.p));
    if (data.kind !== "replaced") head.append(`, ${token.bits.toFixed(1)} ${word("bits")}`);
  } else if (token) head.append(word("no_token"));
  for (const [text, share] of list) {
    const row = box.appendChild(document.createElement("div"));
    row.className = token && text.trim() === token.text ? "guess true" : "guess";
    row.appendChild(document.createElement("span")).textContent = visible(text);
    const bar = row.appendChild(document.createElement("i"));
    bar.className = "bar";
    bar.style.width = (100 * share).toFixed(2) + "%";
    row.appendChild(document.createElement("em")).textContent = percent(share);
  }
}

function pick(number) {
  picked = number;
  for (const node of flow.querySelectorAll(".tok")) node.classList.toggle("chosen", Number(node.dataset.i) === number);
  showGuesses();
}

if (flow) {
  const asked = tokens.map((token, i) => [token.p === null ? -1 : data.kind === "replaced" ? token.p : token.bits, i]);
  for (const node of flow.querySelectorAll(".tok:not(.special)")) {
    node.onclick = node.onfocus = () => pick(Number(node.dataset.i));
  }
  pick(asked.reduce((one, other) => (other[0] > one[0] ? other : one))[1]);
}

// -- attention --

const map = document.getElementById("map");
let layer = layers - 1, head = heads; // `heads` itself is the mean of them
let row = -1, column = -1;

function cells(ofLayer, ofHead) {
  const area = size * size, start = ofLayer * heads * area;
  if (ofHead < heads) return weights.subarray(start + ofHead * area, start + (ofHead + 1) * area);
  const mean = new Float32Array(area);
  for (let h = 0; h < heads; h++) for (let i = 0; i < area; i++) mean[i] += weights[start + h * area + i] / heads;
  return mean;
}

// Weak weights are told apart better by their square root.
const strength = (weight) => Math.sqrt(weight / 65535);

function ink(name) {
  return getComputedStyle(root).getPropertyValue("--" + name).trim();
}

function drawHeads() {
  const box = document.getElementById("heads");
  box.replaceChildren();
  const side = Math.max(14, Math.min(52, Math.floor(300 / (heads + 1)), Math.floor(560 / layers)));
  box.style.gridTemplateColumns = `repeat(${heads}, ${side}px) ${side + 6}px`;
  for (let l = 0; l < layers; l++) {
    for (let h = 0; h <= heads; h++) {
      const button = box.appendChild(document.createElement("button"));
      button.type = "button";
      if (h === heads) button.className = "mean";
      button.style.width = button.style.height = side + "px";
      button.title = title(l, h);
      button.setAttribute("aria-label", button.title);
      button.setAttribute("aria-pressed", l === layer && h === head);
      button.onclick = () => { layer = l; head = h; drawAll(); };
      const canvas = button.appendChild(document.createElement("canvas"));
      canvas.width = canvas.height = size;
      const pen = canvas.getContext("2d"), found = cells(l, h);
      pen.fillStyle = ink("one");
      for (let i = 0; i < size * size; i++) {
        pen.globalAlpha = strength(found[i]);
        if (pen.globalAlpha > 0.02) pen.fillRect(i % size, Math.floor(i / size), 1, 1);
      }
    }
  }
}

function title(l, h) {
  return `${word("layer", l + 1)} · ${h < heads ? word("head", h + 1) : word("mean")}`;
}

const names = tokens.map((token) => label(token.text));
let side = 0, left = 0, top_ = 0;

function drawMap() {
  const pen = map.getContext("2d"), scale = devicePixelRatio || 1, found = cells(layer, head);
  const font = `11px ${getComputedStyle(document.body).fontFamily}`;
  pen.font = font;
  const longest = Math.ceil(Math.max(...names.map((name) => pen.measureText(name).width)));
  side = Math.max(12, Math.min(30, Math.floor(480 / size)));
  left = top_ = longest + 10;
  const width = left + size * side + 1, height = top_ + size * side + 1;
  map.width = width * scale;
  map.height = height * scale;
  map.style.width = width + "px";
  map.style.height = height + "px";
  pen.scale(scale, scale);
  pen.font = font;
  pen.textBaseline = "middle";
  const ofNames = ink("soft"), ofChosen = ink("ink");
  for (let i = 0; i < size; i++) {
    pen.fillStyle = i === row ? ofChosen : ofNames;
    pen.textAlign = "right";
    pen.fillText(names[i], left - 6, top_ + (i + 0.5) * side);
    pen.fillStyle = i === column ? ofChosen : ofNames;
    pen.save();
    pen.translate(left + (i + 0.5) * side, top_ - 6);
    if (names[i].length > 1) { // a single character, most of Chinese, stays upright
      pen.rotate(-Math.PI / 2);
      pen.textAlign = "left";
      pen.fillText(names[i], 0, 0);
    } else {
      pen.textAlign = "center";
      pen.fillText(names[i], 0, -5);
    }
    pen.restore();
  }
  pen.fillStyle = ink("one");
  for (let i = 0; i < size * size; i++) {
    pen.globalAlpha = strength(found[i]);
    pen.fillRect(left + (i % size) * side, top_ + Math.floor(i / size) * side, side - 1, side - 1);
  }
  pen.globalAlpha = 1;
  pen.strokeStyle = ink("line");
  pen.strokeRect(left - 0.5, top_ - 0.5, size * side, size * side);
  if (row >= 0) {
    pen.strokeStyle = ink("soft");
    pen.strokeRect(left - 0.5, top_ + row * side - 0.5, size * side, side);
    pen.strokeRect(left + column * side - 0.5, top_ + row * side - 0.5, side, side);
  }
}

// The text once more, coloured by where the token of the chosen row looks.
function drawLooks(found) {
  const box = document.getElementById("looks");
  box.replaceChildren();
  if (row < 0) return;
  tokens.forEach((token, i) => {
    box.append(i ? token.before : "");
    const node = box.appendChild(document.createElement("span"));
    node.className = "tok" + (i === row ? " chosen" : "") + (token.special ? " special" : "");
    node.textContent = token.text;
    node.style.setProperty("--s", strength(found[row * size + i]).toFixed(3));
    node.title = percent(found[row * size + i] / 65535);
  });
}

function drawChosen() {
  drawMap();
  const found = cells(layer, head);
  document.getElementById("chosen").textContent = title(layer, head);
  document.getElementById("cell").textContent =
    row < 0 ? "" : `${names[row]} → ${names[column]}  ${(found[row * size + column] / 65535).toFixed(3)}`;
  drawLooks(found);
}

function drawAll() {
  drawHeads();
  drawChosen();
}

map.onpointermove = map.onpointerdown = (event) => {
  const box = map.getBoundingClientRect();
  const x = Math.floor((event.clientX - box.left - left) / side), y = Math.floor((event.clientY - box.top - top_) / side);
  if (x < 0 || y < 0 || x >= size || y >= size || (x === column && y === row)) return;
  row = y;
  column = x;
  drawChosen();
};

// Words and colours of what the script has written follow the buttons of the page.
new MutationObserver(() => {
  if (flow) showGuesses();
  drawAll();
}).observe(root, { attributeFilter: ["data-theme", "data-lang"] });

drawAll();
