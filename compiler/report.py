# SPDX-License-Identifier: Apache-2.0
"""Report: what was asked of each layer and what was got, before against after; the content of `report.json`.

`docs/report.md` describes every key. The content depends on the model, the recipe, the calibration and the target
alone: it holds no place and no time.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from math import isfinite
from typing import Any, Protocol

import onnx_ir as ir

from sparsec.compiler.breakeven import Curve
from sparsec.compiler.comparison import Comparison
from sparsec.compiler.errors import ArtifactError
from sparsec.compiler.lowering.program import LayerChoice, Program
from sparsec.compiler.machine_profile import MachineProfile
from sparsec.compiler.pass_manager import Step
from sparsec.compiler.survey import Survey, survey
from sparsec.compiler.target import Target

VERSION = 1
"""Of the report's keys."""
LAYER_KEYS = (
    "name", "op", "pattern", "density", "bytes", "kernel", "price", "rival_price", "refused", "breakeven_density",
)  # fmt: skip
"""Keys of a layer that are stable for scripts; a report has `macs` and `verdict` besides."""
Json = dict[str, Any]


class Passes(Protocol):
    """A model before and after its passes; `driver.Compressed` is one."""

    @property
    def original(self) -> ir.Model:
        """As imported."""
        ...

    @property
    def model(self) -> ir.Model:
        """After the passes."""
        ...

    @property
    def steps(self) -> tuple[Step, ...]:
        """The passes as they ran."""
        ...

    @property
    def fidelity(self) -> tuple[tuple[str, Mapping[str, Comparison]], ...]:
        """Pass name, and by output how the model then compared with the original; of the passes measured."""
        ...

    @property
    def sizes(self) -> tuple[Survey | None, ...]:
        """What the model was made of after each pass; empty where nobody looked."""
        ...


@dataclass(frozen=True, slots=True)
class Pricing:
    """What the layers were priced by.

    Attributes:
        profile: Of the machine.
        curves: The predicted gain of the layers' patterns at any density; see `breakeven.for_layers`.
    """

    profile: MachineProfile
    curves: Sequence[Curve] = ()


def contents(compressed: Passes, program: Program, target: Target, pricing: Pricing | None = None) -> Json:
    """The report of a compilation, of JSON values; a number that is not finite becomes None.

    Args:
        compressed: The model before and after its passes.
        program: The lowered model.
        target: What it was lowered for.
        pricing: What its layers were priced by, where that is to be reported.
    """
    after = survey(compressed.model)
    data = {
        "version": VERSION,
        "name": program.name,
        "target": str(target),
        "before": _side(survey(compressed.original)),
        "after": {
            **_side(after),
            "weight_bytes": len(program.weights),
            "macs": after.macs - sum(layer.macs - _work(layer) for layer in program.layers),
        },
        "totals": totals(program.layers),
        **(_pricing(pricing) if pricing else {}),
        "steps": steps(compressed),
        "layers": [{**asdict(layer), "verdict": verdict(layer)} for layer in program.layers],
    }
    found: Json = finite(data)
    return found


def _pricing(pricing: Pricing) -> Json:
    profile = {key: getattr(pricing.profile, key) for key in ("machine", "source", "cpu", "isa")}
    return {"profile": profile, "breakeven": [{**asdict(c), "shape": str(c.shape)} for c in pricing.curves]}


def totals(layers: Sequence[LayerChoice]) -> Json:
    """Counts of layers, and predicted microseconds: as chosen, and with dense kernels only.

    General code, by which operators without a kernel of their own run, has no price: `unpriced` layers.
    """
    verdicts = [verdict(layer) for layer in layers]
    return {
        "layers": len(layers),
        "sparse": verdicts.count("sparse"),
        "refused": verdicts.count("refused"),
        "unpriced": sum(layer.kernel == "fallback" for layer in layers),
        "price": sum(layer.price for layer in layers),
        "dense_price": sum(layer.price if layer.rival_price is None else layer.rival_price for layer in layers),
    }


def verdict(layer: LayerChoice) -> str:
    """``sparse`` if zeros are skipped, ``refused`` if they are there but skipping them did not pay, else ``dense``."""
    if layer.refused:
        return "refused"
    return "sparse" if layer.pattern != "dense" else "dense"


def check(report: Mapping[str, Any], place: str) -> None:
    """Check the parts of a report from disk that `sparsec inspect` shows.

    Raises:
        ArtifactError: Naming the part that is missing or of another type.
    """
    for part, items, types in (("layers", report.get("layers"), _LAYER), ("steps", report.get("steps"), _STEP)):
        _expect(isinstance(items, list), place, part)
        for number, item in enumerate(items or ()):
            for key, kind in types.items():
                _expect(
                    isinstance(item, dict) and isinstance(item.get(key, _MISSING), kind),
                    place,
                    f"{part}[{number}].{key}",
                )
    if report.get("profile") is not None:
        for key in ("machine", "source", "cpu", "isa"):
            fits = isinstance(report["profile"], dict) and isinstance(report["profile"].get(key), str)
            _expect(fits, place, f"profile.{key}")
    for number, step in enumerate(report["steps"]):
        for found in step["fidelity"].values():
            for key in ("relative_error", "sqnr_db", "correlation", "top1", "kl"):
                fits = isinstance(found, dict) and isinstance(found.get(key, _MISSING), _NUMBER)
                _expect(fits, place, f"steps[{number}].fidelity")


_MISSING = object()
_NUMBER = (float, int, type(None))
_LAYER: Mapping[str, Any] = {
    **dict.fromkeys(("name", "op", "pattern", "kernel", "refused"), str),
    **dict.fromkeys(("price", "rival_price", "breakeven_density"), _NUMBER),
    **dict.fromkeys(("density", "bytes"), (float, int)),
}
_STEP: Mapping[str, Any] = {"text": str, "changed": bool, "fidelity": dict}


def _expect(fits: bool, place: str, part: str) -> None:
    if not fits:
        msg = f"Artifact '{place}': file 'report.json' is damaged at '{part}'. Compile the model again."
        raise ArtifactError(msg)


def finite(value: Any) -> Any:
    """The same nest of dicts and lists, with None for NaN and infinity, which JSON does not know."""
    if isinstance(value, Mapping):
        return {key: finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [finite(item) for item in value]
    return None if isinstance(value, float) and not isfinite(value) else value


def _side(found: Survey) -> Json:
    return {
        "parameters": found.parameters,
        "weight_bytes": found.weight_bytes,
        "zeros": found.zeros,
        "macs": found.macs,
    }


def _work(layer: LayerChoice) -> int:
    """Multiply-accumulates that are really done."""
    return round(layer.macs * layer.density) if verdict(layer) == "sparse" else layer.macs


def steps(passes: Passes) -> list[Json]:
    """Each pass with what it did, the model's sizes after it, and fidelity where it was measured.

    The times are in `Step.seconds` alone: they differ from run to run, and a report must not.
    """
    measured, found = list(passes.fidelity), []
    sizes = passes.sizes or (None,) * len(passes.steps)
    for step, size in zip(passes.steps, sizes, strict=True):
        after = measured.pop(0)[1] if measured and measured[0][0] == step.name and step.changed else {}
        found.append(
            {
                "name": step.name,
                "text": step.text,
                "changed": step.changed,
                **{key: getattr(size, key, None) for key in _SIZES},
                "records": [asdict(record) for record in step.records],
                "fidelity": {name: asdict(comparison) for name, comparison in after.items()},
            }
        )
    return found


_SIZES = ("weight_bytes", "macs", "zeros")
