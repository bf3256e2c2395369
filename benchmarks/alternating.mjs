// SPDX-License-Identifier: Apache-2.0
// Calls exported kernels of one WebAssembly module in turn; prints microseconds of every call of each, as JSON.
import { readFileSync } from "node:fs";
import { join } from "node:path";

const { folder, milliseconds, calls } = JSON.parse(process.argv[2]);
const { instance } = await WebAssembly.instantiate(readFileSync(join(folder, "kernels.wasm")), {});
const { memory, __heap_base: heap, ...kernels } = instance.exports;
const data = readFileSync(join(folder, "data.bin"));
const base = Math.ceil(heap.value / 64) * 64;
memory.grow(Math.ceil((base + data.length) / 65536));
new Uint8Array(memory.buffer).set(data, base);

const run = ({ name, places }) => kernels[name](...places.map((place) => base + place));
const warm = performance.now() + Math.max(100, milliseconds / 10);
while (performance.now() < warm) calls.forEach(run);
const times = calls.map(() => []);
const end = performance.now() + milliseconds;
while (performance.now() < end) {
  calls.forEach((call, i) => {
    const start = performance.now();
    run(call);
    times[i].push(1e3 * (performance.now() - start));
  });
}
console.log(JSON.stringify(times));
