// The view of `explorer.py`. All data comes from the model's traits, so it works without a kernel.

const COMPARISONS = ["1_minus_2", "2_minus_1"];
const STATE = ["tab", "comparison", "direction", "end", "example", "trainee", "only", "order",
  "reveal", "hypothesis", "dose"];
const TABS = { directions: "Directions", images: "All images", tests: "Tests" };
const ORDERS = { index: "number", class: "class", cosine: "least alike in what they use",
  difference: "most different predictions", wrong: "most often wrong" };
const SURE = ["no evidence", "weak evidence", "strong evidence"];
const PAGE = 48; // images of a page of the second tab
const LINK = "#mdx&";
let instances = 0;

function render({ model, el }) {
  const data = read(model);
  data.uid = `mdx-${++instances}`;
  const root = h("div", { class: `mdx ${data.uid}`, "data-lm-suppress-shortcuts": "true" });
  const parts = [tabs(data), directions(data), images(data), tests(data), detail(data), tools(data)];
  root.append(sheets(data), ...parts.map((part) => part.node));
  let previous = {};
  const update = () => {
    const now = data.state();
    const focus = focused(root);
    parts.forEach((part) => part.update(now, previous));
    refocus(root, focus);
    previous = now;
  };
  root.addEventListener("keydown", (event) => arrows(event));
  STATE.forEach((name) => model.on(`change:${name}`, update));
  update();
  el.append(root);
  return () => STATE.forEach((name) => model.off(`change:${name}`, update));
}

// ---- data -------------------------------------------------------------------------------------

function read(model) {
  const sheet = (name) => {
    const given = model.get(name);
    const index = unpack(given.index);
    return { ...given, kind: name, index, labels: unpack(given.labels),
      place: new Map(index.map((number, place) => [number, place])),
      pulls: { place: unpack(given.pulls.place), weight: unpack(given.pulls.weight),
        k: given.pulls.place.shape[3], n: given.pulls.place.shape[1] } };
  };
  const data = { model, test: sheet("test"), train: sheet("train"), names: model.get("names"),
    classNames: model.get("class_names"), features: model.get("features"),
    topK: model.get("top_k"), hypotheses: model.get("hypotheses") };
  data.test.cosine = unpack(data.test.cosine);
  data.test.right = data.test.right.map(unpack);
  data.comparisons = Object.fromEntries(Object.entries(model.get("comparisons")).map(
    ([name, all]) => [name, all.map((one) => ({ ...one, along: unpack(one.projections) }))]));
  data.state = () => state(data);
  data.set = (changes) => {
    Object.entries(changes).forEach(([name, value]) => model.set(name, value));
    model.save_changes();
  };
  data.choose = (comparison, direction) => data.set({ comparison, direction, example: -1, trainee: -1 });
  return data;
}

function state(data) {
  const now = Object.fromEntries(STATE.map((name) => [name, data.model.get(name)]));
  if (now.tab === "tests" && !data.hypotheses.length) now.tab = "directions";
  const all = data.comparisons[now.comparison] ?? data.comparisons[COMPARISONS[0]];
  now.here = all.find((one) => one.number === now.direction) ?? all[0];
  now.direction = now.here.number;
  now.ordered = alongDirection(data, now);
  now.listed = listedImages(data, now);
  const inView = now.tab === "images" ? now.listed : now.ordered;
  if (!data.test.place.has(now.example)) now.example = inView.length ? data.test.index[inView[0]] : -1;
  if (!data.train.place.has(now.trainee)) now.trainee = -1;
  return now;
}

// Places of test images: outermost first, of one class or all.
function alongDirection(data, { here, end, only }) {
  const sign = end === "top" ? -1 : 1;
  return placesOf(data, only).sort((a, b) => sign * (here.along[a] - here.along[b]) || a - b);
}

function listedImages(data, { order, only }) {
  const [one, two] = data.test.right;
  const keys = { index: () => 0, class: (i) => data.test.labels[i], cosine: (i) => data.test.cosine[i] };
  if (one) {
    keys.difference = (i) => -Math.abs(one[i] - two[i]);
    keys.wrong = (i) => one[i] + two[i];
  }
  const key = keys[order] ?? keys.index;
  return placesOf(data, only).sort((a, b) => key(a) - key(b) || a - b);
}

function placesOf(data, only) {
  const all = data.test.labels.map((_, place) => place);
  return only < 0 ? all : all.filter((place) => data.test.labels[place] === only);
}

function title(data, comparison) {
  const [one, two] = data.names;
  return comparison === COMPARISONS[0] ? `${one} ∖ ${two}` : `${two} ∖ ${one}`;
}

// ---- parts: each has a node and an update(now, previous) -----------------------------------------

function tabs(data) {
  const names = Object.keys(TABS).filter((name) => name !== "tests" || data.hypotheses.length);
  const buttons = names.map((name) => h("button", { type: "button", role: "tab", "data-tab": name,
    id: `${data.uid}-tab-${name}`, "aria-controls": `${data.uid}-${name}`,
    onclick: () => data.set({ tab: name }) }, TABS[name]));
  const node = h("div", { class: "mdx-tabs mdx-moves", role: "tablist", "aria-label": "Explorer" }, ...buttons);
  const update = (now) => buttons.forEach((button) => {
    const chosen = button.dataset.tab === now.tab;
    button.setAttribute("aria-selected", chosen);
    button.setAttribute("tabindex", chosen ? 0 : -1);
  });
  return { node, update };
}

function panel(data, name, parts) {
  const node = h("div", { id: `${data.uid}-${name}`, role: "tabpanel", class: `mdx-panel mdx-${name}`,
    "aria-labelledby": `${data.uid}-tab-${name}` });
  const update = (now, previous) => {
    node.hidden = now.tab !== name;
    if (!node.hidden) parts.forEach((part) => part.update(now, previous));
  };
  return { node, update };
}

function directions(data) {
  const parts = { bar: controls(data), list: ladder(data), strip: strip(data), ends: ends(data),
    told: evidence(data) };
  const all = panel(data, "directions", Object.values(parts));
  all.node.append(parts.bar.node, h("div", { class: "mdx-main" },
    h("div", { class: "mdx-left" }, parts.list.node, parts.told.node),
    h("div", { class: "mdx-right" }, parts.strip.node, parts.ends.node)));
  return all;
}

function controls(data) {
  const comparison = choice(data, "Comparison", "comparison",
    COMPARISONS.map((name) => [name, title(data, name)]),
    (name) => data.choose(name, data.comparisons[name][0].number));
  const end = choice(data, "End", "end", [["top", "top"], ["bottom", "bottom"]],
    (value) => data.set({ end: value, example: -1, trainee: -1 }));
  const only = classes(data);
  const node = h("div", { class: "mdx-controls" }, comparison.node, end.node, only.node);
  const reveal = h("input", { type: "checkbox", class: "mdx-reveal",
    onchange: () => data.set({ reveal: reveal.checked }) });
  if (data.features.length) node.append(h("label", { class: "mdx-tick" }, reveal, " reveal the planted truth"));
  const update = (now) => {
    [comparison, end, only].forEach((part) => part.update(now));
    reveal.checked = now.reveal;
  };
  return { node, update };
}

function choice(data, legend, name, options, pick) {
  const inputs = options.map(([value]) => h("input", { type: "radio", name: `${data.uid}-${name}`,
    value, onchange: () => pick(value) }));
  const labels = options.map(([value, text], i) =>
    h("label", { class: `mdx-choice mdx-${value}` }, inputs[i], h("span", {}, text)));
  const node = h("fieldset", {}, h("legend", {}, legend), h("div", {}, ...labels));
  const update = (now) => inputs.forEach((input) => { input.checked = input.value === now[name]; });
  return { node, update };
}

function menu(data, legend, name, options, pick) {
  const select = h("select", { "data-menu": name, onchange: () => pick(select.value) },
    ...options.map(([value, text]) => h("option", { value }, text)));
  const node = h("label", { class: "mdx-menu" }, h("span", {}, legend), select);
  const update = (now) => { select.value = String(now[name]); };
  return { node, update };
}

function classes(data) {
  const options = [[-1, "all classes"], ...data.classNames.map((name, label) => [label, name])];
  return menu(data, "Class", "only", options,
    (value) => data.set({ only: Number(value), example: -1, trainee: -1 }));
}

// Every direction of the comparison: its gap without noise, with interval; hollow what was naively seen.
function ladder(data) {
  const node = h("div", { class: "mdx-ladder" });
  const known = (one) => one.gap.length > 0;
  const drawn = new Map();
  const every = COMPARISONS.flatMap((name) => data.comparisons[name]);
  const values = every.flatMap((one) => (known(one) ? one.gap : naive(one))).filter((v) => v !== null);
  const [low, high] = [Math.min(0, ...values), Math.max(1e-6, ...values)];
  const at = (value) => `${(100 * (value - low)) / (high - low)}%`;
  const rows = (name) => data.comparisons[name].map((one) => {
    const [gap, from, to, first] = known(one) ? one.gap : [null, null, null, naive(one)[0]];
    const star = one.finding.top || one.finding.bottom;
    const bar = h("span", { class: "mdx-bar" }, h("i", { class: "mdx-zero", style: `left:${at(0)}` }));
    if (gap !== null) {
      const width = `calc(${at(to)} - ${at(from)})`;
      bar.append(h("i", { class: "mdx-interval", style: `left:${at(from)};width:${width}` }),
        h("i", { class: "mdx-dot", style: `left:${at(gap)}` }));
    }
    if (first !== null) bar.append(h("i", { class: "mdx-naive", style: `left:${at(first)}` }));
    const said = gap === null ? `naive gap ${percent(first)}`
      : `noise-free gap ${percent(gap)}, interval ${percent(from)} to ${percent(to)}, naively ${percent(first)}`;
    const words = `${one.evidence || (known(one) ? SURE[0] : "not tested")}${star ? ", a finding" : ""}`;
    return h("button", { type: "button", class: `mdx-rung mdx-sure-${one.sure}`, "data-direction": one.number,
      onclick: () => data.choose(name, one.number) },
    h("span", {}, `${star ? "★ " : ""}#${one.number}`), unseen(`${said} of the variance; ${words}`), bar,
    h("small", {}, one.evidence.split(",")[0]));
  });
  const update = (now) => {
    if (!drawn.has(now.comparison)) drawn.set(now.comparison, rows(now.comparison));
    const buttons = drawn.get(now.comparison);
    if (node.dataset.comparison !== now.comparison) {
      node.dataset.comparison = now.comparison;
      const scale = h("div", { class: "mdx-scale", "aria-hidden": "true" }, h("span", {}),
        h("span", { class: "mdx-bar" }, h("span", { style: `left:${at(0)}` }, "0"),
          h("span", { style: "left:100%" }, percent(high))), h("small", {}));
      const key = every.some(known) ? [h("i", { class: "mdx-dot" }), " gap without noise, with its 95% interval; ",
        h("i", { class: "mdx-naive" }), " the naive gap"] : [h("i", { class: "mdx-naive" }), " the naive gap: nothing was cross-fitted"];
      node.replaceChildren(
        h("h3", {}, `Directions of ${title(data, now.comparison)}`),
        h("p", { class: "mdx-key" }, ...key, ", % of variance"),
        h("div", { class: "mdx-rungs mdx-moves", role: "group", "aria-label": "Directions" }, ...buttons), scale);
    }
    for (const button of buttons) {
      const chosen = Number(button.dataset.direction) === now.direction;
      button.setAttribute("aria-pressed", chosen);
      button.setAttribute("tabindex", chosen ? 0 : -1);
    }
  };
  return { node, update };
}

function naive(one) {
  return [Math.abs(one.explained[0] - one.explained[1])];
}

// The whole direction: every test image a stroke, a lane a class. A click chooses the nearest.
function strip(data) {
  const canvas = h("canvas", { role: "img", class: "mdx-strip" });
  const sentence = h("p", { class: "mdx-status", "aria-live": "polite" });
  const node = h("div", {}, sentence, canvas, h("div", { class: "mdx-lanes" }));
  let drawn = "";
  const lanes = data.classNames.length <= 12 ? data.classNames.length : 1;
  const lane = lanes > 1 ? Math.max(14, Math.min(30, 90 / lanes)) : 40;
  const place = (event) => {
    const box = canvas.getBoundingClientRect();
    const [x, y] = [event.clientX - box.left, event.clientY - box.top];
    const label = Math.floor(y / lane);
    const now = data.state();
    const near = placesOf(data, lanes > 1 ? label : -1);
    const nearest = near.sort((a, b) => Math.abs(data.x(a, now) - x) - Math.abs(data.x(b, now) - x))[0];
    if (nearest !== undefined) data.set({ example: data.test.index[nearest], trainee: -1 });
  };
  canvas.addEventListener("click", place);
  const draw = (now) => {
    const along = now.here.along;
    const [low, high] = along.reduce(([a, b], v) => [Math.min(a, v), Math.max(b, v)], [0, 0]);
    const left = lanes > 1 ? 70 : 4;
    const width = Math.max(220, canvas.parentElement.clientWidth || 400);
    const height = lanes * lane;
    const ratio = window.devicePixelRatio || 1;
    canvas.width = width * ratio;
    canvas.height = height * ratio;
    canvas.style.height = `${height}px`;
    const pen = canvas.getContext("2d");
    pen.scale(ratio, ratio);
    const look = getComputedStyle(canvas);
    data.x = (i) => left + ((along[i] - low) / (high - low || 1)) * (width - left - 6);
    pen.font = "12px system-ui, sans-serif";
    pen.textBaseline = "middle";
    pen.fillStyle = look.color;
    if (lanes > 1) data.classNames.forEach((name, label) =>
      pen.fillText(shortened(name, 11), 0, (label + 0.5) * lane));
    const zero = left + ((0 - low) / (high - low || 1)) * (width - left - 6);
    pen.globalAlpha = 0.4;
    pen.fillRect(zero, 0, 1, height);
    const color = look.getPropertyValue(now.comparison === COMPARISONS[0] ? "--one" : "--two");
    const truth = look.getPropertyValue("--truth");
    const atEnd = new Set(now.ordered.slice(0, data.topK));
    along.forEach((_, i) => {
      const label = lanes > 1 ? data.test.labels[i] : 0;
      if (now.only >= 0 && data.test.labels[i] !== now.only) return;
      const planted = now.reveal && data.test.features[i].length;
      pen.fillStyle = planted ? truth : color;
      pen.globalAlpha = planted || atEnd.has(i) ? 1 : 0.35;
      pen.fillRect(data.x(i) - 0.75, label * lane + 2, planted || atEnd.has(i) ? 2 : 1.5, lane - 4);
    });
    pen.globalAlpha = 1;
    const chosen = data.test.place.get(now.example);
    if (chosen !== undefined) {
      pen.fillStyle = getComputedStyle(node).color;
      const label = lanes > 1 ? data.test.labels[chosen] : 0;
      pen.fillRect(data.x(chosen) - 1.5, label * lane, 3, lane);
    }
    canvas.setAttribute("aria-label", `Where each of ${along.length} test images lies along direction ` +
      `${now.direction}, a stroke each, a row per class; from ${signed(low)} to ${signed(high)}`);
  };
  const update = (now) => {
    const [one, two] = now.here.explained.map((value) => value.toPrecision(2));
    const said = `Direction #${now.direction} of ${title(data, now.comparison)} explains ${one}% of the variance ` +
      `of ${data.names[0]}’s datamodels and ${two}% of ${data.names[1]}’s.`;
    if (sentence.textContent !== said) sentence.textContent = said;
    const view = [now.comparison, now.direction, now.end, now.only, now.reveal, now.example].join();
    if (view !== drawn) requestAnimationFrame(() => draw(now));
    drawn = view;
  };
  new ResizeObserver(() => { if (canvas.isConnected) draw(data.state()); }).observe(node);
  return { node, update };
}

function ends(data) {
  const node = h("div", { class: "mdx-images" });
  let [drawn, many, viewed] = ["", data.topK, ""];
  const draw = (now) => {
    const chosen = now.ordered.slice(0, many);
    const tiles = chosen.map((place) => testTile(data, place, signed(now.here.along[place])));
    const others = now.here.contrast[now.end].map((index) => data.test.place.get(index))
      .filter((place) => now.only < 0 || data.test.labels[place] === now.only);
    const more = h("button", { type: "button", class: "mdx-more", onclick: () => { many *= 2; update(data.state()); } },
      "more of this direction");
    node.replaceChildren(
      h("h3", {}, `Test images at the ${now.end}`, h("small", {}, " with their projection")),
      ...(data.test.right.length ? [h("p", { class: "mdx-key" }, ...rightKey(data))] : []),
      h("div", { class: "mdx-grid mdx-end mdx-moves" }, ...tiles),
      ...(many < now.ordered.length ? [more] : []),
      h("h3", {}, "Random test images of the same classes", h("small", {}, " for contrast")),
      h("div", { class: "mdx-grid mdx-contrast mdx-moves" }, ...others.map((place) => testTile(data, place))));
  };
  const update = (now) => {
    const direction = [now.comparison, now.direction, now.end, now.only].join();
    if (direction !== viewed) many = data.topK;
    viewed = direction;
    if (`${direction},${many}` !== drawn) draw(now);
    drawn = `${direction},${many}`;
    mark(node, now);
  };
  return { node, update };
}

function mark(node, now) {
  node.classList.toggle("mdx-revealed", now.reveal);
  for (const grid of node.querySelectorAll(".mdx-moves")) {
    const buttons = [...grid.querySelectorAll("button.mdx-tile")];
    let entry = buttons[0];
    for (const button of buttons) {
      const chosen = Number(button.dataset.index) === now.example;
      button.setAttribute("aria-pressed", chosen);
      button.setAttribute("tabindex", -1);
      if (chosen) entry = button;
    }
    entry?.setAttribute("tabindex", 0);
  }
}

function evidence(data) {
  const node = h("div", { class: "mdx-evidence" });
  const update = (now) => {
    const { evidence: word, uses, captions, verdict, finding } = now.here;
    const end = now.end;
    node.replaceChildren();
    if (word) {
      const lines = uses[end].map((line) => h("li", {}, line));
      node.append(h("h3", {}, `Evidence: ${word}.`, h("small", {}, ` Who uses what marks the ${end}:`)),
        h("ul", { class: "mdx-uses" }, ...(lines.length ? lines : [h("li", {}, "too few to tell")])));
    }
    if (verdict[end]) {
      const told = finding[end] ? "★ A finding." : "No finding of this direction.";
      node.append(h("h3", {}, `What imitates the ${end}, tested`), h("p", { class: "mdx-verdict" }, `${told} ${verdict[end]}`));
    }
    if (captions[end].length) {
      const items = captions[end].map(([text, score]) => h("li", {}, text, " ", h("small", {}, signed(score))));
      node.append(h("h3", {}, `Captions that fit the ${end}`), h("ol", {}, ...items));
    }
    if (data.features.length && now.reveal) node.append(...truth(data, now));
  };
  return { node, update };
}

function truth(data, now) {
  const outermost = now.ordered.slice(0, data.topK);
  const rows = data.features.map((name, feature) => {
    const count = outermost.filter((place) => data.test.features[place].includes(feature)).length;
    const auc = now.here.grades[now.end][name];
    return h("tr", {}, h("th", { scope: "row" }, swatch(feature), ` ${name.replaceAll("_", " ")}`),
      h("td", {}, `${count} of ${outermost.length}`),
      h("td", {}, auc === undefined ? "–" : auc.toFixed(2)));
  });
  const head = ["planted feature", `at the ${now.end}`, "AUC in its class"];
  return [h("h3", {}, "The planted truth"), h("table", {},
    h("thead", {}, h("tr", {}, ...head.map((text) => h("th", { scope: "col" }, text)))),
    h("tbody", {}, ...rows))];
}

// ---- all test images --------------------------------------------------------------------------

function images(data) {
  let first = 0;
  let drawn = "";
  const usable = Object.entries(ORDERS).filter(([name]) => data.test.right.length || !["difference", "wrong"].includes(name));
  const order = menu(data, "Sorted by", "order", usable, (value) => { first = 0; data.set({ order: value, example: -1, trainee: -1 }); });
  const only = classes(data);
  const number = h("input", { type: "number", min: 0, max: Math.max(...data.test.index) });
  const go = (event) => {
    event.preventDefault();
    const index = Number(number.value);
    const known = number.value !== "" && data.test.place.has(index);
    number.setCustomValidity(known ? "" : "This page does not hold that test image.");
    if (!number.reportValidity()) return;
    if (data.state().listed.indexOf(data.test.place.get(index)) < 0) data.set({ only: -1 });
    first = PAGE * Math.floor(data.state().listed.indexOf(data.test.place.get(index)) / PAGE);
    data.set({ example: index, trainee: -1 });
    update(data.state());
  };
  number.addEventListener("input", () => number.setCustomValidity(""));
  const form = h("form", { class: "mdx-go", onsubmit: go }, h("label", { class: "mdx-menu" }, h("span", {}, "Number"), number),
    h("button", { type: "submit" }, "show"));
  const turn = (by) => () => { first += by * PAGE; update(data.state()); };
  const back = h("button", { type: "button", onclick: turn(-1) }, "‹ earlier");
  const next = h("button", { type: "button", onclick: turn(1) }, "later ›");
  const where = h("span", { "aria-live": "polite" });
  const grid = h("div", { class: "mdx-grid mdx-moves" });
  const all = panel(data, "images", []);
  const show = all.update;
  all.node.append(h("div", { class: "mdx-controls" }, order.node, only.node, form), grid,
    h("div", { class: "mdx-pages" }, back, where, next));
  const key = data.test.right.length ? h("p", { class: "mdx-key" }, ...rightKey(data)) : "";
  all.node.prepend(key);
  const update = (now) => {
    show(now);
    if (all.node.hidden) return;
    [order, only].forEach((part) => part.update(now));
    if (first >= now.listed.length) first = 0;
    const view = [now.order, now.only, first].join();
    if (view !== drawn) grid.replaceChildren(...now.listed.slice(first, first + PAGE).map((place) =>
      testTile(data, place, now.order === "cosine" ? `cos ${data.test.cosine[place].toFixed(2)}` : `${data.test.index[place]}`)));
    drawn = view;
    back.disabled = first === 0;
    next.disabled = first + PAGE >= now.listed.length;
    where.textContent = `${first + 1} to ${Math.min(first + PAGE, now.listed.length)} of ${now.listed.length}`;
    mark(all.node, now);
  };
  return { node: all.node, update };
}

function rightKey(data) {
  return ["Bars below an image: the share of models that are right about it, ",
    h("i", { class: "mdx-share mdx-one" }), ` ${data.names[0]}, `, h("i", { class: "mdx-share mdx-two" }), ` ${data.names[1]}.`];
}

// ---- tests ------------------------------------------------------------------------------------

function tests(data) {
  const all = panel(data, "tests", []);
  const show = all.update;
  const list = h("div", { class: "mdx-cases mdx-moves", role: "group", "aria-label": "What was tested" });
  const buttons = data.hypotheses.map((one, i) => h("button", { type: "button", "data-case": i,
    onclick: () => data.set({ hypothesis: i, dose: -1 }) },
  `${one.finding ? "★ " : ""}${one.name}`, h("small", {}, one.verdict)));
  list.append(...buttons);
  const slider = h("input", { type: "range", min: 0, step: 1, oninput: () => data.set({ dose: Number(slider.value) }) });
  const dose = h("output", {});
  const before = h("div", { class: "mdx-preview" });
  const bars = h("div", { class: "mdx-effects" });
  const said = h("p", { class: "mdx-said", "aria-live": "polite" });
  const verdict = h("p", { class: "mdx-verdict" });
  all.node.append(h("div", { class: "mdx-main" }, h("div", { class: "mdx-left" }, h("h3", {}, "What was tested"), list),
    h("div", { class: "mdx-right" }, h("label", { class: "mdx-dose" }, h("span", {}, "How strongly"), slider, dose), before, bars, said, verdict)));
  const update = (now) => {
    show(now);
    if (all.node.hidden) return;
    const number = Math.min(Math.max(now.hypothesis, 0), data.hypotheses.length - 1);
    const one = data.hypotheses[number];
    const last = one.intensities.length - 1;
    const at = now.dose < 0 ? last : Math.min(now.dose, last);
    buttons.forEach((button, i) => {
      button.setAttribute("aria-pressed", i === number);
      button.setAttribute("tabindex", i === number ? 0 : -1);
    });
    slider.max = last;
    slider.value = at;
    slider.disabled = last === 0;
    const strength = `${one.intensities[at]} ${one.unit}`;
    slider.setAttribute("aria-valuetext", strength);
    dose.textContent = strength;
    const row = (name, step) => h("div", { class: "mdx-row" }, h("h4", {}, name),
      h("div", { class: "mdx-grid" }, ...Array.from({ length: one.n_images }, (_, i) =>
        h("span", { class: "mdx-tile" }, caseTile(data, number, step * one.n_images + i, `${name}, image ${i + 1}`)))));
    before.replaceChildren(row("as they are", 0), row("changed", at + 1), row("placebo", last + 2));
    bars.replaceChildren(...effectBars(data, one, at));
    said.textContent = `At ${strength}, confidence in ${one.class_name} changes by: ` +
      `${[1, 2].map((a) => told(data.names[a - 1], one.effects[a][at])).join("; ")}.`;
    verdict.textContent = `Over all intensities: ${one.sentence}`;
  };
  return { node: all.node, update };
}

const told = (name, [effect, low, high]) =>
  `${name} ${points(effect)} points (${points(low)} to ${points(high)})`;

function effectBars(data, one, at) {
  const shown = [1, 2].flatMap((a) => [[data.names[a - 1], one.effects[a][at], `mdx-effect-${a}`],
    ["its placebo", one.placebo[a][Math.min(at, one.placebo[a].length - 1)], "mdx-effect-0"]]).filter(([, effect]) => effect);
  const most = Math.max(10, ...data.hypotheses.flatMap((each) => [1, 2].flatMap((a) => each.effects[a].flat().map(Math.abs))));
  const x = (value) => 50 + (50 * value) / most;
  const rows = shown.map(([name, [effect, low, high], kind]) => h("div", { class: `mdx-effect ${kind}` }, h("span", {}, name),
    h("span", { class: "mdx-bar" }, h("i", { class: "mdx-zero", style: "left:50%" }),
      h("i", { class: "mdx-amount", style: `left:${Math.min(50, x(effect))}%;width:${Math.abs(x(effect) - 50)}%` }),
      h("i", { class: "mdx-interval", style: `left:${x(low)}%;width:${x(high) - x(low)}%` })), h("span", {}, points(effect))));
  const scale = h("div", { class: "mdx-effect mdx-scale", "aria-hidden": "true" }, h("span", {}),
    h("span", { class: "mdx-bar" }, ...[-most, 0, most].map((v) => h("span", { style: `left:${x(v)}%` }, points(v)))), h("span", {}));
  return [h("h3", {}, `Change of confidence in ${one.class_name}`, h("small", {}, " percentage points, 95% intervals")), ...rows, scale];
}

function caseTile(data, number, tile, label) {
  return tileOf(data.hypotheses[number].sheet, `case-${number}-0`, tile, label);
}

// ---- one image: what it hangs on, or what hangs on it --------------------------------------------

function detail(data) {
  const node = h("div", { class: "mdx-detail" });
  let drawn = "";
  const update = (now) => {
    node.hidden = now.tab === "tests" || (now.example < 0 && now.trainee < 0);
    const view = now.trainee >= 0 ? `train ${now.trainee}` : `test ${now.example}`;
    if (view !== drawn && !node.hidden) node.replaceChildren(...(now.trainee >= 0 ? ofTraining(data, now) : ofTest(data, now)));
    drawn = view;
  };
  return { node, update };
}

function ofTest(data, now) {
  const place = data.test.place.get(now.example);
  const facts = [`Test image ${now.example}: ${className(data, data.test, place)}.`];
  if (data.test.right.length) facts.push(`Right about it: ${data.names.map((name, i) =>
    `${data.test.right[i][place].toFixed(0)}% of ${name}’s models`).join(", ")}.`);
  facts.push(`Its two datamodels have a cosine of ${data.test.cosine[place].toFixed(2)}.`);
  return [h("h3", {}, "What this image hangs on", h("small", {}, " training images by datamodel weight; choose one to see what it moves")),
    large(data.test, place, facts), pulls(data, data.test, place, data.train, ["help most", "hurt most"], trainTile)];
}

function ofTraining(data, now) {
  const place = data.train.place.get(now.trainee);
  const facts = [`Training image ${now.trainee}: ${className(data, data.train, place)}.`];
  const back = h("button", { type: "button", class: "mdx-more", onclick: () => data.set({ trainee: -1 }) },
    `‹ back to test image ${now.example}`);
  return [h("h3", {}, "What this training image moves", h("small", {}, " test images by datamodel weight")), back,
    large(data.train, place, facts), pulls(data, data.train, place, data.test, ["raised most", "lowered most"], movedTile)];
}

function large(sheet, place, facts) {
  return h("div", { class: "mdx-large" }, picture(sheet, place), h("p", {}, facts.join(" ")));
}

function pulls(data, sheet, place, others, rows, tile) {
  const { k, n } = sheet.pulls;
  const columns = data.names.map((name, a) => h("div", { class: `mdx-side mdx-algorithm-${a + 1}` },
    h("h4", {}, `under ${name}`), ...rows.map((what, r) => {
      const start = ((a * n + place) * 2 + r) * k;
      const tiles = Array.from({ length: k }, (_, j) => [sheet.pulls.place[start + j], sheet.pulls.weight[start + j]])
        .map(([other, weight]) => (other < 0 ? h("span", { class: "mdx-tile mdx-away" }, "not in this page")
          : tile(data, other, signed(weight))));
      return h("div", { class: "mdx-row" }, h("small", {}, what), h("div", { class: "mdx-grid mdx-moves" }, ...tiles));
    })));
  return h("div", { class: "mdx-sides" }, ...columns);
}

// ---- tiles ------------------------------------------------------------------------------------

function testTile(data, place, number = "") {
  const index = data.test.index[place];
  const features = data.test.features[place];
  const name = className(data, data.test, place);
  const planted = features.map((f) => data.features[f].replaceAll("_", " ")).join(", ");
  const right = data.test.right.map((share, a) => `${share[place].toFixed(0)}% of ${data.names[a]} right`);
  const said = [`test image ${index}`, ...right].join(", ");
  const button = h("button", { type: "button", class: "mdx-tile", "data-index": index, title: said,
    onclick: () => chooseTest(data, index) },
  picture(data.test, place), unseen(said), ...shares(data, place), h("span", { class: "mdx-class" }, name), h("small", {}, number));
  if (planted) button.append(h("small", { class: "mdx-planted" }, swatch(features[0]), ` ${planted}`));
  if (features.length) button.classList.add("mdx-has-feature", `mdx-feature-${features[0] % 5}`);
  return button;
}

function shares(data, place) {
  if (!data.test.right.length) return [];
  return [h("span", { class: "mdx-shares", "aria-hidden": "true" }, ...data.test.right.map((share, a) =>
    h("i", { class: `mdx-share ${a ? "mdx-two" : "mdx-one"}` }, h("b", { style: `width:${share[place]}%` }))))];
}

function trainTile(data, place, number) {
  const index = data.train.index[place];
  const name = className(data, data.train, place);
  return h("button", { type: "button", class: "mdx-tile", "data-train": index, title: `training image ${index}`,
    onclick: () => data.set({ trainee: index }) },
  picture(data.train, place), unseen(`training image ${index}`), h("span", { class: "mdx-class" }, name), h("small", {}, number));
}

const movedTile = (data, place, number) => testTile(data, place, number);

function chooseTest(data, index) {
  data.set({ example: index, trainee: -1 });
  const root = document.querySelector(`.${data.uid} .mdx-detail`);
  const quick = matchMedia("(prefers-reduced-motion: reduce)").matches;
  root?.scrollIntoView({ block: "nearest", behavior: quick ? "auto" : "smooth" });
}

function picture(sheet, place) {
  let [number, tile] = [0, place];
  while (tile >= sheet.sheets[number].count) tile -= sheet.sheets[number++].count;
  return tileOf(sheet.sheets[number], `${sheet.kind}-${number}`, tile);
}

function sheets(data) {
  const named = [data.test, data.train].flatMap(({ kind, sheets: all }) => all.map((sheet, i) => [`${kind}-${i}`, sheet]));
  const cases = data.hypotheses.map(({ sheet }, i) => [`case-${i}-0`, sheet]);
  return sheetRules(data.uid, [...named, ...cases], data.test.sheets[0]);
}

function className(data, sheet, place) {
  return data.classNames[sheet.labels[place]];
}

const swatch = (feature) =>
  h("i", { class: `mdx-swatch mdx-feature-${feature % 5}`, "aria-hidden": "true" });

// ---- notes, and what can be taken along --------------------------------------------------------

function tools(data) {
  const said = h("span", { role: "status" });
  const say = (text) => { said.textContent = text; };
  const button = (text, onclick) => h("button", { type: "button", onclick }, text);
  const copy = (text, what) => {
    const done = navigator.clipboard ? navigator.clipboard.writeText(text) : Promise.reject();
    done.then(() => say(`${what} copied`), () => { say(text); });
  };
  const inView = (now) => (now.tab === "images" ? now.listed : now.ordered.slice(0, data.topK));
  const indices = () => copy(inView(data.state()).map((place) => data.test.index[place]).join(", "), "Numbers of the test images");
  const link = () => {
    const now = data.state();
    const told = new URLSearchParams(STATE.map((name) => [name, now[name]]));
    history.replaceState(null, "", `${LINK}${told}`);
    copy(location.href, "A link to this view");
  };
  const save = () => {
    const now = data.state();
    const rows = inView(now).map((place, rank) => [rank + 1, data.test.index[place], quoted(className(data, data.test, place)),
      now.here.along[place].toPrecision(4), data.test.cosine[place].toPrecision(4), ...data.test.right.map((share) => share[place].toFixed(1))]);
    const shares = data.test.right.length ? data.names.map((name) => quoted(`% of ${name} right`)) : [];
    const head = ["rank", "test image", "class", `projection on #${now.direction}`, "cosine", ...shares];
    const url = URL.createObjectURL(new Blob([[head, ...rows].map((row) => row.join(",")).join("\r\n")], { type: "text/csv" }));
    h("a", { href: url, download: `${now.comparison}-${now.direction}-${now.end}.csv` }).click();
    setTimeout(() => URL.revokeObjectURL(url), 1000);
    say("Saved as a table");
  };
  const notes = h("textarea", { rows: 3, "aria-label": "Notes", oninput: () => data.set({ notes: notes.value }) });
  notes.value = data.model.get("notes") ?? "";
  const bar = h("div", { class: "mdx-buttons" }, button("copy the numbers", indices), button("save as CSV", save),
    ...(data.model.still ? [button("copy a link to this view", link)] : []), said);
  const kept = data.model.still ? "They stay in this browser." : "They are saved with the notebook's widgets.";
  const node = h("div", { class: "mdx-tools" }, bar, h("details", {}, h("summary", {}, "Notes"), notes, h("small", {}, kept)));
  return { node, update: () => { bar.hidden = data.state().tab === "tests"; } };
}

const quoted = (text) => `"${text.replaceAll('"', '""')}"`;

// ---- keys and focus ----------------------------------------------------------------------------

// Arrows move the focus among the buttons of a group; in grids up and down go by rows.
function arrows(event) {
  const group = event.target.closest(".mdx-moves");
  const keys = ["ArrowLeft", "ArrowRight", "ArrowUp", "ArrowDown", "Home", "End"];
  if (!group || !keys.includes(event.key) || event.ctrlKey || event.metaKey || event.altKey) return;
  event.preventDefault();
  event.stopPropagation();
  const all = [...group.querySelectorAll("button")];
  const here = all.indexOf(event.target.closest("button"));
  const top = all[here].offsetTop;
  const row = all.filter((button) => button.offsetTop === all[0].offsetTop).length;
  const by = { ArrowLeft: -1, ArrowRight: 1, ArrowUp: -row, ArrowDown: row, Home: -here, End: all.length - 1 - here }[event.key];
  const to = all[Math.min(Math.max(here + by, 0), all.length - 1)];
  if (Math.abs(by) === row && row > 1 && to.offsetTop === top) return;
  to.focus();
  if (group.matches(".mdx-rungs, .mdx-tabs, .mdx-cases")) to.click();
}

// What has the focus may be drawn anew: its successor gets it.
function focused(root) {
  const here = root.contains(document.activeElement) ? document.activeElement : null;
  if (!here) return null;
  const key = ["index", "train", "direction", "tab", "case"].find((name) => here.dataset[name] !== undefined);
  const within = ["mdx-end", "mdx-contrast", "mdx-detail", "mdx-images", "mdx-ladder"].find((name) => here.closest(`.${name}`));
  return { here, within, key, value: key && here.dataset[key] };
}

function refocus(root, focus) {
  if (!focus || root.contains(focus.here)) return;
  const within = focus.within ? `.${focus.within} ` : "";
  const same = focus.key && root.querySelector(`${within}[data-${focus.key}="${focus.value}"]`);
  const next = same || root.querySelector(`${within}button`) || root.querySelector("[role=tab][tabindex='0']");
  next?.focus({ preventScroll: true });
}

export default { render };
