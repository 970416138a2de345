// A fan chart as SVG: the end of a series, the median of its forecast, and a band a pair of levels.

import { draw, short } from "./dom.js";

const HEIGHT = 340;
const SPACE = { left: 56, right: 12, top: 12, bottom: 34 };
const TICKS = 5;
const PAST = 3; // values of the past that are drawn for each step of the forecast
const LEAST = 48; // and at least so many

/** A round step, of 1, 2 or 5 times a power of ten, so that `count` of them fill `span`. */
function roundStep(span, count) {
  const step = 10 ** Math.floor(Math.log10(span / count));
  return step * ([1, 2, 5, 10].find((factor) => factor * step * count >= span) ?? 10);
}

/**
 * @param past numbers, null where a value is missing
 * @param steps a list of numbers for each step, in the order of the levels
 * @param levels rising; one that stands in the middle is the line
 */
export function fanChart(width, past, steps, levels, label) {
  const shown = past.slice(-Math.max(LEAST, PAST * steps.length));
  const known = [...shown, ...steps.flat()].filter((value) => value !== null);
  let [low, high] = [Math.min(...known), Math.max(...known)];
  if (low === high) [low, high] = [low - 1, high + 1];
  const step = roundStep(high - low, TICKS);
  [low, high] = [Math.floor(low / step) * step, Math.ceil(high / step) * step];
  const [first, last] = [1 - shown.length, steps.length]; // step 0 is the last value of the past
  const x = (at) =>
    SPACE.left + ((at - first) / (last - first)) * (width - SPACE.left - SPACE.right);
  const y = (value) =>
    SPACE.top + ((high - value) / (high - low)) * (HEIGHT - SPACE.top - SPACE.bottom);
  const points = (values, from) => values.map((value, i) => [x(from + i), value === null ? null : y(value)]);

  const chart = draw("svg", {
    ...{ width, height: HEIGHT, viewBox: `0 0 ${width} ${HEIGHT}`, role: "img", "aria-label": label },
  });
  for (let value = low; value <= high + step / 2; value += step) {
    const place = y(value);
    chart.append(
      draw("line", { class: "grid", x1: SPACE.left, x2: width - SPACE.right, y1: place, y2: place }),
      draw("text", { class: "tick end", x: SPACE.left - 8, y: place + 4 }, short(value)),
    );
  }
  const wide = Math.max(1, roundStep(last - first, Math.max(2, Math.floor(width / 90))));
  for (let at = Math.ceil(first / wide) * wide; at <= last; at += wide) {
    chart.append(draw("text", { class: "tick middle", x: x(at), y: HEIGHT - 12 }, at > 0 ? `+${at}` : short(at)));
  }
  const last_known = shown.at(-1);
  const join = (values) => (last_known === null ? points(values, 1) : points([last_known, ...values], 0));
  for (let i = 0; i < Math.floor(levels.length / 2); i += 1) {
    const [lower, upper] = [i, levels.length - 1 - i].map((k) => join(steps.map((row) => row[k])));
    const path = `${line(lower)}L${line(upper.reverse()).slice(1)}Z`;
    chart.append(draw("path", { class: `band band-${i}`, d: path }));
  }
  chart.append(
    draw("line", { class: "now", x1: x(0), x2: x(0), y1: SPACE.top, y2: HEIGHT - SPACE.bottom }),
    draw("path", { class: "past", d: line(points(shown, first)) }),
    draw("path", { class: "median", d: line(join(steps.map((row) => row[Math.floor(row.length / 2)]))) }),
  );
  return chart;
}

/** A path through points; it begins anew behind a missing value. */
function line(points) {
  let path = "";
  let on = false;
  for (const [x, y] of points) {
    if (y !== null) path += `${on ? "L" : "M"}${x.toFixed(1)} ${y.toFixed(1)}`;
    on = y !== null;
  }
  return path;
}
