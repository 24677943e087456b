// What the views share. Stands before each of them, see `views.py`.

function unpack({ type, scale, data }) {
  const bytes = Uint8Array.from(atob(data), (sign) => sign.charCodeAt(0));
  const whole = type === "int16" ? new Int16Array(bytes.buffer) : new Int32Array(bytes.buffer);
  if (scale === 1) return [...whole];
  return Array.from(whole, (value) => (value === -32768 ? NaN : value * scale));
}

function tileOf(sheet, name, tile, label = "") {
  const along = (i, count) => (count > 1 ? `${(100 * i) / (count - 1)}%` : "0%");
  const where = `${along(tile % sheet.columns, sheet.columns)} ${along(Math.floor(tile / sheet.columns), sheet.rows)}`;
  const node = h("span", { class: `mdx-picture mdx-${name}`, "data-tile": tile, style: `background-position:${where}` });
  if (label) fill(node, { role: "img", "aria-label": label }, []);
  return node;
}

// One rule a sheet: a picture is decoded once, whatever the number of tiles, and only when it is seen.
function sheetRules(uid, named, first) {
  const wide = ({ width, height }) => Math.max(1, Math.round(72 / Math.max(width, height)));
  const rules = named.map(([name, sheet]) => `.${uid} .mdx-${name}{background-image:url("${sheet.url}");` +
    `background-size:${100 * sheet.columns}% ${100 * sheet.rows}%;` +
    `--width:${sheet.width * wide(sheet)}px;--height:${sheet.height * wide(sheet)}px}`);
  return h("style", {}, ...rules, `.${uid}{--column:${first.width * wide(first)}px}`);
}

// For those who listen; the name of a button begins with it.
const unseen = (text) => h("span", { class: "mdx-said-only" }, `${text}, `);

// Text in a drawing does not wrap.
function shortened(name, width = 16) {
  const signs = [...name];
  if (signs.length <= width) return name;
  return `${signs.slice(0, width / 2).join("")}…${signs.slice(1 - width / 2).join("")}`;
}

function signed(value) {
  const size = Math.abs(value);
  return `${value < 0 ? "−" : "+"}${size < 10 && size > 0 ? size.toPrecision(2) : size.toFixed(0)}`;
}

function points(value) {
  const text = Math.abs(value).toFixed(1);
  return Number(text) === 0 ? "0" : `${value < 0 ? "−" : "+"}${text}`;
}

function percent(value) {
  return `${value < 0 ? "−" : ""}${Math.abs(value).toPrecision(2)}%`;
}

function h(tag, attributes, ...children) {
  return fill(document.createElement(tag), attributes, children);
}

function fill(node, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) node[name] = value;
    else node.setAttribute(name, value);
  }
  node.append(...children.map((child) => (child instanceof Node ? child : String(child))));
  return node;
}

function s(tag, attributes, ...children) {
  return fill(document.createElementNS("http://www.w3.org/2000/svg", tag), attributes, children);
}

