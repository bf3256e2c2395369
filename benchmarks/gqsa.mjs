// SPDX-License-Identifier: Apache-2.0
// Times exported kernels of a WebAssembly module and onnxruntime-web models in turn; prints milliseconds of each round.
import { readFileSync } from "node:fs";
import { createRequire } from "node:module";
import { join } from "node:path";

const { folder, rounds, kernels, models, shape } = JSON.parse(process.argv[2]);
const { instance } = await WebAssembly.instantiate(readFileSync(join(folder, "kernels.wasm")), {});
const { memory, __heap_base: heap, ...functions } = instance.exports;
const data = readFileSync(join(folder, "data.bin"));
const base = Math.ceil(heap.value / 64) * 64;
memory.grow(Math.ceil((base + data.length) / 65536));
new Uint8Array(memory.buffer).set(data, base);

const runs = new Map();
for (const { title, name, places } of kernels) {
  const pointers = places.map((place) => base + place);
  runs.set(title, () => functions[name](...pointers));
}
const ort = createRequire(import.meta.url)("onnxruntime-web");
ort.env.wasm.numThreads = 1;
const x = new ort.Tensor("float32", new Float32Array(new Uint8Array(readFileSync(join(folder, "x.bin"))).buffer), shape);
for (const title of models) {
  const model = new Uint8Array(readFileSync(join(folder, `${title}.onnx`)));
  const session = await ort.InferenceSession.create(model, { executionProviders: ["wasm"] });
  runs.set(title, () => session.run({ x }));
}
for (const { title } of kernels) {
  for (let i = 0; i < 100; i++) runs.get(title)(); // until V8 has optimized it
  await new Promise((resolve) => setTimeout(resolve, 200));
}
const times = Object.fromEntries([...runs.keys()].map((title) => [title, []]));
for (let round = -3; round < rounds; round++) {
  for (const [title, run] of runs) {
    const start = performance.now();
    await run();
    if (round >= 0) times[title].push(performance.now() - start);
  }
}
process.stdout.write(JSON.stringify(times));
