// The models of this server: which there are of each kind, and how one gets those that are missing.

import { get } from "./api.js";
import { find, make } from "./dom.js";

const STARTER = "pip install PATH/starter";

/** A row a kind: its score, whose tokens can be told, and the command that gets a model. */
export const KINDS = {
  dense: { about: "One vector a text, compared by cosine.", get: STARTER },
  "multi-vector": { about: "A vector a token, compared by MaxSim.", get: STARTER },
  sparse: { about: "A weight a vocabulary entry, compared by dot product.", get: STARTER },
  reranker: {
    about: "Reads the query and a document together, and gives a score.",
    get: "tessera pull ms-marco-minilm-l-6-v2",
  },
  vision: { about: "Vectors of page images.", get: STARTER },
  "time-series": { about: "Forecasts of series.", get: STARTER },
};
export const TEXT_KINDS = ["dense", "multi-vector", "sparse", "reranker"];

const descriptions = new Map();

/** All models, open or not, as /info tells them. */
export function modelsOf(info) {
  const closed = info.closed.map((model) => ({ ...model, closed: true }));
  return [...info.models, ...closed];
}

/** Every fact of a model, asked once. */
export async function describe(model, signal) {
  if (!descriptions.has(model)) {
    descriptions.set(model, await get(`v1/describe/${encodeURIComponent(model)}`, signal));
  }
  return descriptions.get(model);
}

/** Fill a select with the models of some kinds; what was chosen stays chosen. */
export function fillSelect(select, models, kinds) {
  const chosen = select.value;
  const groups = kinds.map((kind) => {
    const found = models.filter((model) => model.kinds.includes(kind));
    const label = (model) => (kinds.length > 1 ? `${model.id} (${kind})` : model.id);
    const options = found.map((model) => make("option", { value: `${kind} ${model.id}` }, label(model)));
    const none = make("option", { disabled: true, value: "" }, `none: ${KINDS[kind].get}`);
    return make("optgroup", { label: kind }, options.length ? options : none);
  });
  select.replaceChildren(...(groups.length > 1 ? groups : groups[0].childNodes));
  const values = [...select.options].filter((option) => !option.disabled).map((o) => o.value);
  if (values.length) select.value = values.includes(chosen) ? chosen : values[0];
  return values.length > 0;
}

/** What a select has chosen. */
export function chosen(id) {
  const [kind, ...model] = find(id).value.split(" ");
  return { kind, model: model.join(" ") };
}

/** How one gets models of some kinds. */
export function missing(kinds) {
  const paths = kinds.some((kind) => KINDS[kind].get.includes("PATH"));
  return [
    make("ul", { class: "missing" }, kinds.map((kind) => make("li", {}, absent(kind)))),
    make(
      "p",
      { class: "hint" },
      paths ? "PATH is the folder of a checkout of tessera-onnx. " : "",
      "Start the server again then; ",
      make("code", {}, "tessera serve"),
      " takes the names of its models.",
    ),
  ];
}

function absent(kind) {
  return [
    make("strong", {}, kind),
    ` — ${KINDS[kind].about} `,
    make("span", { class: "command" }, "Not here. Get one with ", make("code", {}, KINDS[kind].get)),
  ];
}
