// The view of `explorer.py`. All data comes from the model's traits, so it works without a kernel.

const COMPARISONS = ["1_minus_2", "2_minus_1"];
const STATE = ["comparison", "direction", "end", "example", "reveal"];
const SVG = "http://www.w3.org/2000/svg";
const PLOT = { size: 330, left: 46, right: 8, top: 8, bottom: 42 };
let instances = 0;

function render({ model, el }) {
  const data = read(model);
  const uid = `mdx-${++instances}`;
  const root = h("div", { class: `mdx ${uid}`, "data-lm-suppress-shortcuts": "true" });
  const parts = [
    controls(data, uid),
    scatter(data),
    status(data),
    ends(data),
    evidence(data),
    neighbours(data),
  ];
  const [bar, plot, sentence, images, below, train] = parts.map((part) => part.node);
  const left = h("div", { class: "mdx-left" }, plot, sentence);
  root.append(sheets(data, uid), bar, h("div", { class: "mdx-main" }, left, images, below), train);
  const update = () => parts.forEach((part) => part.update(data.state()));
  root.addEventListener("keydown", (event) => arrows(event, data));
  STATE.forEach((name) => model.on(`change:${name}`, update));
  update();
  el.append(root);
  return () => STATE.forEach((name) => model.off(`change:${name}`, update));
}

// ---- data -------------------------------------------------------------------------------------

function read(model) {
  const [test, train] = [model.get("test"), model.get("train")];
  const tiles = (sheet) => new Map(sheet.index.map((index, tile) => [index, tile]));
  const data = {
    test: { ...test, tileOf: tiles(test), kind: "test" },
    train: { ...train, tileOf: tiles(train), kind: "train" },
    comparisons: model.get("comparisons"),
    names: model.get("names"),
    classNames: model.get("class_names"),
    features: model.get("features"),
  };
  data.state = () => state(model, data);
  data.set = (changes) => {
    Object.entries(changes).forEach(([name, value]) => model.set(name, value));
    model.save_changes();
  };
  // Directions are stepped through by position and known by number, which may be in another order.
  data.choose = (comparison, position) => {
    const directions = data.comparisons[comparison];
    const here = directions[Math.min(Math.max(position, 0), directions.length - 1)];
    data.set({ comparison, direction: here.number, example: -1 });
  };
  return data;
}

function state(model, data) {
  const now = Object.fromEntries(STATE.map((name) => [name, model.get(name)]));
  const directions = data.comparisons[now.comparison];
  const position = Math.max(directions.findIndex((d) => d.number === now.direction), 0);
  const here = directions[position];
  const images = here.images[now.end];
  const example = data.test.tileOf.has(now.example) ? now.example : images[0];
  return { ...now, direction: here.number, position, here, images, example, count: directions.length };
}

function title(data, comparison) {
  const [one, two] = data.names;
  return comparison === COMPARISONS[0] ? `${one} ∖ ${two}` : `${two} ∖ ${one}`;
}

function arrows(event, data) {
  const step = { ArrowLeft: -1, ArrowUp: -1, ArrowRight: 1, ArrowDown: 1 }[event.key];
  const radio = event.target.matches("input[type=radio]"); // it moves by arrows itself
  if (!step || radio || event.ctrlKey || event.metaKey || event.altKey) return;
  event.preventDefault();
  event.stopPropagation();
  const now = data.state();
  const onPoint = event.target.closest(".mdx-point");
  data.choose(now.comparison, now.position + step);
  if (onPoint) onPoint.ownerSVGElement.querySelector("[tabindex='0']").focus();
}

// ---- parts: each has a node and an update(state) ----------------------------------------------

function controls(data, uid) {
  const choice = (legend, name, options, pick) => {
    const inputs = options.map(([value]) =>
      h("input", { type: "radio", name: `${uid}-${name}`, value, onchange: () => pick(value) }));
    const labels = options.map(([value, text], i) =>
      h("label", { class: `mdx-choice mdx-${value}` }, inputs[i], h("span", {}, text)));
    return [h("fieldset", {}, h("legend", {}, legend), h("div", {}, ...labels)), inputs];
  };
  const pickEnd = (end) => data.set({ end, example: -1 });
  const pickComparison = (name) => data.choose(name, data.state().position);
  const [comparison, comparisonInputs] = choice("Comparison", "comparison",
    COMPARISONS.map((name) => [name, title(data, name)]), pickComparison);
  const [end, endInputs] = choice("End", "end", [["top", "top"], ["bottom", "bottom"]], pickEnd);
  const step = (by) => () => {
    const now = data.state();
    data.choose(now.comparison, now.position + by);
  };
  const back = h("button", { type: "button", "aria-label": "previous direction", onclick: step(-1) }, "‹");
  const next = h("button", { type: "button", "aria-label": "next direction", onclick: step(1) }, "›");
  const output = h("output", {});
  const stepper = h("fieldset", {}, h("legend", {}, "Direction"),
    h("div", { class: "mdx-stepper" }, back, output, next));
  const reveal = h("input", { type: "checkbox", class: "mdx-reveal",
    onchange: () => data.set({ reveal: reveal.checked }) });
  const node = h("div", { class: "mdx-controls" }, comparison, stepper, end);
  if (data.features.length) node.append(h("label", {}, reveal, " reveal the planted truth"));
  const update = (now) => {
    for (const input of comparisonInputs) input.checked = input.value === now.comparison;
    for (const input of endInputs) input.checked = input.value === now.end;
    const place = now.position + 1;
    const [number, rank] = [now.direction, `${place} of ${now.count}`];
    output.textContent = `#${number} (${rank})`;
    back.disabled = place === 1;
    next.disabled = place === now.count;
    reveal.checked = now.reveal;
  };
  return { node, update };
}

function scatter(data) {
  const all = COMPARISONS.flatMap((name) => data.comparisons[name].flatMap((d) => d.explained));
  const step = tickStep(Math.max(...all, 1e-6));
  const end = 1.08 * Math.max(...all, 1e-6);
  const span = PLOT.size - PLOT.left - PLOT.right;
  const x = (value) => PLOT.left + (value / end) * span;
  const y = (value) => PLOT.size - PLOT.bottom - (value / end) * (PLOT.size - PLOT.top - PLOT.bottom);
  const svg = s("svg", { viewBox: `0 0 ${PLOT.size} ${PLOT.size}`, class: "mdx-plot", role: "group",
    "aria-label": "Variance each direction explains under either algorithm; choose a direction" });
  svg.append(s("path", { class: "mdx-axis", d: `M${x(0)} ${y(end)}V${y(0)}H${x(end)}` }),
    s("path", { class: "mdx-diagonal", d: `M${x(0)} ${y(0)}L${x(end)} ${y(end)}` }));
  for (let tick = 0; tick <= end; tick += step) {
    const label = Number(tick.toPrecision(6));
    svg.append(s("text", { x: x(tick), y: y(0) + 15, "text-anchor": "middle" }, label),
      s("text", { x: x(0) - 6, y: y(tick) + 4, "text-anchor": "end" }, label));
  }
  const middle = (PLOT.left + PLOT.size) / 2;
  svg.append(
    s("text", { x: middle, y: PLOT.size - 6, "text-anchor": "middle", class: "mdx-ink-1" },
      `variance explained under ${shortened(data.names[0])} (%)`),
    s("text", { "text-anchor": "middle", class: "mdx-ink-2",
      transform: `translate(12 ${PLOT.size - middle}) rotate(-90)` },
    `variance explained under ${shortened(data.names[1])} (%)`));
  const points = COMPARISONS.flatMap((name) => data.comparisons[name].map((_, i) =>
    point(data, name, i, x, y)));
  // The last of a comparison is drawn first, so that the leading ones lie on top.
  [...points].reverse().forEach((each) => svg.append(each.node));
  const update = (now) => points.forEach((each) => each.update(now));
  return { node: svg, update };
}

function point(data, name, position, x, y) {
  const { number, explained: [one, two] } = data.comparisons[name][position];
  const [cx, cy] = [x(one), y(two)];
  const shape = name === COMPARISONS[0]
    ? s("circle", { cx, cy, r: 9 })
    : s("rect", { x: cx - 8, y: cy - 8, width: 16, height: 16, rx: 2 });
  const node = s("g", { class: `mdx-point mdx-${name}`, role: "button", "data-direction": number,
    "aria-label": `direction ${number} of ${title(data, name)}: explains ${one}% under ` +
      `${data.names[0]} and ${two}% under ${data.names[1]}` },
  shape, s("text", { x: cx, y: cy + 4, "text-anchor": "middle" }, number));
  const choose = () => data.choose(name, position);
  node.addEventListener("click", choose);
  node.addEventListener("keydown", (event) => {
    if (event.key === "Enter" || event.key === " ") choose(event.preventDefault());
  });
  const update = (now) => {
    const chosen = now.comparison === name && now.direction === number;
    node.classList.toggle("mdx-faded", now.comparison !== name);
    node.setAttribute("aria-pressed", chosen);
    node.setAttribute("tabindex", chosen ? 0 : -1);
    // Raise it without moving the node that has the focus.
    if (chosen) while (node.nextSibling) node.parentNode.insertBefore(node.nextSibling, node);
  };
  return { node, update };
}

function status(data) {
  const node = h("p", { class: "mdx-status", "aria-live": "polite" });
  const update = (now) => {
    const [one, two] = now.here.explained.map((value) => value.toPrecision(2));
    node.textContent = `Direction #${now.direction} of ${title(data, now.comparison)} ` +
      `explains ${one}% of the variance of ${data.names[0]}’s datamodels and ${two}% of ` +
      `${data.names[1]}’s.`;
  };
  return { node, update };
}

function ends(data) {
  const node = h("div", { class: "mdx-images" });
  let drawn = "";
  const draw = (now) => {
    const tiles = now.images.map((index, i) =>
      testTile(data, index, signed(now.here.projections[now.end][i])));
    const others = now.here.contrast[now.end].map((index) => testTile(data, index));
    node.replaceChildren(
      h("h4", {}, `Test images at the ${now.end}`, h("small", {}, " with their projection")),
      h("div", { class: "mdx-grid mdx-end" }, ...tiles),
      h("h4", {}, "Random test images of the same classes", h("small", {}, " for contrast")),
      h("div", { class: "mdx-grid mdx-contrast" }, ...others));
  };
  const update = (now) => {
    const view = [now.comparison, now.direction, now.end].join();
    if (view !== drawn) draw(now);
    drawn = view;
    node.classList.toggle("mdx-revealed", now.reveal);
    for (const button of node.querySelectorAll("button")) {
      button.setAttribute("aria-pressed", Number(button.dataset.index) === now.example);
    }
  };
  return { node, update };
}

function evidence(data) {
  const node = h("div", { class: "mdx-evidence" });
  const update = (now) => {
    const captions = now.here.captions[now.end];
    const { evidence: word, uses } = now.here;
    node.replaceChildren();
    if (word) {
      const lines = uses[now.end].map((line) => h("li", {}, line));
      node.append(h("h4", {}, `Evidence: ${word}.`, h("small", {}, ` Who uses what marks the ${now.end}:`)),
        h("ul", { class: "mdx-uses" }, ...(lines.length ? lines : [h("li", {}, "too few to tell")])));
    }
    const said = now.here.verdict[now.end];
    if (said) {
      const mark = now.here.finding[now.end] ? "★ A finding." : "No finding of this direction.";
      node.append(h("h4", {}, `What imitates the ${now.end}, tested`), h("p", { class: "mdx-verdict" }, `${mark} ${said}`));
    }
    if (captions.length) {
      const items = captions.map(([text, score]) => h("li", {}, text, " ", h("small", {}, signed(score))));
      node.append(h("h4", {}, `Captions that fit the ${now.end}`), h("ol", {}, ...items));
    }
    if (data.features.length && now.reveal) node.append(...truth(data, now));
  };
  return { node, update };
}

function truth(data, now) {
  const has = (index, feature) => data.test.features[data.test.tileOf.get(index)].includes(feature);
  const rows = data.features.map((name, feature) => {
    const count = now.images.filter((index) => has(index, feature)).length;
    const auc = now.here.grades[now.end][name];
    return h("tr", {}, h("th", { scope: "row" }, swatch(feature), ` ${name.replaceAll("_", " ")}`),
      h("td", {}, `${count} of ${now.images.length}`),
      h("td", {}, auc === undefined ? "–" : auc.toFixed(2)));
  });
  const head = ["planted feature", `at the ${now.end}`, "AUC in its class"];
  return [h("h4", {}, "The planted truth"), h("table", {},
    h("thead", {}, h("tr", {}, ...head.map((text) => h("th", { scope: "col" }, text)))),
    h("tbody", {}, ...rows))];
}

function neighbours(data) {
  const node = h("div", { class: "mdx-neighbours" });
  const update = (now) => {
    const tile = data.test.tileOf.get(now.example);
    const rows = data.names.map((name, i) => {
      const { index, weight } = data.test.neighbours[i];
      const tiles = index[tile].map((train, k) => h("span", { class: "mdx-tile" },
        picture(data.train, train), className(data.train, train, data), h("small", {}, signed(weight[tile][k]))));
      return h("div", { class: `mdx-row mdx-algorithm-${i + 1}` },
        h("h5", {}, `under ${name}`), h("div", { class: "mdx-grid" }, ...tiles));
    });
    const chosen = h("span", { class: "mdx-tile mdx-large" }, picture(data.test, now.example),
      className(data.test, now.example, data), h("small", {}, `test image ${now.example}`));
    node.replaceChildren(
      h("h4", {}, "Training images that raise this image’s margin most",
        h("small", {}, " click another image above; numbers are datamodel weights")),
      h("div", { class: "mdx-pair" }, chosen, h("div", {}, ...rows)));
  };
  return { node, update };
}

// ---- tiles ------------------------------------------------------------------------------------

function testTile(data, index, number = "") {
  const features = data.test.features[data.test.tileOf.get(index)];
  const name = className(data.test, index, data);
  const planted = features.map((f) => data.features[f].replaceAll("_", " ")).join(", ");
  const label = `test image ${index}, ${name.textContent}${number && `, projection ${number}`}`;
  const button = h("button", { type: "button", class: "mdx-tile", "data-index": index,
    "aria-label": `${label}: show its training images`, onclick: () => data.set({ example: index }) },
  picture(data.test, index), name, h("small", {}, number));
  if (planted) button.append(h("small", { class: "mdx-planted" }, swatch(features[0]), ` ${planted}`));
  if (features.length) button.classList.add("mdx-has-feature", `mdx-feature-${features[0] % 5}`);
  return button;
}

function picture(sheet, index) {
  const tile = sheet.tileOf.get(index);
  const along = (i, count) => (count > 1 ? `${(100 * i) / (count - 1)}%` : "0%");
  const place = `${along(tile % sheet.columns, sheet.columns)} ` +
    `${along(Math.floor(tile / sheet.columns), sheet.rows)}`;
  return h("span", { class: `mdx-picture mdx-${sheet.kind}`, "data-tile": tile,
    style: `background-position:${place}` });
}

// One rule a sheet: the picture is decoded once, whatever the number of tiles.
function sheets(data, uid) {
  const rule = ({ kind, url, columns, rows, width, height }) => {
    const scale = Math.max(1, Math.round(72 / Math.max(width, height)));
    return `.${uid} .mdx-${kind}{background-image:url("${url}");` +
      `background-size:${100 * columns}% ${100 * rows}%;` +
      `--width:${width * scale}px;--height:${height * scale}px}`;
  };
  const { width, height } = data.test;
  const column = width * Math.max(1, Math.round(72 / Math.max(width, height)));
  return h("style", {}, rule(data.test), rule(data.train), `.${uid}{--column:${column}px}`);
}

function className(sheet, index, data) {
  return h("span", { class: "mdx-class" }, data.classNames[sheet.labels[sheet.tileOf.get(index)]]);
}

const swatch = (feature) =>
  h("i", { class: `mdx-swatch mdx-feature-${feature % 5}`, "aria-hidden": "true" });

// ---- small things -----------------------------------------------------------------------------

// Text in a drawing does not wrap.
function shortened(name, width = 16) {
  const signs = [...name];
  if (signs.length <= width) return name;
  return `${signs.slice(0, width / 2).join("")}…${signs.slice(1 - width / 2).join("")}`;
}

function tickStep(largest) {
  const rough = largest / 4;
  const power = 10 ** Math.floor(Math.log10(rough));
  return [1, 2, 5, 10].find((m) => m * power >= rough) * power;
}

function signed(value) {
  const size = Math.abs(value);
  return `${value < 0 ? "−" : "+"}${size < 10 && size > 0 ? size.toPrecision(2) : size.toFixed(0)}`;
}

function h(tag, attributes, ...children) {
  return fill(document.createElement(tag), attributes, children);
}

function s(tag, attributes, ...children) {
  return fill(document.createElementNS(SVG, tag), attributes, children);
}

function fill(node, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) node[name] = value;
    else node.setAttribute(name, value);
  }
  node.append(...children.map((child) => (child instanceof Node ? child : String(child))));
  return node;
}

export default { render };
