# SPDX-License-Identifier: Apache-2.0
import json
import shutil
import subprocess
from dataclasses import replace

import numpy as np
import pytest
import wasmtime

from sparsec.backends.isa import ISAS
from sparsec.backends.tuning.timing import relaxed_flag
from sparsec.backends.wasm import emit, loader
from sparsec.backends.wasm.run import Runner
from sparsec.compiler.errors import ArtifactError, TargetError, ToolchainError
from sparsec.compiler.lowering.program import Port
from sparsec.compiler.manifest import TYPES
from tests.backends.wasm_node import FLAGS, needs_node, node, node_version


@pytest.fixture
def wasm(built):
    return built("wasm")


def inputs_text(inputs):
    """The demo's inputs in JavaScript."""
    image, by = inputs["image:0"].ravel().tolist(), ",".join(f"{value}n" for value in inputs["by"].tolist())
    mask = inputs["mask"].astype(int).tolist()
    return f'{{"image:0": new Float32Array({image}), by: BigInt64Array.of({by}), mask: new Uint8Array({mask})}}'


def script(inputs, load="load()"):
    show = (
        f"const out = model.run({inputs_text(inputs)});"
        "console.log(JSON.stringify({scores: [...out.scores], count: String(out.count[0]),"
        " types: [out.scores.constructor.name, out.count.constructor.name]}));"
    )
    return f'import {{ load }} from "./model.mjs"; const model = await {load}; {show}'


def check(demo, found, inputs):
    expected = demo.reference(inputs)
    assert found["types"] == ["Float32Array", "BigInt64Array"]
    np.testing.assert_array_equal(np.array(found["scores"], np.float32), expected["scores"].ravel())
    assert int(found["count"]) == expected["count"]


@pytest.mark.parametrize("module", emit.MODULES)
def test_both_modules_compute_what_they_must(demo, wasm, module):
    runner = Runner(wasm.folder, wasm.manifest, module)
    for seed in range(3):
        inputs = demo.sample(seed)
        scores, count = runner.run([inputs[port.name] for port in demo.program.inputs])
        demo.check({"scores": scores, "count": count}, inputs)
    runner.close()


@pytest.mark.parametrize("module", emit.MODULES)
def test_a_module_imports_nothing_and_its_memory_is_fixed(wasm, module):
    code = wasmtime.Module.from_file(wasmtime.Engine(), str(wasm.folder / module))
    assert list(code.imports) == []
    types = {export.name: export.type for export in code.exports}
    ports = {"input0", "input1", "input2", "output0", "output1"}
    assert set(types) == {"memory", "run", "arena_bytes", "weights", "arena", "__heap_base"} | ports
    assert types["memory"].limits.max is not None


def test_the_target_with_relaxed_simd_writes_the_same_files(demo, wasm, tmp_path):
    demo.emit("wasm+relaxed-simd", tmp_path)
    for path in tmp_path.iterdir():
        assert path.read_bytes() == (wasm.folder / path.name).read_bytes()


@needs_node
@pytest.mark.node
@pytest.mark.parametrize("flags", FLAGS, ids=FLAGS.values())
def test_node_computes_what_it_must(demo, wasm, flags):
    inputs = demo.sample(1)
    check(demo, node(wasm.folder, script(inputs), *flags), inputs)


@needs_node
@pytest.mark.node
def test_node_takes_the_module_that_the_engine_knows(demo, wasm, tmp_path):
    text = 'import { hasRelaxedSimd } from "./model.mjs"; console.log(hasRelaxedSimd())'
    assert node(wasm.folder, text, *relaxed_flag()) is True
    shutil.copytree(wasm.folder, tmp_path / "plain")
    (tmp_path / "plain" / "model.wasm").unlink()
    if node_version() < 21:
        check(demo, node(tmp_path / "plain", script(demo.sample())), demo.sample())


@needs_node
@pytest.mark.node
@pytest.mark.parametrize(
    "options",
    [
        "{wasm: readFileSync('model.simd128.wasm'), weights: readFileSync('weights.bin')}",
        "{wasm: new Uint8Array(readFileSync('model.simd128.wasm')).buffer, weights: 'weights.bin'}",
        "{wasm: new WebAssembly.Module(readFileSync('model.simd128.wasm'))}",
        "{wasm: './model.simd128.wasm', weights: pathToFileURL('weights.bin')}",
        "{wasm: pathToFileURL('model.simd128.wasm').href}",
    ],
)
def test_node_takes_buffers_paths_and_urls(demo, wasm, options):
    head = 'import { readFileSync } from "node:fs"; import { pathToFileURL } from "node:url";'
    inputs = demo.sample(2)
    check(demo, node(wasm.folder, head + script(inputs, f"load({options})")), inputs)


@needs_node
@pytest.mark.node
@pytest.mark.parametrize("page", [False, True], ids=["node", "page"])
@pytest.mark.parametrize("mime", ["application/wasm", "application/octet-stream"])
def test_files_come_over_http_streaming_or_not(demo, wasm, mime, page):
    """As in a page, where there is no `process` to know Node.js by."""
    server = f"""
      import {{ createServer }} from "node:http"; import {{ readFileSync }} from "node:fs";
      const server = createServer((request, response) => {{
        response.setHeader("Content-Type", request.url.endsWith(".wasm") ? "{mime}" : "application/octet-stream");
        response.end(readFileSync("." + request.url));
      }});
      await new Promise((done) => server.listen(0, "127.0.0.1", done));
      const base = `http://127.0.0.1:${{server.address().port}}`;
      {"delete globalThis.process;" if page else ""}
      const {{ load }} = await import("./model.mjs");
    """
    load = "load({wasm: base + '/model.simd128.wasm', weights: base + '/weights.bin'})"
    inputs = demo.sample(3)
    body = script(inputs, load).replace('import { load } from "./model.mjs";', "")
    closing = "; server.close(); server.closeAllConnections();"
    check(demo, node(wasm.folder, server + body + closing), inputs)


@needs_node
@pytest.mark.node
def test_a_missing_file_over_http_is_named(wasm):
    text = """
      import { createServer } from "node:http"; import { load } from "./model.mjs";
      const server = createServer((request, response) => { response.statusCode = 404; response.end(); });
      await new Promise((done) => server.listen(0, "127.0.0.1", done));
      const weights = `http://127.0.0.1:${server.address().port}/weights.bin`;
      console.log(JSON.stringify(await load({ weights }).then(() => "none", (error) => error.message)));
      server.close(); server.closeAllConnections();
    """
    assert node(wasm.folder, text).endswith("/weights.bin': 404 Not Found.")


@needs_node
@pytest.mark.node
def test_it_runs_in_a_worker_and_two_instances_are_apart(demo, wasm):
    text = f"""
      import {{ Worker }} from "node:worker_threads"; import {{ load }} from "./model.mjs";
      const [a, b] = await Promise.all([load(), load()]);
      const zero = {inputs_text({**demo.sample(), "by": np.zeros(3, np.int64)})};
      const first = a.run(zero).scores; b.run({inputs_text(demo.sample(5))});
      const again = a.run(zero).scores;
      if (first === again || first.some((value, i) => value !== again[i])) throw new Error("not apart");
      const code = `
        import {{ parentPort }} from "node:worker_threads";
        import {{ load }} from "${{new URL("model.mjs", `file://${{process.cwd()}}/`)}}";
        parentPort.postMessage((await load()).run({inputs_text(demo.sample(7))}).scores);`;
      const worker = new Worker(new URL("data:text/javascript," + encodeURIComponent(code)));
      const scores = await new Promise((done, fail) => worker.on("message", done).on("error", fail));
      console.log(JSON.stringify([...scores]));
    """
    found = np.array(node(wasm.folder, text), np.float32)
    np.testing.assert_array_equal(found, demo.reference(demo.sample(7))["scores"].ravel())


BAD_INPUTS = {
    "null": "TypeError: Inputs: found Null, expected an object with 'image:0', 'by', 'mask'.",
    "{}": "TypeError: Input 'image:0': missing, expected Float32Array of 15 elements.",
    "{...good, other: 1}": (
        "TypeError: Input 'other': the model has none of that name, expected 'image:0', 'by', 'mask'."
    ),
    "{...good, by: [1, 2, 3]}": "TypeError: Input 'by': found Array, expected BigInt64Array.",
    "{...good, mask: Int8Array.of(1, 0, 1)}": "TypeError: Input 'mask': found Int8Array, expected Uint8Array.",
    "{...good, by: new BigInt64Array(2)}": "RangeError: Input 'by': found 2 elements, expected 3 (3).",
    "{...good, 'image:0': new Float32Array(16)}": (
        "RangeError: Input 'image:0': found 16 elements, expected 15 (1 x 5 x 3)."
    ),
}


@needs_node
@pytest.mark.node
def test_bad_inputs_are_named(demo, wasm):
    cases = ", ".join(BAD_INPUTS)
    text = f"""
      import {{ load }} from "./model.mjs";
      const model = await load(), good = {inputs_text(demo.sample())};
      const tried = (inputs) => {{
        try {{ model.run(inputs); return "none"; }} catch (error) {{ return `${{error}}`; }}
      }};
      console.log(JSON.stringify([{cases}].map(tried)));
    """
    assert node(wasm.folder, text) == list(BAD_INPUTS.values())


@needs_node
@pytest.mark.node
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("{weights: new Uint8Array(5)}", "Error: Weights: found 5 bytes, expected 128. Use the weights.bin that was"),
        ("{weights: 'absent.bin'}", "Error: ENOENT: no such file"),
        ("{wasm: new Uint8Array(8)}", "CompileError: WebAssembly.instantiate"),
    ],
)
def test_bad_files_are_named(wasm, options, message):
    text = f"""
      import {{ load }} from "./model.mjs";
      console.log(JSON.stringify(await load({options}).then(() => "none", (error) => `${{error}}`)));
    """
    assert node(wasm.folder, text).startswith(message)


def test_hostile_names_stay_inside_their_strings_and_comments(demo, wasm, tmp_path):
    name = "x*/`${1}\"'\\\n\u2028</script>@INPUTS@"
    ports = (Port(name, "float32", (1,)),)
    program = replace(demo.program, inputs=ports, outputs=ports)
    text = loader.module(program)
    assert text.isascii()
    assert f'"name": {json.dumps(name)}' in text
    assert f"  {json.dumps(name)}: Float32Array;" in loader.types(program)
    if node_version() >= 20:
        (tmp_path / "model.mjs").write_text(text)
        subprocess.run(["node", "--check", tmp_path / "model.mjs"], check=True)


def test_typescript_finds_the_types_beside_the_loader(wasm):
    assert (wasm.folder / "model.d.mts").read_bytes() == (wasm.folder / "model.d.ts").read_bytes()


def test_types_name_every_port(demo):
    text = loader.types(demo.program)
    for line in (
        '  "image:0": Float32Array;',
        '  "by": BigInt64Array;',
        '  "count": BigInt64Array;',
        "  /** bool, 3 */",
    ):
        assert line in text.splitlines()
    assert set(loader.ARRAY_TYPES) == set(TYPES)


def test_a_model_that_fits_no_module_is_refused(demo, tmp_path):
    program = replace(demo.program, arena_bytes=3 << 30)
    with pytest.raises(TargetError, match=r"Target 'wasm': the model needs 3,22\d,\d+,\d+ bytes of memory, at most"):
        emit.emit(program, demo.compile_kernels, tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_memory_holds_a_large_model(demo, tmp_path):
    """The weights are read where they stand, beyond the first hundred megabytes."""
    program = replace(demo.program, weights=bytes(100 << 20) + demo.program.weights[64:])
    calls = tuple(
        replace(call, args=(call.args[0], replace(call.args[1], offset=100 << 20), call.args[2]))
        if call.symbol == "scale"
        else call
        for call in program.calls
    )
    artifact = replace(demo, program=replace(program, calls=calls)).write("wasm", tmp_path / "out")
    assert artifact.manifest.code_bytes < 20_000
    demo.check(artifact.run(demo.sample()), demo.sample())


def test_damaged_modules_are_refused(wasm, tmp_path):
    shutil.copytree(wasm.folder, tmp_path / "bad")
    (tmp_path / "bad" / "model.wasm").write_bytes(b"\0asm")
    with pytest.raises(ToolchainError, match=r"wasmtime refuses 'model.wasm'"):
        Runner(tmp_path / "bad", wasm.manifest)
    text = '(module (memory (export "memory") 1) (func (export "run") (result i32) i32.const 0)'
    (tmp_path / "bad" / "model.wasm").write_bytes(wasmtime.wat2wasm(text + ")"))
    with pytest.raises(ArtifactError, match=r"exports no global 'weights'"):
        Runner(tmp_path / "bad", wasm.manifest)
    far = text + '(global (export "weights") i32 (i32.const 65530)))'
    (tmp_path / "bad" / "model.wasm").write_bytes(wasmtime.wat2wasm(far))
    with pytest.raises(ArtifactError, match=r"block 'weights' of 128 bytes lies outside its memory"):
        Runner(tmp_path / "bad", wasm.manifest)


def test_the_instruction_sets_are_the_twins():
    assert [ISAS[name].dot for name in emit.MODULES.values()] == ["relaxed", "widen"]
