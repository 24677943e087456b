// Where require.js finds anywidget's script, and the widget manager its icon fonts: beside each
// other in _static/vendor, whatever folder the page is in. Loaded before the manager.
requirejs.config({ baseUrl: new URL("vendor", document.currentScript.src).href });
