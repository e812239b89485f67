// Compiled against the types that openapi-typescript makes of openapi.yaml, and run against a service.

import type { paths } from "./nabla";

declare const process: { argv: string[] };

type Body<P extends keyof paths> = paths[P] extends { post: { requestBody?: infer R } }
  ? R extends { content: { "application/json": infer B } }
    ? B
    : never
  : never;

type Answer<P extends keyof paths, M extends "get" | "post"> = paths[P] extends {
  [method in M]: { responses: infer R };
}
  ? R extends { 200: { content: { "application/json": infer A } } } | { 202: { content: { "application/json": infer A } } }
    ? A
    : never
  : never;

// Every operation has types: nothing is `never`, `any` or `unknown`. Metrics are text, and openapi.yaml is YAML.
type Vague<T> = [T] extends [never] ? true : unknown extends T ? true : false;
type With<M extends "get" | "post"> = {
  [P in keyof paths]: paths[P] extends { [method in M]: object } ? P : never;
}[keyof paths];
type Untyped =
  | { [P in With<"post">]: true extends Vague<Body<P>> | Vague<Answer<P, "post">> ? P : never }[With<"post">]
  | { [P in With<"get">]: Vague<Answer<P, "get">> extends true ? P : never }[With<"get">];
// A request to cancel has no body.
type Expected = "/metrics" | "/openapi.yaml" | "/v1/runs/{id}/cancel";
const untyped: [Exclude<Untyped, Expected>] extends [never] ? true : false = true;

async function call<P extends With<"post">>(path: P, body: Body<P>): Promise<Answer<P, "post">> {
  const headers = { "Content-Type": "application/json" };
  const response = await fetch(process.argv[2] + path, { method: "POST", headers, body: JSON.stringify(body) });
  if (!response.ok) throw new Error(await response.text());
  return (await response.json()) as Answer<P, "post">;
}

const gradients = await call("/v1/gradients", {
  network: {
    layers: [
      { type: "dropout", rate: 0.5 },
      { type: "dense", name: "line", units: 1, activation: { type: "leaky_relu", alpha: 0.1 } },
    ],
  },
  parameters: { line: { kernel: [[0.5]], bias: [0] } },
  inputs: [[1], [2]],
  targets: [[1], [3]],
  loss: "squared_error",
  reduction: "sum",
});
const kernel = gradients.gradients["line"]?.["kernel"];

const training = await call("/v1/train", {
  network: { layers: [{ type: "dense", name: "line", units: 1 }] },
  parameters: { line: { kernel: [[0.5]], bias: [0] } },
  inputs: [[1], [2]],
  targets: [[1], [3]],
  loss: { type: "huber", delta: 10 },
  optimizer: { type: "sgd", learning_rate: 0.125 },
  schedule: "constant",
  steps: 2,
  trace: { every: 1, include: ["gradients"] },
});
const losses: (number | null)[] = training.steps.map((step) => step.loss);

const descent = await call("/v1/functions/descend", {
  expression: "x^2 + y^2",
  starts: [[1, 2]],
  optimizers: ["adam", { type: "sgd", learning_rate: 0.25 }],
  steps: 3,
  noise: { scale: 0 },
});
const ends: { status: string; value: number | null; steps: number }[] = descent.runs.map((run) => ({
  status: run.status,
  value: run.value,
  steps: run.steps_done,
}));

type Layer = Extract<Body<"/v1/forward">["network"], { layers: unknown }>["layers"][number];
const inside: Layer[] = [
  { type: "bidirectional", layer: { type: "lstm", units: 2 } },
  { type: "time_distributed", layer: { type: "bidirectional", layer: { type: "gru", units: 2 } } },
  { type: "time_distributed", layer: "flatten" },
];

// What the service refuses, the types refuse too.
// @ts-expect-error: a layer of this type does not exist
const noLayer: Body<"/v1/forward"> = { network: { layers: [{ type: "densse", units: 1 }] }, inputs: [[1]] };
// @ts-expect-error: a number in quotation marks is no number
const noNumber: Body<"/v1/forward"> = { network: { layers: [{ type: "dense", units: 1 }] }, inputs: [["1"]] };
// @ts-expect-error: the key is learning_rate
const noKey: Body<"/v1/train">["optimizer"] = { type: "sgd", learningrate: 1 };
// @ts-expect-error: only a recurrent layer reads a sequence in two directions
const noDirection: Layer = { type: "bidirectional", layer: { type: "dense", units: 2 } };
// @ts-expect-error: a sum takes several layers, and each step is one
const noStep: Layer = { type: "time_distributed", layer: { type: "add" } };

console.log(JSON.stringify({ untyped, kernel, losses, ends }));
