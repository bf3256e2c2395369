# SPDX-License-Identifier: Apache-2.0
"""One engine, one model, one thread, in an environment of its own: `python workers_engine.py ENGINE MODEL INPUTS.npz`.

Speaks JSON lines: first what it is and what it computes; then, for every line that it reads, the milliseconds of one
inference.
"""

import json
import os
import sys
import time
from collections.abc import Callable
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")
import numpy as np

Inputs = dict[str, Any]
Started = tuple[str, Callable[[], Any]]
"""Name with version, and what computes the first output."""


def openvino(path: str, inputs: Inputs) -> Started:
    """OpenVINO's CPU plugin, float32 where nothing else is asked."""
    import openvino as ov

    core = ov.Core()
    config = {"INFERENCE_NUM_THREADS": 1, "PERFORMANCE_HINT": "LATENCY", "INFERENCE_PRECISION_HINT": "f32"}
    config["ENABLE_CPU_PINNING"] = False  # it would stay on a core where others run
    request = core.compile_model(path, "CPU", config).create_infer_request()
    return f"OpenVINO {ov.__version__.partition('-')[0]}", lambda: request.infer(inputs)[0]


def deepsparse(path: str, inputs: Inputs) -> Started:
    """DeepSparse on one core."""
    import deepsparse

    engine = deepsparse.Engine(path, batch_size=1, num_cores=1)
    arrays = list(inputs.values())
    return f"DeepSparse {deepsparse.__version__}", lambda: engine.run(arrays)[0]


def litert(path: str, inputs: Inputs) -> Started:
    """LiteRT's interpreter, which uses XNNPACK; it wants channels last."""
    from importlib.metadata import version

    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(path, num_threads=1)
    interpreter.allocate_tensors()
    place = interpreter.get_input_details()[0]["index"]
    output = interpreter.get_output_details()[0]["index"]
    (array,) = inputs.values()
    image = np.ascontiguousarray(array.transpose(0, 2, 3, 1))

    def run() -> Any:
        interpreter.set_tensor(place, image)
        interpreter.invoke()
        return interpreter.get_tensor(output)

    return f"LiteRT {version('ai-edge-litert')}", run


def main(engine: str, path: str, file: str) -> None:
    """Answer until the input ends."""
    out = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what engines print must not come between the answers
    inputs = dict(np.load(file))
    name, run = {"openvino": openvino, "deepsparse": deepsparse, "litert": litert}[engine](path, inputs)
    print(json.dumps({"name": name, "output": np.ravel(run()).tolist()}), file=out, flush=True)
    for _ in sys.stdin:
        start = time.perf_counter()
        run()
        print(json.dumps(1e3 * (time.perf_counter() - start)), file=out, flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
