// SPDX-License-Identifier: Apache-2.0
// Engines behind one interface, in Node and in web pages: create(entry, place) gives a function that takes nothing,
// computes one inference of the entry's inputs, and gives the first output as Float32Array. One thread each.
// An entry is {"name", "engine", "file", "inputs": [{"name", "file", "shape"}]}; files are relative to the page, or
// paths in Node. A place says how to read a file and where the libraries are; see interleave.mjs and browser.html.
import { build } from "./peers_tfjs.mjs";

export async function create(entry, place) {
  const inputs = [];
  for (const input of entry.inputs) inputs.push({ ...input, data: new Float32Array(await place.read(input.file)) });
  return engines[entry.engine](entry.file, inputs, place);
}

const engines = {
  async sparsec(folder, inputs, place) {
    const { load } = await place.module(`${folder}/model.mjs`);
    const model = await load();
    const feeds = Object.fromEntries(inputs.map(({ name, data }) => [name, data]));
    return async () => first(Object.values(await model.run(feeds)));
  },

  async "onnxruntime-web"(file, inputs, place) {
    const ort = await place.onnxruntime();
    ort.env.wasm.numThreads = 1;
    const session = await ort.InferenceSession.create(new Uint8Array(await place.read(file)), {
      executionProviders: ["wasm"],
    });
    const feeds = {};
    for (const { name, data, shape } of inputs) feeds[name] = new ort.Tensor("float32", data, shape);
    return async () => (await session.run(feeds))[session.outputNames[0]].data;
  },

  async tfjs(folder, inputs, place) {
    const tf = await place.tfjs();
    const description = JSON.parse(new TextDecoder().decode(await place.read(`${folder}/layers.json`)));
    const run = build(tf, description, new Uint8Array(await place.read(`${folder}/layers.bin`)));
    const [data, shape] = channelsLast(inputs[0]);
    return async () => {
      const image = tf.tensor(data, shape);
      const output = run(image);
      const values = output.dataSync();
      tf.dispose([image, output]);
      return values;
    };
  },

  async litert(file, inputs, place) {
    const litert = await place.litert();
    const model = await litert.loadAndCompile(new Uint8Array(await place.read(file)), { accelerator: "wasm" });
    const [data, shape] = channelsLast(inputs[0]);
    return async () => {
      const image = new litert.Tensor(data, shape);
      const outputs = await model.run(image);
      const values = outputs[0].toTypedArray();
      for (const tensor of [image, ...outputs]) tensor.delete();
      return values;
    };
  },
};

function first(outputs) {
  return outputs[0].data ?? outputs[0];
}

// [1, channels, h, w] to [1, h, w, channels].
function channelsLast({ data, shape: [, channels, height, width] }) {
  const turned = new Float32Array(data.length);
  for (let c = 0; c < channels; c++)
    for (let i = 0; i < height * width; i++) turned[i * channels + c] = data[c * height * width + i];
  return [turned, [1, height, width, channels]];
}

// By name: milliseconds of every round, after some that do not count; the output; milliseconds from nothing to the first
// output, with loading the engine and the model. An engine that cannot be created gives its error instead.
export async function interleave({ entries, rounds, warm = 3 }, place) {
  const runs = new Map();
  const found = Object.fromEntries(entries.map(({ name }) => [name, { times: [], output: [], first: null, error: null }]));
  for (const entry of entries) {
    try {
      const start = performance.now();
      runs.set(entry.name, await create(entry, place));
      const output = await runs.get(entry.name)();
      found[entry.name].first = performance.now() - start;
      found[entry.name].output = Array.from(output);
    } catch (error) {
      runs.delete(entry.name);
      found[entry.name].error = String(error?.stack ?? error);
    }
  }
  for (let round = -warm; round < rounds; round++) {
    for (const [name, run] of runs) {
      const start = performance.now();
      await run();
      if (round >= 0) found[name].times.push(performance.now() - start);
    }
  }
  return found;
}
