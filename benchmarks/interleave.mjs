// SPDX-License-Identifier: Apache-2.0
// Time several models in one process, interleaved: node interleave.mjs '{"rounds": 15, "entries": [...]}'
// An entry is {"name", "artifact": folder} or {"name", "onnx": file, "input": {"name", "file", "shape"}}.
// Prints JSON: name -> milliseconds of every round. One thread each.
import { createRequire } from "node:module";
import { readFile } from "node:fs/promises";
import { pathToFileURL } from "node:url";

const config = JSON.parse(process.argv[2]);

async function artifact({ artifact, inputs }) {
  const { load } = await import(pathToFileURL(`${artifact}/model.mjs`));
  const model = await load();
  const feeds = {};
  for (const input of inputs) {
    feeds[input.name] = new Float32Array((await readFile(input.file)).buffer.slice(0));
  }
  return () => model.run(feeds);
}

async function onnxruntime({ onnx, inputs }) {
  const ort = createRequire(import.meta.url)("onnxruntime-web");
  ort.env.wasm.numThreads = 1;
  const session = await ort.InferenceSession.create(new Uint8Array(await readFile(onnx)), {
    executionProviders: ["wasm"],
  });
  const feeds = {};
  for (const input of inputs) {
    const data = new Float32Array((await readFile(input.file)).buffer.slice(0));
    feeds[input.name] = new ort.Tensor("float32", data, input.shape);
  }
  return () => session.run(feeds);
}

const runs = new Map();
for (const entry of config.entries) {
  runs.set(entry.name, await (entry.artifact ? artifact(entry) : onnxruntime(entry)));
}
const times = Object.fromEntries([...runs.keys()].map((name) => [name, []]));
for (let round = -3; round < config.rounds; round++) {
  for (const [name, run] of runs) {
    const start = performance.now();
    await run();
    if (round >= 0) times[name].push(performance.now() - start);
  }
}
process.stdout.write(JSON.stringify(times));
