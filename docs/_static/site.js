// What the theme leaves out for readers without a mouse: the level of the headings in the sidebar,
// and focus for what scrolls sideways.
document.addEventListener("DOMContentLoaded", () => {
  for (const caption of document.querySelectorAll("p.caption[role=heading]")) {
    caption.setAttribute("aria-level", "2");
  }
  for (const wide of document.querySelectorAll("pre, .table-wrapper")) {
    wide.setAttribute("tabindex", "0");
  }
});
