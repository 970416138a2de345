// The page: which panel is seen, and which models the server has.

import { get } from "./api.js";
import { find, make } from "./dom.js";
import * as forecast from "./forecast.js";
import { TEXT_KINDS, fillSelect, missing, modelsOf } from "./models.js";
import * as page from "./page.js";
import * as status from "./status.js";
import * as text from "./text.js";

const PANELS = ["text", "page", "forecast", "status"];
const KINDS_OF = { text: TEXT_KINDS, page: ["vision"], forecast: ["time-series"] };
const SOON = 1000; // ms until a server that opens its models is asked again

let later; // the timer of the next question

function panel() {
  const name = location.hash.slice(1);
  return PANELS.includes(name) ? name : PANELS[0];
}

/** Show the panel that the address names; `moved` puts the focus there. */
function turn(moved) {
  for (const name of PANELS) find(name).hidden = name !== panel();
  for (const link of document.querySelectorAll("nav a")) {
    if (link.hash === `#${panel()}`) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  }
  document.title = `${find(`${panel()}-title`).textContent} · tessera`;
  if (moved) {
    find(`${panel()}-title`).focus({ preventScroll: true });
    scrollTo(0, 0);
  }
  if (panel() === "page") page.opened();
  if (panel() === "status") refresh();
}

/** Ask the server for its models, and again while it opens them. */
async function refresh() {
  const error = find("status-error");
  clearTimeout(later);
  try {
    const info = await get("info");
    const ready = await (await fetch("readyz", { cache: "no-store" })).text();
    const models = modelsOf(info);
    for (const [name, kinds] of Object.entries(KINDS_OF)) offer(name, models, kinds);
    text.about();
    status.update(info, ready);
    const count = `${models.length} model${models.length === 1 ? "" : "s"}`;
    find("server").textContent = ready === "ready" ? count : ready;
    error.hidden = true;
    if (ready !== "ready") later = setTimeout(refresh, SOON);
  } catch (reason) {
    find("server").textContent = "No answer";
    error.textContent = reason.message;
    error.hidden = false;
  }
}

/** The models of a panel, or how one gets one. */
function offer(name, models, kinds) {
  const has = fillSelect(find(`${name}-model`), models, kinds);
  const form = find(`${name}-form`);
  form.hidden = !has;
  form.parentElement.querySelector(".results").hidden = !has;
  form.parentElement.querySelector(".notice")?.remove();
  if (!has) {
    form.parentElement.prepend(make("div", { class: "notice" }, missing(kinds)));
  }
}

text.start();
page.start();
forecast.start();
addEventListener("hashchange", () => turn(true));
turn(false);
if (panel() !== "status") refresh();
