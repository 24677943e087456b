// Small services of every page: all code at once, and boxes that scroll can be reached by keys.
(() => {
  const folds = [...document.querySelectorAll("details.hide, details.setup")];
  const article = document.querySelector("article");
  if (folds.length > 1) {
    const button = document.createElement("button");
    button.type = "button";
    button.className = "code-switch";
    const update = (open) => {
      button.setAttribute("aria-pressed", open);
      button.textContent = open ? "Hide all code" : "Show all code";
    };
    button.onclick = () => {
      const open = button.getAttribute("aria-pressed") !== "true";
      folds.forEach((fold) => { fold.open = open; });
      update(open);
    };
    update(false);
    folds[0].before(button);
  }
  const reach = () => article?.querySelectorAll(
    ".cell_output, .highlight pre, .pst-scrollable-table-container, div.math, mjx-container").forEach((box) => {
    if (box.scrollWidth > box.clientWidth + 1) {
      box.tabIndex = 0;
      box.setAttribute("role", "group");
      box.setAttribute("aria-label", "scrolls sideways");
    }
  });
  // What the theme says of its own parts to those who listen is not what it shows.
  document.querySelectorAll(
    "details.hide > summary, button.search-button-field, button.theme-switch-button").forEach((e) => e.removeAttribute("aria-label"));
  document.querySelectorAll(".citation-list").forEach((e) => e.removeAttribute("role"));
  window.addEventListener("load", () => { reach(); setTimeout(reach, 1500); });
})();
