// Small helpers for elements. Texts become text nodes only, so that no text is ever read as HTML.

export function find(id) {
  return document.getElementById(id);
}

/** Make an element: its properties (class, attributes, on… functions), then its children. */
export function make(tag, properties = {}, ...children) {
  return filled(document.createElement(tag), properties, children);
}

/** The same for an element of SVG. */
export function draw(tag, properties = {}, ...children) {
  return filled(document.createElementNS("http://www.w3.org/2000/svg", tag), properties, children);
}

function filled(element, properties, children) {
  for (const [name, value] of Object.entries(properties)) {
    if (name.startsWith("on")) {
      element.addEventListener(name.slice(2), value);
    } else if (value !== undefined && value !== false) {
      element.setAttribute(name, value === true ? "" : value);
    }
  }
  element.append(...children.flat());
  return element;
}

export function show(id, ...children) {
  find(id).replaceChildren(...children.flat());
}

/** A table with a caption. A row is a list of cells; the cells of `numeric` columns are numbers. */
export function table(caption, heads, rows, numeric = []) {
  const cell = (tag, value, column, more = {}) =>
    make(tag, { class: numeric.includes(column) ? "number" : undefined, ...more }, value);
  return make(
    "div",
    { class: "scroll", tabindex: "0", role: "group", "aria-label": caption },
    make(
      "table",
      {},
      make("caption", { class: "hidden" }, caption),
      make("thead", {}, make("tr", {}, heads.map((h, i) => cell("th", h, i, { scope: "col" })))),
      make("tbody", {}, rows.map((row) => make("tr", {}, row.map((v, i) => cell("td", v, i))))),
    ),
  );
}

/** A number with so many decimals; a minus that is a minus, and no "-0.000". */
export function fixed(value, decimals = 3) {
  const text = value.toFixed(decimals);
  return Number(text) === 0 ? (0).toFixed(decimals) : text.replace("-", "−");
}

/** A number with five significant digits, as short as it goes. */
export function short(value) {
  if (!Number.isFinite(value)) return "nan";
  return String(Number(value.toPrecision(5))).replace("-", "−");
}

/**
 * Run what a form asks for. Its state is told, or the error, which clears the results of an earlier
 * run. A later run replaces an earlier one.
 */
export function onSubmit(name, run, clear) {
  let current = null;
  find(`${name}-form`).addEventListener("submit", async (event) => {
    event.preventDefault();
    current?.abort();
    const mine = (current = new AbortController());
    const state = find(`${name}-state`);
    const error = find(`${name}-error`);
    error.hidden = true;
    state.textContent = "Running …";
    const start = performance.now();
    try {
      const done = await run(mine.signal);
      const time = Math.round(performance.now() - start);
      if (mine !== current) return;
      state.textContent = `${done} ${time} ms.`;
      // On a small screen the results stand below the form.
      if (state.getBoundingClientRect().bottom > innerHeight) state.parentElement.scrollIntoView();
    } catch (reason) {
      if (mine !== current) return;
      clear();
      state.textContent = "";
      error.textContent = reason.message;
      error.hidden = false;
    }
  });
}
