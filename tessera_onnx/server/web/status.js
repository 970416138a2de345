// The panel of the server: its models, what it runs on, and how one gets kinds that are missing.

import { make, show, table } from "./dom.js";
import { KINDS, missing, modelsOf } from "./models.js";

export function update(info, ready) {
  const facts = [
    ["State", ready],
    ["tessera-onnx", info.version],
    ["ONNX Runtime", info.onnxruntime ?? "not installed"],
    ["Processor", info.processor],
    ["Threads", String(info.threads)],
  ];
  show(
    "status-facts",
    make("dl", {}, facts.flatMap(([name, value]) => [make("dt", {}, name), make("dd", {}, value)])),
  );
  const heads = ["Model", "Kinds", "State", "Licence"];
  const rows = modelsOf(info).map((model) => [
    model.id,
    model.kinds.join(", "),
    model.closed ? "opens at its first use" : `open: ${model.precision ?? "no graph"}, ${model.device}`,
    model.licence,
  ]);
  show("status-models", rows.length ? table("Models", heads, rows) : make("p", {}, "None yet."));
  const known = new Set(modelsOf(info).flatMap((model) => model.kinds));
  const absent = Object.keys(KINDS).filter((kind) => !known.has(kind));
  show(
    "status-missing",
    absent.length ? [make("h2", {}, "Kinds that are not here"), missing(absent)].flat() : [],
  );
}
