# SPDX-License-Identifier: Apache-2.0
import importlib.metadata

import pytest

from sparsec.compiler import registry
from sparsec.compiler.errors import RecipeError
from sparsec.compiler.pass_manager import Pass
from sparsec.passes import PASSES


@pytest.mark.parametrize("name", PASSES)
def test_every_pass_of_the_table_loads_under_its_name(name):
    kind = registry.load(name)
    assert issubclass(kind, Pass)
    assert kind.name == name
    assert kind.__module__ == f"sparsec.passes.{name.replace('-', '_')}"
    assert registry.parse_pass(str(registry.create(name, {}))) == registry.create(name, {})


def test_unknown_pass_names_the_nearest():
    with pytest.raises(
        RecipeError, match=r"Unknown pass 'prune-block'; expected one of: .*Did you mean 'prune-blocks'\?"
    ):
        registry.load("prune-block")


WRONG = {
    "pathlib:Path": "'pathlib:Path' is not a subclass of Pass with name = 'odd'",
    "sparsec.passes.quantize:Quantize": "is not a subclass of Pass with name = 'odd'",
    "sparsec.passes.quantize:Missing": "importing 'sparsec.passes.quantize:Missing' failed: AttributeError",
    "no_such_module:X": "importing 'no_such_module:X' failed: ModuleNotFoundError",
}


@pytest.mark.parametrize("home", WRONG)
def test_wrong_entry_point_gives_this_message(home, monkeypatch):
    point = importlib.metadata.EntryPoint("odd", home, registry.GROUP)
    monkeypatch.setattr(registry, "entry_points", lambda group: [point] if group == registry.GROUP else [])
    with pytest.raises(RecipeError) as caught:
        registry.load("odd")
    assert str(caught.value).startswith("Pass 'odd' of package 'unknown package': ")
    assert WRONG[home] in str(caught.value)
