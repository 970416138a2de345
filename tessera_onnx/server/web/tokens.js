// Find the tokens of a model in a text, so that they can be marked there.

import { make } from "./dom.js";

const SPECIAL = /^(\[.+\]|<.+>)$/;
const WORD = /[\p{L}\p{N}]/u;

/** The text in small letters without accents, and for each of its units the place in the text. */
function fold(text) {
  const places = [];
  let folded = "";
  let place = 0;
  for (const letter of text) {
    const plain = letter.normalize("NFD").replace(/\p{M}/gu, "").toLowerCase();
    for (let i = 0; i < plain.length; i += 1) places.push(place);
    folded += plain;
    place += letter.length;
  }
  places.push(text.length);
  return { folded, places };
}

/** A token without the marks of WordPiece ("##"), SentencePiece ("▁") and byte pairs ("Ġ"). */
export function bare(token) {
  return SPECIAL.test(token) ? "" : token.replace(/^(##|[▁Ġ]+)/u, "");
}

/** Where each token of a text stands in it: [start, end], or null for one that stands nowhere. */
export function align(text, tokens) {
  const { folded, places } = fold(text);
  let at = 0;
  let lost = false; // whether a token before this one was not found
  return tokens.map((token) => {
    const sought = fold(bare(token)).folded;
    const found = sought ? folded.indexOf(sought, at) : -1;
    if (found < 0 || (!lost && WORD.test(folded.slice(at, found)))) {
      lost ||= sought !== "";
      return null;
    }
    at = found + sought.length;
    lost = false;
    return [places[found], places[at]];
  });
}

/** Where a vocabulary entry stands in a text as a word, or as a piece of one. */
export function occurrences(text, token) {
  const { folded, places } = fold(text);
  const sought = fold(bare(token)).folded;
  const inside = token.startsWith("##");
  const found = [];
  for (let at = sought ? folded.indexOf(sought) : -1; at >= 0; at = folded.indexOf(sought, at + 1)) {
    const end = at + sought.length;
    const before = at > 0 && WORD.test(folded[at - 1]);
    const behind = end < folded.length && WORD.test(folded[end]);
    if (inside ? before : !before && !(behind && WORD.test(sought))) found.push([places[at], places[end]]);
  }
  return found;
}

/** The text as nodes, with marks over [start, end, weight]; the largest weight is the strongest. */
export function marked(text, spans) {
  const kept = spans.filter(([, , weight]) => weight > 0).sort((a, b) => a[0] - b[0]);
  const most = Math.max(...kept.map(([, , weight]) => weight), 1e-9);
  const nodes = [];
  let at = 0;
  for (const [start, end, weight] of kept) {
    if (start < at) continue;
    const mark = make("mark", {}, text.slice(start, end));
    mark.style.setProperty("--weight", (weight / most).toFixed(3));
    nodes.push(text.slice(at, start), mark);
    at = end;
  }
  return [...nodes, text.slice(at)];
}
