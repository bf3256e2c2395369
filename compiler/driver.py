# SPDX-License-Identifier: Apache-2.0
"""From a model to an artifact, end to end: import, compress, lower, emit."""

import hashlib
import re
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

import sparsec
from sparsec.compiler import artifact, breakeven, report
from sparsec.compiler.artifact import Artifact, Code, Contents
from sparsec.compiler.calibration import LEAST_TO_SPLIT, Calibration, random_inputs
from sparsec.compiler.comparison import Comparison
from sparsec.compiler.encoding import EncodedTensor
from sparsec.compiler.exchange import from_qdq
from sparsec.compiler.golden import Golden, relative_error
from sparsec.compiler.importers import load_model
from sparsec.compiler.instruments import Fidelity, Sizes, Verify
from sparsec.compiler.layers import refuse_empty
from sparsec.compiler.load import open_runner
from sparsec.compiler.lowering.lower import lower as lower_model
from sparsec.compiler.lowering.program import Program
from sparsec.compiler.machine_profile import MachineProfile, note
from sparsec.compiler.pass_manager import PassContext, PassManager, Reporter, Step, silent
from sparsec.compiler.recipe import Recipe
from sparsec.compiler.registry import parse_pass
from sparsec.compiler.report_html import page as report_html
from sparsec.compiler.report_html.summary import Facts
from sparsec.compiler.survey import Survey
from sparsec.compiler.target import Target, check_threads

Arrays = Mapping[str, NDArray[Any]]
Given = str | Path | Arrays | Calibration | None
"""Samples: arrays by input name with a leading axis of samples, or the path of such an .npz."""
Notice = Any
"""Callable[[str], None]: told of decisions nobody asked for."""

EXACT_PASSES = ("fold-constants", "fold-batchnorm", "fuse-layernorm")
"""Run on every model, before the recipe's passes; they lose nothing."""
EXACT, QUANTIZED = 1e-4, 2e-2
"""Relative error that the golden vectors allow at least, in float32 and with codes; see `golden_vectors`."""
SHAKE = 1e-6
"""Relative noise on the inputs by which a quantized model's sensitivity to rounding is measured."""


@dataclass(frozen=True, slots=True)
class Job:
    """What was asked, resolved; see `compile`."""

    model: Any
    target: Target
    recipe: Recipe
    calibration: Calibration | None
    shapes: Mapping[str, Sequence[int]] | None
    name: str
    seed: int = 0
    reporter: Reporter = silent
    notice: Notice = field(default_factory=lambda: ignore)
    heldout: Calibration | None = None
    profile: MachineProfile | None = None
    threads: int = 1


@dataclass(frozen=True, slots=True)
class Compressed:
    """A model before and after its passes.

    Attributes:
        original: As imported.
        model: After the passes.
        steps: The passes as they ran.
        fidelity: Pass name and, by output, how the model then compared with the original on held-out samples.
        sizes: What the model was made of after each pass; None where a shape was unknown.
    """

    original: ir.Model
    model: ir.Model
    steps: tuple[Step, ...]
    fidelity: tuple[tuple[str, Mapping[str, Comparison]], ...]
    sizes: tuple[Survey | None, ...] = ()


def ignore(message: str) -> None:
    """The notice that nobody reads."""


def compile(
    model: Any,
    target: str | Target = "host",
    recipe: str | Path | Recipe | None = None,
    calibration: Given = None,
    shapes: Mapping[str, Sequence[int]] | None = None,
    output: str | Path | None = None,
    **options: Any,
) -> Artifact:
    """Compress a model and compile it to an artifact that needs no runtime.

    Args:
        model: Path of an ONNX file, `onnx_ir.Model`, `onnx.ModelProto`, or a torch module.
        target: Such as ``wasm`` or ``x86+avx512vnni``; ``host`` is the machine at hand.
        recipe: Name of a built-in recipe, path of one, or a `Recipe`. None: nothing is lost.
        calibration: Real inputs: arrays by input name with a leading axis of samples, or the path of such an .npz.
        shapes: Whole shapes by input name, for inputs with dynamic dimensions.
        output: The artifact's folder; None for a temporary one.
        **options: `heldout` (real inputs like `calibration`, to measure fidelity on; without them a part of the
            calibration samples), `passes` (texts of passes to run after the recipe's), `name` (prefix of the C
            functions), `profile` (path of a machine's profile to price kernels by, see docs/selection.md),
            `threads` (how many shall run it, for x86 and arm), `seed`, `reporter` (told of progress), `notice` (told of
            decisions nobody asked for).

    Returns:
        The artifact, written and complete.

    Raises:
        SparsecError: One clear error for whatever is wrong; nothing is left behind.
    """
    asked = job(model, target, recipe, calibration, shapes, **options)
    if output is not None and isinstance(model, (str, Path)) and Path(model).is_file():
        artifact.check_output(Path(output), asked.target, _source_digest(model, None))
    compressed = compress(asked)
    folder = Path(output) if output is not None else Path(tempfile.mkdtemp(prefix="sparsec-")) / asked.name
    return write(lower(compressed, asked), compressed, asked, folder)


def job(
    model: Any,
    target: str | Target = "host",
    recipe: str | Path | Recipe | None = None,
    calibration: Given = None,
    shapes: Mapping[str, Sequence[int]] | None = None,
    *,
    heldout: Given = None,
    passes: Sequence[str] = (),
    name: str | None = None,
    seed: int = 0,
    profile: str | Path | None = None,
    reporter: Reporter = silent,
    notice: Notice | None = None,
    measures: bool = False,
    threads: int = 1,
) -> Job:
    """Resolve what `compile` is asked; see there.

    Args:
        model: As for `compile`.
        target: As for `compile`.
        recipe: As for `compile`.
        calibration: As for `compile`.
        shapes: As for `compile`.
        heldout: As for `compile`.
        passes: As for `compile`.
        name: As for `compile`.
        seed: As for `compile`.
        profile: As for `compile`.
        reporter: As for `compile`.
        notice: As for `compile`.
        measures: Whether the samples are used although there is no pass.
        threads: As for `compile`.

    Raises:
        SparsecError: If the target, recipe, a pass text, the calibration data or the number of threads is wrong.
    """
    steps, tell = _recipe(recipe, passes), notice or ignore
    used = measures or bool(steps.passes)
    samples, held = _data(calibration, heldout, tell if used else ignore)
    for data in (samples, held) if used else ():
        if data is not None:
            data.check_varied()
    aim = target if isinstance(target, Target) else Target.parse(target)
    check_threads(threads, aim)
    return Job(
        model=model,
        target=aim,
        recipe=steps,
        calibration=samples,
        heldout=held,
        shapes=shapes,
        name=_identifier(name or _model_name(model)),
        seed=seed,
        profile=None if profile is None else _profile(target, Path(profile)),
        reporter=reporter,
        notice=tell,
        threads=threads,
    )


def imported(job: Job) -> tuple[ir.Model, ir.Model, PassContext]:
    """The model as it was imported, the same after the passes that lose nothing, and what passes know besides.

    Raises:
        SparsecError: If the model is at fault.
    """
    job.reporter("import", 0, 1)
    original = from_qdq(load_model(job.model, job.shapes, job.notice))
    context = PassContext(
        target=job.target, calibration=job.calibration, heldout=job.heldout, seed=job.seed, reporter=job.reporter
    )
    return original, PassManager(map(parse_pass, EXACT_PASSES)).run(original, context).model, context


def compress(job: Job) -> Compressed:
    """Import the model and run its passes, verified and measured.

    Raises:
        SparsecError: If the model or a pass fails.
    """
    original, model, context = imported(job)
    fidelity, sizes = Fidelity(), Sizes()
    instruments = (Verify(), fidelity, sizes) if job.recipe.passes else ()
    result = PassManager(job.recipe.passes, instruments).run(model, context)
    return Compressed(original, result.model, result.steps, tuple(fidelity.measured), tuple(sizes.surveys))


def lower(compressed: Compressed, job: Job) -> Program:
    """Lower the compressed model for the job's target.

    Raises:
        UnsupportedError: If an operator cannot be compiled, or a layer's weight has no element.
    """
    from sparsec.backends.targets import backend, profile_of

    refuse_empty(compressed.model)
    priced_by = note(job.profile or profile_of(job.target), job.target)
    if priced_by:
        job.notice(priced_by)
    job.reporter("lower", 0, 1)
    told = partial(job.reporter, "lower")
    return lower_model(compressed.model, backend(job.target, job.profile), job.name, told, job.threads)


def emit_text(program: Program, job: Job, kind: str) -> str:
    """The kernels of a program as ``tir``, ``llvm`` or ``asm``."""
    from sparsec.backends.targets import text

    return text(program, job.target, kind)


def write(program: Program, compressed: Compressed, job: Job, folder: Path) -> Artifact:
    """Compile the kernels and write the artifact, whole or not at all.

    Raises:
        ArtifactError: If the folder cannot be written.
        ToolchainError: If compiling or linking fails.
    """
    from sparsec.backends.targets import backend, emit, profile_of

    pricing = report.Pricing(
        job.profile or profile_of(job.target), breakeven.for_layers(backend(job.target, job.profile), program.layers)
    )
    contents = Contents(
        program=program,
        target=job.target,
        source_sha256=_source_digest(job.model, compressed.original),
        recipe=str(job.recipe) if job.recipe.passes else "",
        golden=golden_vectors(compressed.model, job),
        report=report.contents(compressed, program, job.target, pricing),
    )

    def fill(place: Path) -> Code:
        code = emit(program, job.target, place, job.reporter)
        (place / report_html.FILE).write_text(report_html.page(contents.report, _facts(contents, code)), "utf-8")
        return code

    return artifact.write(folder, contents, fill, open_runner)


def _facts(contents: Contents, code: Code) -> Facts:
    program = contents.program
    ports = report_html.named(program.inputs, program.outputs)
    version = sparsec.__version__
    return Facts(version, contents.recipe, code.code_bytes, code.arena_bytes, ports, program.threads)


def golden_vectors(model: ir.Model, job: Job) -> Golden:
    """One real input if there is calibration data, else a seeded one, and what onnxruntime makes of it.

    float32 results differ by the order of sums. In a quantized model such a difference now and then rounds to another
    code, and a deep network amplifies that; so there the tolerance is three times what noise of `SHAKE` on the input
    does to the same model in onnxruntime, if that is more than `QUANTIZED`.
    """
    from sparsec.compiler.oracle import Oracle

    oracle = Oracle(model)
    feeds = next(iter(job.calibration.feeds(model, 1))) if job.calibration else random_inputs(model, job.seed)
    outputs = oracle.run(feeds)
    quantized = any(
        isinstance(v.const_value, EncodedTensor) and v.const_value.codes is not None for v in _weights(model)
    )
    if not quantized:
        return Golden(feeds, outputs, EXACT)
    generator = np.random.default_rng(job.seed)
    shaken = [oracle.run({name: _shaken(generator, array) for name, array in feeds.items()}) for _ in range(3)]
    errors = [relative_error(found[name], array) for found in shaken for name, array in outputs.items()]
    return Golden(feeds, outputs, max(QUANTIZED, 3 * max(errors)))


def _shaken(generator: np.random.Generator, array: NDArray[Any]) -> NDArray[Any]:
    if array.dtype.kind != "f":
        return array
    noise: NDArray[Any] = array * (1 + SHAKE * generator.standard_normal(array.shape))
    return noise.astype(array.dtype)


def _weights(model: ir.Model) -> list[ir.Value]:
    return list(model.graph.initializers.values())


def _recipe(recipe: str | Path | Recipe | None, passes: Sequence[str]) -> Recipe:
    base = Recipe() if recipe is None else recipe if isinstance(recipe, Recipe) else Recipe.load(recipe)
    return Recipe((*base.passes, *map(parse_pass, passes)), base.name)


def _profile(target: str | Target, path: Path) -> MachineProfile:
    from sparsec.backends.targets import profile_of

    return profile_of(target if isinstance(target, Target) else Target.parse(target), path)


def _data(calibration: Given, heldout: Given, tell: Notice) -> tuple[Calibration | None, Calibration | None]:
    """Samples that passes may see, and samples that they may not."""
    samples, held = _samples(calibration, "Calibration"), _samples(heldout, "Held-out data")
    if samples is not None and held is None:
        first, held = samples.split()
        tell(_split_note(samples.samples, held.samples))
        return first, held
    shared = held.shared(samples) if samples is not None and held is not None else 0
    if shared:
        tell(f"{shared} of the held-out samples are calibration samples too, so fidelity may look better than it is")
    return samples, held


def _split_note(samples: int, held: int) -> str:
    if held == samples:
        return (
            f"fidelity is measured on the {samples} calibration samples themselves: fewer than {LEAST_TO_SPLIT} are "
            "not split; give others with --heldout"
        )
    return f"fidelity is measured on the last {held} of {samples} calibration samples, which no pass sees"


def _samples(given: Given, title: str) -> Calibration | None:
    if given is None or isinstance(given, Calibration):
        return given
    if isinstance(given, (str, Path)):
        return Calibration.load(given, title)
    return Calibration(given, title)


def _model_name(model: Any) -> str:
    return Path(model).stem if isinstance(model, (str, Path)) else "model"


def _identifier(name: str) -> str:
    word = re.sub(r"[^A-Za-z0-9_]+", "_", name).strip("_").lower()[:60]
    return word if word[:1].isalpha() else f"model_{word}".rstrip("_")


def _source_digest(source: Any, imported: ir.Model | None) -> str:
    """SHA-256 of the model's file; of the imported model where there is none."""
    if isinstance(source, (str, Path)):
        return hashlib.sha256(Path(source).read_bytes()).hexdigest()
    assert imported is not None
    return hashlib.sha256(ir.to_proto(imported).SerializeToString()).hexdigest()
