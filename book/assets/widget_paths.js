// Where require.js finds anywidget's script, and the widget manager its icon fonts: beside each
// other in _static/vendor, whatever folder the page is in. Loaded before the manager.
requirejs.config({ baseUrl: new URL("vendor", document.currentScript.src).href });

// The widget manager asks MathJax 2 to set text; MathJax 3, which pages have, knows no `Hub`.
(() => {
  let value = window.MathJax;
  const withHub = (it) => (it && !it.Hub ? Object.assign(it, { Hub: { Queue() {} } }) : it);
  withHub(value);
  Object.defineProperty(window, "MathJax", {
    configurable: true,
    get: () => value,
    set: (it) => { value = withHub(it); },
  });
})();
