// The panel of forecasts: values in, a fan chart and a table out.

import { post } from "./api.js";
import { fanChart } from "./chart.js";
import { find, make, onSubmit, short, show, table } from "./dom.js";
import { chosen, describe } from "./models.js";

const LEVELS = [0.1, 0.25, 0.5, 0.75, 0.9];
const MISSING = /^(nan|null|na)$/i;
// Eight years of months: a trend, a season, and what neither explains.
const SERIES = Array.from({ length: 96 }, (_, i) =>
  (100 + i / 2 + 20 * Math.sin((2 * Math.PI * i) / 12) + 8 * Math.sin(i * i)).toFixed(1),
);

let drawn = null; // what the chart shows, which is drawn anew at another width

export function start() {
  find("forecast-series").value = SERIES.join(" ");
  onSubmit("forecast", run, () => {
    drawn = null;
    show("forecast-chart");
    show("forecast-table");
  });
  new ResizeObserver(paint).observe(find("forecast-chart"));
}

/** The numbers of a text; null is a missing value. */
export function parse(text) {
  const words = text.split(/[\s,;]+/).filter((word) => word !== "");
  return words.map((word, i) => {
    if (MISSING.test(word)) return null;
    const value = Number(word);
    if (!Number.isFinite(value)) throw new Error(`Value ${i + 1} is no number: “${word}”.`);
    return value;
  });
}

async function run(signal) {
  const series = parse(find("forecast-series").value);
  const horizon = find("forecast-horizon").valueAsNumber;
  if (!series.length) throw new Error("Give some values.");
  if (!Number.isInteger(horizon) || horizon < 1) {
    throw new Error("Steps to forecast must be a whole number from 1 up.");
  }
  const { model } = chosen("forecast-model");
  const { spec } = await describe(model, signal);
  const isPoint = spec.time_series.point !== undefined; // one value a step, no quantiles
  const levels = isPoint ? {} : { levels: LEVELS };
  const answer = await post("v1/forecast", { model, series: [series], horizon, ...levels }, signal);
  const steps = answer.data[0].quantiles;
  const names = isPoint ? ["Forecast"] : LEVELS.map((level) => `${level * 100} %`);
  drawn = { series, steps, model };
  paint();
  const rows = steps.map((step, i) => [`+${i + 1}`, ...step.map(short)]);
  const columns = names.map((_, i) => i + 1);
  show(
    "forecast-table",
    isPoint ? [] : legend(),
    make(
      "details",
      {},
      make("summary", {}, "Numbers"),
      table("Quantiles of each step", ["Step", ...names], rows, columns),
    ),
  );
  const told = answer.warnings.map((warning) => ` ${warning}.`).join("");
  return `${horizon} steps forecast by ${model} from ${series.length} values.${told}`;
}

function legend() {
  const item = (name, text) => make("li", {}, make("span", { class: `key ${name}`, "aria-hidden": "true" }), text);
  return make(
    "ul",
    { class: "legend" },
    item("past", "history"),
    item("median", "median"),
    item("band-1", "25–75 %"),
    item("band-0", "10–90 %"),
  );
}

function paint() {
  const place = find("forecast-chart");
  if (drawn === null || !place.clientWidth) return;
  const { series, steps, model } = drawn;
  const levels = steps[0].length === LEVELS.length ? LEVELS : [0.5];
  const middle = (step) => short(step[Math.floor(step.length / 2)]);
  const label =
    `Forecast of ${steps.length} steps by ${model}: the median goes from ${middle(steps[0])} ` +
    `to ${middle(steps.at(-1))}. The numbers are in the table below.`;
  place.replaceChildren(fanChart(place.clientWidth, series, steps, levels, label));
}
