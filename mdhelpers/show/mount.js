// A view in a page without a kernel: its traits lie in the script beside its place, and the page's
// address may tell others. Stands after a view's own module, see `mdhelpers/book/widgets.py`.

function mount(host, widget) {
  const values = JSON.parse(host.nextElementSibling.textContent);
  const [listeners, changed] = [{}, new Set()];
  const link = "#mdx&";
  const told = new URLSearchParams(location.hash.startsWith(link) ? location.hash.slice(link.length) : "");
  for (const [name, value] of told) {
    if (!(name in values) || Object(values[name]) === values[name]) continue; // a link holds no data
    values[name] = typeof values[name] === "string" ? value : JSON.parse(value);
  }
  const place = `mdx-notes ${location.pathname}`;
  try { values.notes = localStorage.getItem(place) ?? ""; } catch { /* notes are not kept */ }
  const model = {
    still: true,
    get: (name) => values[name],
    set(name, value) {
      if (values[name] === value) return;
      values[name] = value;
      if (name === "notes") try { localStorage.setItem(place, value); } catch { /* as above */ }
      changed.add(name);
    },
    on: (event, listener) => (listeners[event] ??= []).push(listener),
    off(event, listener) { listeners[event] = listeners[event].filter((l) => l !== listener); },
    save_changes() {
      const called = new Set([...changed].flatMap((name) => listeners[`change:${name}`] ?? []));
      changed.clear();
      called.forEach((listener) => listener());
    },
  };
  widget.render({ model, el: host });
  if ([...told.keys()].some((name) => name in values)) host.scrollIntoView();
}
