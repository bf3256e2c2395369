// SPDX-License-Identifier: Apache-2.0
// Times engines in one Node process, interleaved: node interleave.mjs CONFIG FOUND, see contenders.mjs; both are JSON
// files, because engines print to the standard output.
import { readFileSync } from "node:fs";
import { readFile, writeFile } from "node:fs/promises";
import { createRequire } from "node:module";
import { dirname, join } from "node:path";
import { pathToFileURL } from "node:url";
import { runInThisContext } from "node:vm";
import { interleave } from "./contenders.mjs";

const require = createRequire(import.meta.url);
const [config, file] = process.argv.slice(2);

const place = {
  async read(file) {
    const data = await readFile(file);
    return data.buffer.slice(data.byteOffset, data.byteOffset + data.byteLength);
  },
  module: (path) => import(pathToFileURL(path)),
  onnxruntime: async () => require("onnxruntime-web"),
  async tfjs() {
    const tf = require("@tensorflow/tfjs-core");
    const wasm = require("@tensorflow/tfjs-backend-wasm");
    wasm.setWasmPaths(`${dirname(require.resolve("@tensorflow/tfjs-backend-wasm"))}/`);
    wasm.setThreadsCount(1);
    await tf.setBackend("wasm");
    return tf;
  },
  async litert() {
    const litert = await import("@litertjs/core");
    await (place.loaded ??= loadLiteRt(litert));
    return litert;
  },
};

// LiteRT.js is made for web pages and workers: it loads its module as a script, which in Node looks for CommonJS.
async function loadLiteRt(litert) {
  const folder = join(dirname(require.resolve("@litertjs/core/package.json")), "wasm");
  Object.assign(globalThis, { self: globalThis, require, __dirname: folder, __filename: join(folder, "litert.js") });
  globalThis.importScripts = (path) => runInThisContext(readFileSync(path, "utf-8"), { filename: path });
  await litert.loadLiteRt(`${folder}/`);
  for (const name of ["importScripts", "self"]) delete globalThis[name]; // other engines would take this for a worker
}

const found = await interleave(JSON.parse(await readFile(config, "utf-8")), place);
await writeFile(file, JSON.stringify(found));
process.exit(0);
