// SPDX-License-Identifier: Apache-2.0
// Times exported kernels of one WebAssembly module; prints microseconds of the fastest call of each, as JSON.
import { readFileSync } from "node:fs";
import { join } from "node:path";

const { folder, milliseconds, rounds, calls } = JSON.parse(process.argv[2]);
const { instance } = await WebAssembly.instantiate(readFileSync(join(folder, "kernels.wasm")), {});
const { memory, __heap_base: heap, ...kernels } = instance.exports;
const data = readFileSync(join(folder, "data.bin"));
const base = Math.ceil(heap.value / 64) * 64;
memory.grow(Math.ceil((base + data.length) / 65536));
new Uint8Array(memory.buffer).set(data, base);

const best = calls.map(() => Infinity);
for (let round = 0; round < rounds; round++) {
  calls.forEach(({ name, places }, number) => {
    const pointers = places.map((place) => base + place);
    const end = performance.now() + milliseconds;
    while (performance.now() < end) {
      const start = performance.now();
      kernels[name](...pointers);
      best[number] = Math.min(best[number], performance.now() - start);
    }
  });
}
console.log(JSON.stringify(best.map((value) => 1e3 * value)));
