// The panel of pages: a similarity map over an image, and the region of each query token.

import { post } from "./api.js";
import { find, fixed, make, onSubmit, show } from "./dom.js";
import { chosen } from "./models.js";
import { bare } from "./tokens.js";

const EXAMPLE = "web/page.png";
const QUERY = "keep bread fresh";
const FEW = 0.5; // of the cells: where fewer have a vector, each shines on its neighbours
const REACH = 2; // cells that it reaches
const COLD = [255, 196, 84];
const HOT = [214, 40, 32];
const OPACITY = 0.8;
const FRAME = 4; // pixels between a region and the box around it

let file = null; // a Blob; null is the example
let shown = null; // the answer that is drawn: {answer, bitmap, name, query, token}

export function start() {
  find("page-query").value = QUERY;
  find("page-file").addEventListener("change", (event) => take(event.target.files[0]));
  find("page-example").addEventListener("click", () => {
    find("page-file").value = "";
    take(null);
  });
  const drop = find("page-drop");
  for (const name of ["dragenter", "dragover", "dragleave", "drop"]) {
    drop.addEventListener(name, (event) => {
      event.preventDefault();
      drop.classList.toggle("over", name.startsWith("drage") || name === "dragover");
      if (name === "drop" && event.dataTransfer.files.length) take(event.dataTransfer.files[0]);
    });
  }
  onSubmit("page", run, clear);
}

/** Draw the image that will be asked about, as soon as the panel is seen. */
export async function opened() {
  if (shown === null) await preview();
}

async function take(chosenFile) {
  clear(); // the regions of the page before are not those of this one
  file = chosenFile ?? null;
  find("page-name").textContent = file ? `${file.name}.` : "The example page.";
  find("page-example").hidden = file === null;
  await preview();
}

async function preview() {
  const { bitmap, name } = await image();
  shown = { answer: null, bitmap, name };
  find("page-error").hidden = true;
  find("page-state").textContent = "The similarity map will lie over the page.";
  clear();
}

/** The image without a map. */
function clear() {
  if (shown === null) return;
  shown.answer = null;
  show("page-regions");
  find("page-legend").hidden = true;
  paint();
}

/** The bytes of the image, and its pixels where the browser can decode it. */
async function image() {
  const blob = file ?? (await (await fetch(EXAMPLE)).blob());
  const bitmap = await createImageBitmap(blob).catch(() => null);
  return { blob, bitmap, name: file ? file.name : "the example page" };
}

async function run(signal) {
  const query = find("page-query").value.trim();
  if (!query) throw new Error("Give a query.");
  const { model } = chosen("page-model");
  const { blob, bitmap, name } = await image();
  const body = { model, query, image: await dataUri(blob) };
  const answer = await post("v1/explain", body, signal);
  if (signal.aborted) throw signal.reason;
  shown = { answer, bitmap, name, query, token: null };
  paint();
  list();
  const best = answer.regions.filter((region) => bare(region.token));
  best.sort((a, b) => b.score - a.score);
  const where = best.length ? ` “${best[0].token}” matches best, with ${fixed(best[0].score)}.` : "";
  const told = answer.warnings.map((warning) => ` ${warning}.`).join("");
  return `${model} read ${name}.${where}${told}`;
}

function dataUri(blob) {
  return new Promise((resolve, reject) => {
    const reader = new FileReader();
    reader.onload = () => resolve(reader.result);
    reader.onerror = () => reject(new Error("The file cannot be read."));
    reader.readAsDataURL(blob);
  });
}

/** The map of one token, or the mean of all tokens: rows of numbers, null where no vector is. */
function grid() {
  const { answer, token } = shown;
  if (token !== null) return answer.map[token];
  const count = answer.map.length;
  return answer.map[0].map((row, i) =>
    row.map((first, j) =>
      first === null ? null : answer.map.reduce((sum, one) => sum + one[i][j], 0) / count,
    ),
  );
}

function paint() {
  const { answer, bitmap, name } = shown;
  const canvas = find("page-canvas");
  const [width, height] = answer ? [answer.width, answer.height] : [bitmap?.width, bitmap?.height];
  canvas.width = width ?? 600;
  canvas.height = height ?? 200;
  const pen = canvas.getContext("2d");
  pen.fillStyle = "white";
  pen.fillRect(0, 0, canvas.width, canvas.height);
  if (bitmap) pen.drawImage(bitmap, 0, 0, canvas.width, canvas.height);
  canvas.setAttribute("aria-label", answer ? described() : `The image: ${name}`);
  if (answer) heat(pen, grid());
}

function described() {
  const { answer, token, query } = shown;
  const of = token === null ? `“${query}”` : `the token “${named(token)}”`;
  const region = answer.regions.find((each) => each.index === token);
  const where = region ? `, highest at the pixels ${region.box.join(", ")}` : "";
  return `Similarity map of ${of} over ${shown.name}${where}`;
}

function named(token) {
  return shown.answer.regions.find((region) => region.index === token)?.token || `token ${token}`;
}

function heat(pen, map) {
  const [left, top, right, bottom] = shown.answer.box;
  const [rows, columns] = [map.length, map[0].length];
  const found = map.flatMap((cells, row) =>
    cells.flatMap((value, column) => (value === null ? [] : [{ value, row, column }])),
  );
  if (!found.length) return;
  const values = found.map((cell) => cell.value);
  const [low, most] = [Math.min(...values), Math.max(...values)];
  const field = new Float32Array(rows * columns); // from 0, the lowest cell, to 1, the highest
  const reach = found.length < FEW * rows * columns ? REACH : 0;
  for (const { value, row, column } of found) {
    const part = (value - low) / Math.max(most - low, 1e-12);
    for (let i = Math.max(0, row - reach); i <= Math.min(rows - 1, row + reach); i += 1) {
      for (let j = Math.max(0, column - reach); j <= Math.min(columns - 1, column + reach); j += 1) {
        const near = 1 - Math.hypot(i - row, j - column) / (reach + 1);
        field[i * columns + j] = Math.max(field[i * columns + j], part * near);
      }
    }
  }
  pen.imageSmoothingQuality = "high";
  pen.drawImage(coloured(field, rows, columns), left, top, right - left, bottom - top);
  frame(pen);
  find("page-low").textContent = fixed(low);
  find("page-high").textContent = fixed(most);
  find("page-legend").hidden = false;
}

/** The field as a small image, a pixel a cell: the higher, the redder and the less transparent. */
function coloured(field, rows, columns) {
  const small = new OffscreenCanvas(columns, rows);
  const pen = small.getContext("2d");
  const image = pen.createImageData(columns, rows);
  field.forEach((part, i) => {
    const colour = COLD.map((cold, k) => cold + (HOT[k] - cold) * part);
    image.data.set([...colour, 255 * OPACITY * part * part], 4 * i);
  });
  pen.putImageData(image, 0, 0);
  return small;
}

/** A box around the best region of the chosen token. */
function frame(pen) {
  const region = shown.answer.regions.find((each) => each.index === shown.token);
  if (!region) return;
  const [left, top, right, bottom] = region.box;
  pen.strokeStyle = "#1f5fa8";
  pen.lineWidth = 2.5;
  pen.strokeRect(left - FRAME, top - FRAME, right - left + 2 * FRAME, bottom - top + 2 * FRAME);
}

/** The best region of each query token, as buttons that show the map of the token. */
function list() {
  const { answer } = shown;
  const regions = [...answer.regions].sort((a, b) => b.score - a.score);
  const button = (token, ...content) =>
    make(
      "button",
      {
        type: "button",
        "aria-pressed": String(token === shown.token),
        onclick: (event) => {
          shown.token = token;
          for (const each of event.currentTarget.closest("ul").querySelectorAll("button")) {
            each.setAttribute("aria-pressed", String(each === event.currentTarget));
          }
          paint();
        },
      },
      content,
    );
  const rows = regions.map((region) =>
    make(
      "li",
      {},
      button(
        region.index,
        make("span", { class: "token" }, region.token || `token ${region.index}`),
        make("span", { class: "place" }, `x ${region.box[0]}–${region.box[2]}, y ${region.box[1]}–${region.box[3]}`),
        make("span", { class: "number" }, fixed(region.score, 4)),
      ),
    ),
  );
  const all = make("li", {}, button(null, make("span", { class: "token" }, "all tokens"),
    make("span", { class: "place" }, "mean of their maps")));
  show(
    "page-regions",
    make("h2", {}, "Best region of each token"),
    make("ul", { class: "regions" }, all, rows),
  );
}
