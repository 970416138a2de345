// The panel of texts: a ranking, and the tokens that make each score.

import { post } from "./api.js";
import { find, fixed, make, onSubmit, show, table } from "./dom.js";
import { KINDS, chosen, describe } from "./models.js";
import { align, bare, marked, occurrences } from "./tokens.js";

const EXPLAINED = 10; // documents of the ranking whose tokens are told
const QUERY = "How can I keep bread fresh for longer?";
const DOCUMENTS = [
  "Wrap the loaf in a linen cloth and keep it in a wooden box.",
  "The night train to Vienna leaves at a quarter past nine.",
  "Sourdough stays soft for days because its crust holds the moisture in.",
  "Turn off the water before you replace the kitchen tap.",
  "A frozen slice tastes newly baked after a minute in the toaster.",
];

/**
 * By kind: (request) => [{score, cut, explain}], in the order of the documents. `cut` are the
 * numbers of tokens that are read and that there are, where they differ.
 */
const SCORERS = { dense, "multi-vector": maxsim, sparse, reranker };

export function start() {
  find("text-query").value = QUERY;
  find("text-documents").value = DOCUMENTS.join("\n");
  find("text-model").addEventListener("change", about);
  onSubmit("text", run, () => show("text-results"));
}

export function about() {
  show("text-about", KINDS[chosen("text-model").kind]?.about ?? "");
}

async function run(signal) {
  const query = find("text-query").value.trim();
  const lines = find("text-documents").value.split("\n").map((line) => line.trim());
  const documents = lines.filter((line) => line !== "");
  if (!query || !documents.length) throw new Error("Give a query and at least one document.");
  const { model, kind } = chosen("text-model");
  const request = { model, query, documents, signal };
  const scored = await SCORERS[kind](request);
  const ranking = scored.map((row, index) => ({ ...row, text: documents[index] }));
  ranking.sort((a, b) => b.score - a.score); // a stable sort: equal scores stay in order
  const explained = await Promise.all(
    ranking.map((row, place) => (place < EXPLAINED && row.explain ? row.explain() : null)),
  );
  const most = Math.max(...ranking.map((row) => row.score));
  const items = ranking.map((row, place) => item(row, explained[place], most));
  show("text-results", make("ol", { class: "ranking" }, items), note(kind, request, ranking.length));
  const many = `${documents.length} document${documents.length > 1 ? "s" : ""}`;
  const cut = request.cut ? ` The model reads ${request.cut.join(" of ")} tokens of the query.` : "";
  return `${many} ranked by ${model} (${kind}).${cut}`;
}

function item(row, explained, most) {
  const bar = make("span", { class: "meter", "aria-hidden": "true" });
  bar.style.setProperty("--part", most > 0 ? Math.max(0, row.score / most).toFixed(3) : "0");
  return make(
    "li",
    {},
    make("span", { class: "score" }, fixed(row.score, 4)),
    make(
      "div",
      { class: "found" },
      bar,
      make("p", {}, explained?.text ?? row.text),
      row.cut ? hint(`The model reads ${row.cut[0]} of ${row.cut[1]} tokens.`) : [],
      explained?.more ?? [],
    ),
  );
}

function note(kind, request, count) {
  const first = count > EXPLAINED ? ` Tokens are shown for the first ${EXPLAINED}.` : "";
  if (kind === "dense") return hint("A dense model compares whole texts: it has no tokens to show.");
  if (kind === "reranker") return hint("A reranker reads both texts at once: it has no tokens to show.");
  if (request.hashed) return hint("The ids of this model are hashes of words: its terms have no names.");
  if (kind === "sparse") return hint("+ marks a term that is no word of the document." + first);
  return first ? hint(first) : [];
}

function hint(text) {
  return make("p", { class: "hint" }, text);
}

async function dense(request) {
  const { model, query, documents, signal } = request;
  const encode = (texts, role) => vectors(model, "dense", texts, role, signal);
  const [question] = await encode([query], "query");
  request.cut = question.cut;
  const found = await encode(documents, "document");
  return found.map(({ vector, cut }) => ({ score: cosine(question.vector, vector), cut }));
}

async function vectors(model, kind, texts, role, signal) {
  const answer = await post("v1/encode", { model, texts, role, kinds: [kind] }, signal);
  return answer.data.map((row) => ({ vector: row[kind], cut: cutOf(row.tokens, row.count) }));
}

function cutOf(tokens, count) {
  return tokens < count ? [tokens, count] : null;
}

function cosine(a, b) {
  const dot = (x, y) => x.reduce((sum, value, i) => sum + value * y[i], 0);
  const size = Math.sqrt(dot(a, a) * dot(b, b));
  return size > 0 ? dot(a, b) / size : 0;
}

async function reranker({ model, query, documents, signal }) {
  const answer = await post("v1/score", { model, query, documents }, signal);
  return answer.scores.map((score, i) => ({ score, cut: cutOf(answer.tokens[i], answer.count[i]) }));
}

async function maxsim(request) {
  const { model, signal } = request;
  return (await reranker(request)).map((row, i) => {
    const explain = async () => {
      const [query, document] = [request.query, request.documents[i]];
      const [{ matches }, { rows }] = await Promise.all([
        post("v1/explain", { model, query, document }, signal),
        post("v1/tokens", { model, texts: [document], role: "document", rows: true }, signal),
      ]);
      const weights = new Map(); // by row of the document
      for (const match of matches) {
        if (!bare(match.query_token)) continue; // of [CLS] and its like
        weights.set(match.document_row, (weights.get(match.document_row) ?? 0) + match.score);
      }
      const spans = align(document, rows[0]).flatMap((span, row) =>
        span && weights.has(row) ? [[...span, weights.get(row)]] : [],
      );
      const cells = matches.map((m) => [m.query_token, m.document_token, fixed(m.score, 4)]);
      const heads = ["Query token", "Best token of the document", "Product"];
      return {
        text: marked(document, spans),
        more: details("Tokens", table("Tokens that make the score", heads, cells, [2])),
      };
    };
    return { ...row, explain };
  });
}

async function sparse(request) {
  const { model, query, documents, signal } = request;
  const [question] = await vectors(model, "sparse", [query], "query", signal);
  request.cut = question.cut;
  const { indices: ids, values } = question.vector;
  const weights = new Map(ids.map((id, i) => [id, values[i]]));
  const found = await vectors(model, "sparse", documents, "document", signal);
  const { spec } = await describe(model, signal);
  request.hashed = spec.lexical !== undefined;
  return found.map(({ vector, cut }, i) => {
    const terms = vector.indices
      .map((id, k) => ({ id, query: weights.get(id) ?? 0, document: vector.values[k] }))
      .filter((term) => term.query !== 0)
      .map((term) => ({ ...term, product: term.query * term.document }))
      .sort((a, b) => b.product - a.product);
    const score = terms.reduce((sum, term) => sum + term.product, 0);
    const explain = terms.length && !request.hashed ? () => explained(documents[i], terms) : null;
    return { score, cut, explain };
  });

  async function explained(document, terms) {
    const ids = terms.map((term) => term.id);
    const { tokens } = await post("v1/tokens", { model, ids }, signal);
    const places = tokens.map((token) => occurrences(document, token));
    const spans = places.flatMap((all, i) => all.map((span) => [...span, terms[i].product]));
    const cells = terms.map((term, i) => [
      tokens[i] + (places[i].length ? "" : " +"),
      ...[term.query, term.document, term.product].map((value) => fixed(value, 4)),
    ]);
    const heads = ["Term", "Query", "Document", "Product"];
    return {
      text: marked(document, spans),
      more: details("Terms", table("Terms that make the score", heads, cells, [1, 2, 3])),
    };
  }
}

function details(title, ...content) {
  return make("details", {}, make("summary", {}, title), content);
}
