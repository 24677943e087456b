// The view of `play.py`: a datamodel to touch, and a residual as arrows.

let toys = 0;

function render({ model, el }) {
  const uid = `mdx-play-${++toys}`;
  const sheet = (name) => {
    const given = model.get(name);
    return { ...given, kind: name, place: new Map(given.index.map((number, place) => [number, place])) };
  };
  const data = { uid, test: sheet("test"), train: sheet("train"), names: model.get("names"),
    classNames: model.get("class_names"), examples: model.get("examples"), sorted: model.get("sorted") };
  const root = h("div", { class: `mdx mdx-play ${uid}`, "data-lm-suppress-shortcuts": "true" });
  const named = [data.test, data.train].map((part) => [part.kind, part.sheet]);
  root.append(sheetRules(uid, named, data.test.sheet));
  const part = (model.get("kind") === "touch" ? touch : arrowsOf)(data);
  const choose = (step) => {
    const n = data.examples.length;
    model.set("example", (model.get("example") + step + n) % n);
    model.save_changes();
  };
  const another = h("button", { type: "button", onclick: () => choose(1) }, "another test image");
  root.append(...part.nodes(another));
  const update = () => part.update(data.examples[model.get("example")]);
  model.on("change:example", update);
  update();
  el.append(root);
  return () => model.off("change:example", update);
}

function pictureOf(data, kind, index, label = "") {
  return tileOf(data[kind].sheet, kind, data[kind].place.get(index), label);
}

function classOf(data, kind, index) {
  return data.classNames[data[kind].labels[data[kind].place.get(index)]];
}

// ---- a datamodel to touch ----------------------------------------------------------------------

const CHANCE = "by chance";
const NEXT = { [CHANCE]: "in", in: "out", out: CHANCE };

function touch(data) {
  let [example, decided] = [null, new Map()];
  const about = h("p", {});
  const shown = h("div", { class: "mdx-large" });
  const grid = h("div", { class: "mdx-grid" });
  const lines = h("div", { class: "mdx-outcomes", "aria-live": "polite" });
  const again = h("button", { type: "button", onclick: () => { decided = new Map(); draw(); } }, "all by chance again");
  const turn = (k) => {
    decided.set(k, NEXT[decided.get(k) ?? CHANCE]);
    if (decided.get(k) === CHANCE) decided.delete(k);
    draw();
    grid.children[k].focus();
  };
  const draw = () => {
    grid.replaceChildren(...example.train.map((index, k) => {
      const state = decided.get(k) ?? CHANCE;
      return h("button", { type: "button", class: `mdx-tile mdx-state-${state.replace(" ", "-")}`, onclick: () => turn(k),
        title: `Press for: ${NEXT[state]}` },
      pictureOf(data, "train", index), unseen(`training image ${index}`), h("span", { class: "mdx-class" }, classOf(data, "train", index)), h("b", {}, state));
    }));
    lines.replaceChildren(...data.names.flatMap((name, a) => outcome(data, example, decided, name, a)));
  };
  const nodes = (another) => [
    h("p", {}, "Press a training image to put it in, to leave it out, or to leave it to chance. All others are in or out by chance."),
    shown, h("div", { class: "mdx-buttons" }, another, again),
    h("div", { class: "mdx-main" }, h("div", {}, h("h3", {}, "Training images that matter to it"), grid),
      h("div", {}, h("h3", {}, "Its margin", h("small", {}, " predicted: a line. Models trained on such subsets: dots")), lines)), about];
  const update = (chosen) => {
    [example, decided] = [chosen, new Map()];
    const name = classOf(data, "test", chosen.test);
    shown.replaceChildren(pictureOf(data, "test", chosen.test, `test image ${chosen.test}`),
      h("p", {}, `Test image ${chosen.test}, ${name}. How sure will a model be that it is ${name}?`));
    draw();
  };
  return { nodes, update };
}

// What the datamodel says of a mask, and the held-out models whose masks were such.
function outcome(data, example, decided, name, a) {
  const { outputs, masks, weights, share } = example;
  const mean = outputs[a].reduce((x, y) => x + y, 0) / outputs[a].length;
  let predicted = mean;
  for (const [k, state] of decided) predicted += weights[a][k] * ((state === "in" ? 1 : 0) - share);
  const fits = masks[a].map((mask) => [...decided].every(([k, state]) => mask[k] === (state === "in" ? "1" : "0")));
  const such = outputs[a].filter((_, i) => fits[i]);
  const found = such.reduce((x, y) => x + y, 0) / such.length;
  const spread = Math.sqrt(such.reduce((x, y) => x + (y - found) ** 2, 0) / Math.max(1, such.length - 1) / such.length);
  const all = [...outputs[a], predicted, 0];
  const [low, high] = [Math.min(...all), Math.max(...all)];
  const x = (value) => 12 + (276 * (value - low)) / (high - low || 1);
  const plot = s("svg", { viewBox: "0 0 300 52", class: `mdx-margins mdx-effect-${a + 1}`, role: "img",
    "aria-label": `Margins of ${name}'s models, predicted ${signed(predicted)}` });
  plot.append(s("line", { x1: 12, x2: 288, y1: 36, y2: 36, class: "mdx-axis" }), s("line", { x1: x(0), x2: x(0), y1: 8, y2: 36, class: "mdx-nought" }),
    s("text", { x: x(0), y: 49, "text-anchor": "middle" }, "0"));
  outputs[a].forEach((value, i) => plot.append(s("circle", { cx: x(value), cy: fits[i] ? 22 : 30, r: fits[i] ? 3.5 : 2.5,
    class: fits[i] ? "mdx-such" : "mdx-other" })));
  plot.append(s("line", { x1: x(predicted), x2: x(predicted), y1: 2, y2: 36, class: "mdx-predicted" }));
  const models = such.length === 1 ? "1 held-out model that" : `${such.length} held-out models that`;
  const truth = such.length ? `${models} saw just that: ${signed(found)}${such.length > 1 ? ` ± ${(2 * spread).toFixed(1)}` : ""}`
    : "no held-out model saw just that";
  return [h("p", { class: `mdx-algorithm-${a + 1}` }, h("b", {}, name), `: predicted ${signed(predicted)}; ${truth}.`), plot];
}

// ---- what remains ------------------------------------------------------------------------------

function arrowsOf(data) {
  const shown = h("div", { class: "mdx-large" });
  const plane = h("div", {});
  const rest = h("div", { class: "mdx-sides" });
  const row = h("div", { class: "mdx-grid" });
  const pick = h("select", { onchange: () => sort(Number(pick.value)) },
    ...data.sorted.map((each, i) => h("option", { value: i }, each.label)));
  const sort = (i) => row.replaceChildren(...data.sorted[i].test.map((index) => h("span", { class: "mdx-tile" },
    pictureOf(data, "test", index, `test image ${index}`), h("span", { class: "mdx-class" }, classOf(data, "test", index)))));
  const nodes = (another) => [h("div", { class: "mdx-main" }, h("div", {}, shown, h("div", { class: "mdx-buttons" }, another)), plane),
    rest, h("h3", {}, "A direction sorts the test images", h("small", {}, " from one end to the other, evenly spaced by rank")),
    h("label", { class: "mdx-menu" }, h("span", {}, "Direction"), pick), row];
  const update = (example) => {
    shown.replaceChildren(pictureOf(data, "test", example.test, `test image ${example.test}`),
      h("p", {}, `Test image ${example.test}, ${classOf(data, "test", example.test)}.`));
    plane.replaceChildren(...drawPlane(data, example.cosine));
    rest.replaceChildren(...data.names.map((name, a) => h("div", { class: `mdx-side mdx-algorithm-${a + 1}` },
      h("h3", {}, `what remains of ${name}’s`, h("small", {}, " training images that weigh most")), h("div", { class: "mdx-grid" },
        ...example.rest[a].map((index) => h("span", { class: "mdx-tile" }, pictureOf(data, "train", index, `training image ${index}`),
          h("span", { class: "mdx-class" }, classOf(data, "train", index))))))));
  };
  if (data.sorted.length) sort(0);
  return { nodes, update };
}

// Arrows of length one in the plane of both datamodels; the other's part of the first is taken away.
function drawPlane(data, cosine) {
  const size = 150;
  const [x0, y0] = [20, 170];
  const angle = Math.acos(Math.min(1, Math.max(-1, cosine)));
  const remains = Math.sin(angle);
  const [x1, y1] = [x0 + size * cosine, y0 - size * remains];
  const svg = s("svg", { viewBox: "0 0 300 205", class: "mdx-plane", role: "img",
    "aria-label": `Two arrows at ${(180 * angle / Math.PI).toFixed(0)} degrees; what remains has length ${remains.toFixed(2)}` });
  const arrow = (xa, ya, xb, yb, kind) => {
    const turn = Math.atan2(yb - ya, xb - xa);
    const tip = (by) => `${xb - 9 * Math.cos(turn + by)} ${yb - 9 * Math.sin(turn + by)}`;
    return s("path", { class: `mdx-arrow ${kind}`, d: `M${xa} ${ya}L${xb} ${yb}M${tip(0.45)}L${xb} ${yb}L${tip(-0.45)}` });
  };
  svg.append(s("path", { class: "mdx-nought", d: `M${x1} ${y1}L${x1} ${y0}` }), arrow(x0, y0, x0 + size, y0, "mdx-effect-2"),
    arrow(x0, y0, x1, y1, "mdx-effect-1"), arrow(x1 + 1, y0, x1 + 1, y1, "mdx-remains"),
    s("text", { x: x0 + size + 6, y: y0 + 5 }, shortened(data.names[1])), s("text", { x: Math.max(2, x1 - 30), y: y1 - 8 }, shortened(data.names[0])),
    s("text", { x: x1 + 8, y: (y0 + y1) / 2 }, "what remains"));
  const said = `The datamodels have a cosine of ${cosine.toFixed(2)}, an angle of ${(180 * angle / Math.PI).toFixed(0)}°. ` +
    `Of ${data.names[0]}’s, ${(100 * remains ** 2).toFixed(0)}% of the squared length is not shared, and remains.`;
  return [svg, h("p", { "aria-live": "polite" }, said)];
}

export default { render };
