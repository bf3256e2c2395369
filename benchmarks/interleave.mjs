// SPDX-License-Identifier: Apache-2.0
// Times engines in one Node process, interleaved: node interleave.mjs CONFIG, see contenders.mjs. Prints JSON.
import { createRequire } from "node:module";
import { readFile } from "node:fs/promises";
import { dirname } from "node:path";
import { pathToFileURL } from "node:url";
import { interleave } from "./contenders.mjs";

const require = createRequire(import.meta.url);

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
    await tf.setBackend("wasm");
    return tf;
  },
  async litert() {
    throw new Error("LiteRT.js runs in web pages only.");
  },
};

const found = await interleave(JSON.parse(await readFile(process.argv[2], "utf-8")), place);
process.stdout.write(JSON.stringify(found), () => process.exit(0));
