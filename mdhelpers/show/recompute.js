// The view of `recompute.py`: residuals, principal components and gaps, computed here.

const N_DIRECTIONS = 8;
let pages = 0;

function render({ model, el }) {
  const uid = `mdx-re-${++pages}`;
  const [n, p] = model.get("shape");
  const names = model.get("names");
  const classNames = model.get("class_names");
  const test = model.get("test");
  const rows = cached((name) => readRows(model.get("fits")[name], n, p));
  const root = h("div", { class: `mdx mdx-recompute ${uid}`, "data-lm-suppress-shortcuts": "true" });
  const pairs = { 12: `${names[0]} ∖ ${names[1]}`, 21: `${names[1]} ∖ ${names[0]}`,
    11: `${names[0]} with itself`, 22: `${names[1]} with itself` };
  const set = (changes) => {
    Object.entries(changes).forEach(([name, value]) => model.set(name, value));
    model.save_changes();
  };
  const menu = (legend, options, name, change) => {
    const select = h("select", { onchange: () => change(select.value) }, ...options.map(([value, text]) => h("option", { value }, text)));
    return { node: h("label", { class: "mdx-menu" }, h("span", {}, legend), select), select, name };
  };
  const total = model.get("n_models");
  const sizes = [[1, `all ${total}`], [2, `${total / 2}`], [4, `${total / 4}`]];
  const menus = [
    menu("Compare", Object.entries(pairs), "pair", (pair) => set({ pair, size: pair[0] === pair[1] ? 4 : model.get("size"), direction: 0 })),
    menu("Models of each", sizes, "size", (size) => set({ size: Number(size), part: 0, direction: 0 })),
    menu("Which of them find the directions", [[0, "the first"], [1, "others"], [2, "others still"], [3, "the last"]], "part",
      (part) => set({ part: Number(part), direction: 0 })),
  ];
  const plot = h("div", {});
  const said = h("p", { "aria-live": "polite" });
  const grid = h("div", { class: "mdx-grid" });
  const head = h("h3", {});
  root.append(sheetRules(uid, [["test", test.sheet]], test.sheet), h("div", { class: "mdx-controls" }, ...menus.map((m) => m.node)),
    h("div", { class: "mdx-main" }, h("div", {}, plot, said), h("div", {}, head, grid)));
  const compute = cached((key) => carryOut(...key.split(" "), rows, n, p, model.get("reference"), total));
  const update = () => {
    if (root.dataset.lost) return;
    const pair = model.get("pair");
    const size = pair[0] === pair[1] ? Math.max(2, model.get("size")) : model.get("size");
    const part = Math.min(model.get("part"), size - 1);
    menus[1].select.options[0].disabled = pair[0] === pair[1];
    [...menus[2].select.options].forEach((option, i) => { option.hidden = i >= size; });
    menus.forEach((m, i) => { m.select.value = [pair, size, part][i]; });
    const wanted = partsOf(pair, size, part);
    const arrays = [...wanted.finding, ...(wanted.others ?? [])].map((name) => model.get("fits")[name]);
    const beside = [...arrays, model.get("reference").directions].filter((array) => array && !array.data);
    if (beside.length) {
      said.textContent = "Reading these datamodels …";
      Promise.all(beside.map(fetched)).then(update, () => {
        root.dataset.lost = true;
        said.textContent = "These datamodels cannot be read: the folder _static has to lie beside this page.";
      });
      return;
    }
    const found = compute(`${pair} ${size} ${part}`);
    const chosen = Math.min(model.get("direction"), N_DIRECTIONS - 1);
    plot.replaceChildren(h("h3", {}, "Gap of each direction", h("small", {}, " % of variance; outline: on the models that found it; filled: on others")),
      bars(found, chosen, pair, (direction) => set({ direction })));
    said.textContent = tell(found, names, pair, size, total);
    head.replaceChildren(`Test images at the top of direction ${chosen + 1}`);
    grid.replaceChildren(...found.top[chosen].map((index) => h("span", { class: "mdx-tile" },
      tileOf(test.sheet, "test", index, `test image ${index}`), h("span", { class: "mdx-class" }, classNames[test.labels[index]]))));
    root.dataset.agreement = found.agreement ?? "";
    root.dataset.milliseconds = found.milliseconds;
  };
  const watched = ["pair", "size", "part", "direction"];
  watched.forEach((name) => model.on(`change:${name}`, update));
  update();
  el.append(root);
  return () => watched.forEach((name) => model.off(`change:${name}`, update));
}

function cached(make) {
  const kept = new Map();
  return (key) => kept.get(key) ?? kept.set(key, make(key)).get(key);
}

// A page has datamodels in scripts beside it, each read when it is first wanted; a kernel sends them.
// Where they lie follows from the page alone, whatever its data say: a script is run.
function fetched(fit) {
  return new Promise((done, failed) => {
    if (!/^[0-9a-f]{16}$/.test(fit.key)) throw new Error("no key of an array");
    const root = document.documentElement.dataset.content_root ?? "";
    const script = h("script", { src: `${root}_static/sheets/${fit.key}.js` });
    script.onload = () => {
      fit.data = globalThis.mdxArrays[fit.key];
      script.remove();
      done();
    };
    script.onerror = failed;
    document.head.append(script);
  });
}

// Which datamodels find the directions, and which measure the gaps. Others share no model with those that
// find: they are of the next part, or for an algorithm with itself of the next two.
function partsOf(pair, size, at) {
  const [first, second] = [...pair];
  const name = (algorithm, k) => (size === 1 ? `all_${algorithm}` : `${size}_${k % size}_${algorithm}`);
  const itself = Number(first === second);
  const finding = [name(first, at), name(second, at + itself)];
  const step = 1 + itself;
  const enough = size > 1 && (!itself || size >= 4);
  return { finding, others: enough ? [name(first, at + step), name(second, at + step + itself)] : null };
}

// Rows of unit length; a row of zeros stays.
function readRows({ bits, data }, n, p) {
  const bytes = Uint8Array.from(atob(data), (sign) => sign.charCodeAt(0)).buffer;
  const whole = bits === 8 ? new Int8Array(bytes) : new Int16Array(bytes);
  const found = new Float64Array(n * p);
  for (let i = 0; i < n; i++) {
    let length = 0;
    for (let j = 0; j < p; j++) length += whole[i * p + j] ** 2;
    length = Math.sqrt(length) || 1;
    for (let j = 0; j < p; j++) found[i * p + j] = whole[i * p + j] / length;
  }
  return found;
}

function carryOut(pair, size, part, rows, n, p, reference, total) {
  const start = performance.now();
  const parts = Number(size);
  const wanted = partsOf(pair, parts, Number(part));
  const finding = wanted.finding.map(rows);
  const others = wanted.others?.map(rows);
  const { directions, projections } = residualPca(...finding, n, p, N_DIRECTIONS);
  const gap = ([one, two]) => directions.map((u) => 100 * (explained(one, u, n, p) - explained(two, u, n, p)));
  const top = projections.map((along) => Array.from(along.keys()).sort((a, b) => along[b] - along[a]).slice(0, 8));
  const milliseconds = performance.now() - start;
  const agreement = pair === "12" && parts === 1 && reference.directions ? agree(directions, reference.directions, p) : null;
  return { naive: gap(finding), others: others && gap(others), top, milliseconds, agreement, used: total / parts };
}

function explained(rows, u, n, p) {
  let sum = 0;
  for (let i = 0; i < n; i++) {
    let along = 0;
    for (let j = 0; j < p; j++) along += rows[i * p + j] * u[j];
    sum += along * along;
  }
  return sum / n;
}

// What remains of the first rows when the second's part is taken away, and its principal components.
function residualPca(one, two, n, p, k) {
  const rest = new Float64Array(n * p);
  const mean = new Float64Array(p);
  let known = 0;
  for (let i = 0; i < n; i++) {
    let [both, lengths] = [0, [0, 0]];
    for (let j = 0; j < p; j++) {
      both += one[i * p + j] * two[i * p + j];
      lengths[0] += Math.abs(one[i * p + j]);
      lengths[1] += Math.abs(two[i * p + j]);
    }
    if (!lengths[0] || !lengths[1]) continue;
    known++;
    for (let j = 0; j < p; j++) {
      rest[i * p + j] = one[i * p + j] - both * two[i * p + j];
      mean[j] += rest[i * p + j];
    }
  }
  for (let j = 0; j < p; j++) mean[j] /= known || 1;
  const spread = new Float64Array(p * p);
  for (let i = 0; i < n; i++) {
    for (let a = 0; a < p; a++) {
      const value = rest[i * p + a] - mean[a];
      for (let b = 0; b <= a; b++) spread[a * p + b] += value * (rest[i * p + b] - mean[b]);
    }
  }
  for (let a = 0; a < p; a++) for (let b = 0; b < a; b++) spread[b * p + a] = spread[a * p + b];
  const directions = leading(spread, p, k);
  const projections = directions.map((u) => {
    const along = new Float64Array(n);
    let skew = 0;
    for (let i = 0; i < n; i++) {
      for (let j = 0; j < p; j++) along[i] += rest[i * p + j] * u[j];
      skew += along[i] ** 3;
    }
    if (skew < 0) { u.forEach((_, j) => { u[j] *= -1; }); along.forEach((_, i) => { along[i] *= -1; }); }
    return along;
  });
  return { directions, projections };
}

// Leading eigenvectors of a symmetric matrix: powers of a block, then a small exact problem.
function leading(matrix, p, k) {
  const m = Math.min(p, 2 * k + 8);
  let seed = 1;
  const next = () => { seed = (seed * 16807) % 2147483647; return seed / 2147483647 - 0.5; };
  let block = Array.from({ length: m }, () => Float64Array.from({ length: p }, next));
  const times = (v) => {
    const found = new Float64Array(p);
    for (let a = 0; a < p; a++) {
      let sum = 0;
      for (let b = 0; b < p; b++) sum += matrix[a * p + b] * v[b];
      found[a] = sum;
    }
    return found;
  };
  const dot = (a, b) => a.reduce((sum, value, j) => sum + value * b[j], 0);
  const orthonormal = (vectors) => vectors.forEach((v, i) => {
    for (let round = 0; round < 2; round++) {
      for (let o = 0; o < i; o++) {
        const part = dot(v, vectors[o]);
        for (let j = 0; j < p; j++) v[j] -= part * vectors[o][j];
      }
    }
    const length = Math.sqrt(dot(v, v)) || 1;
    for (let j = 0; j < p; j++) v[j] /= length;
  });
  orthonormal(block);
  for (let round = 0; round < 40; round++) {
    block = block.map(times);
    orthonormal(block);
  }
  const images = block.map(times);
  const small = block.map((v) => images.map((w) => dot(v, w)));
  const { values, vectors } = jacobi(small);
  const order = values.map((_, i) => i).sort((a, b) => values[b] - values[a]).slice(0, k);
  return order.map((i) => {
    const u = new Float64Array(p);
    block.forEach((v, r) => { for (let j = 0; j < p; j++) u[j] += vectors[r][i] * v[j]; });
    return u;
  });
}

function jacobi(given) {
  const size = given.length;
  const a = given.map((row) => Float64Array.from(row));
  const vectors = a.map((_, i) => Float64Array.from({ length: size }, (__, j) => Number(i === j)));
  for (let sweep = 0; sweep < 30; sweep++) {
    for (let i = 0; i < size; i++) {
      for (let j = i + 1; j < size; j++) {
        if (Math.abs(a[i][j]) < 1e-14) continue;
        const theta = (a[j][j] - a[i][i]) / (2 * a[i][j]);
        const t = Math.sign(theta || 1) / (Math.abs(theta) + Math.sqrt(theta * theta + 1));
        const c = 1 / Math.sqrt(t * t + 1);
        const si = t * c;
        for (let r = 0; r < size; r++) [a[r][i], a[r][j]] = [c * a[r][i] - si * a[r][j], si * a[r][i] + c * a[r][j]];
        for (let r = 0; r < size; r++) [a[i][r], a[j][r]] = [c * a[i][r] - si * a[j][r], si * a[i][r] + c * a[j][r]];
        for (let r = 0; r < size; r++) [vectors[r][i], vectors[r][j]] = [c * vectors[r][i] - si * vectors[r][j], si * vectors[r][i] + c * vectors[r][j]];
      }
    }
  }
  return { values: a.map((row, i) => row[i]), vectors };
}

// The least |cos| of the directions here with those that the run has written.
function agree(directions, told, p) {
  const written = readRows(told, told.data.length ? Math.round((atob(told.data).length / 2) / p) : 0, p);
  const k = written.length / p;
  const best = [];
  for (let d = 0; d < Math.min(k, directions.length); d++) {
    let most = 0;
    for (const u of directions) {
      let sum = 0;
      for (let j = 0; j < p; j++) sum += u[j] * written[d * p + j];
      most = Math.max(most, Math.abs(sum));
    }
    best.push(most);
  }
  return Math.min(...best);
}

function bars({ naive, others }, chosen, pair, choose) {
  const shown = [...naive, ...(others ?? []), 0];
  const [low, high] = [Math.min(...shown), Math.max(...shown)];
  const y = (value) => 10 + (130 * (high - value)) / (high - low || 1);
  const svg = s("svg", { viewBox: "0 0 300 165", class: `mdx-gaps mdx-effect-${pair[0]}`, role: "group", "aria-label": "Gap of each direction" });
  naive.forEach((gap, d) => {
    const x = 34 + 33 * d;
    const box = (value, inset, kind) => s("rect", { x: x + inset, width: 26 - 2 * inset, y: Math.min(y(value), y(0)),
      height: Math.max(1, Math.abs(y(value) - y(0))), class: kind });
    const bar = s("g", { role: "button", tabindex: 0, "aria-pressed": d === chosen,
      "aria-label": `direction ${d + 1}: naive gap ${gap.toFixed(1)}%${others ? `, on other models ${others[d].toFixed(1)}%` : ""}` },
    s("rect", { x: x - 3, width: 32, y: 2, height: 160, class: d === chosen ? "mdx-chosen" : "mdx-none", "fill-opacity": d === chosen ? 1 : 0 }),
    box(gap, 0, "mdx-outline"), ...(others ? [box(others[d], 5, "mdx-filled")] : []),
    s("text", { x: x + 13, y: 158, "text-anchor": "middle" }, d + 1));
    bar.onclick = () => choose(d);
    bar.onkeydown = (event) => { if (event.key === "Enter" || event.key === " ") { event.preventDefault(); choose(d); } };
    svg.append(bar);
  });
  svg.append(s("line", { x1: 30, x2: 298, y1: y(0), y2: y(0), class: "mdx-axis" }), s("text", { x: 26, y: y(0) + 4, "text-anchor": "end" }, "0"),
    s("text", { x: 26, y: y(high) + 8, "text-anchor": "end" }, high.toFixed(1)));
  return svg;
}

function tell({ naive, others, milliseconds, agreement, used }, names, pair, size, total) {
  const sum = (values) => values.reduce((a, b) => a + b, 0).toFixed(1);
  const itself = pair[0] === pair[1];
  const parts = [`Computed here in ${milliseconds.toFixed(0)} ms, from ${used} models of each.`,
    `The gaps of all eight directions add up to ${sum(naive)}% on the models that found them`];
  parts[1] += others ? `, and to ${sum(others)}% on as many others.` : "; no models are left to measure them on others.";
  if (itself && others) parts.push("It is one and the same algorithm: all of the naive gap is noise.");
  if (agreement !== null) parts.push(`The directions are those of the run: |cos| of ${agreement.toFixed(4)} or more.`);
  return parts.join(" ");
}

export default { render };
