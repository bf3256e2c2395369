# SPDX-License-Identifier: Apache-2.0
import pytest

from sparsec.compiler.errors import RecipeError
from sparsec.compiler.recipe import MAX_BYTES, Recipe, built_in
from sparsec.passes.fold_constants import FoldConstants
from sparsec.passes.prune_blocks import PruneBlocks
from sparsec.passes.quantize import Quantize

GOOD = """\
version: 1
passes:
  - fold-constants
  - prune-blocks: {rows: 4, cols: 2, density: 0.25, ignore: [stem, 'head.*']}
  - prune-blocks{rows=8 density=0.5}
  - quantize:
      range: mse
  - quantize:
"""


def test_reads_a_recipe():
    recipe = Recipe.parse(GOOD)
    assert recipe.passes == (
        FoldConstants(),
        PruneBlocks(rows=4, cols=2, density=0.25, ignore=("stem", "head.*")),
        PruneBlocks(rows=8, density=0.5),
        Quantize(range="mse"),
        Quantize(),
    )


def test_text_is_read_back():
    recipe = Recipe.parse(GOOD)
    assert Recipe.parse(str(recipe)).passes == recipe.passes
    assert str(Recipe()).split() == ["version:", "1", "passes:", "[]"]


@pytest.mark.parametrize("name", built_in())
def test_built_in_recipes_load(name):
    recipe = Recipe.load(name)
    assert recipe.name == name
    assert recipe.passes
    assert Recipe.parse(str(recipe)).passes == recipe.passes


def test_built_in_names():
    assert set(built_in()) >= {"int8", "sparse-int8"}


def test_loads_a_file(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text(GOOD)
    assert Recipe.load(path).passes == Recipe.load(str(path)).passes == Recipe.parse(GOOD).passes


def test_missing_file_and_unknown_name(tmp_path):
    with pytest.raises(RecipeError, match=r"Recipe 'int9' is neither a file nor a built-in\. .* Did you mean 'int8'\?"):
        Recipe.load("int9")
    with pytest.raises(RecipeError, match="is neither a file nor a built-in"):
        Recipe.load(tmp_path / "none.yaml")
    with pytest.raises(RecipeError, match="cannot be read"):
        Recipe.load(tmp_path)
    (tmp_path / "binary.yaml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(RecipeError, match="cannot be read"):
        Recipe.load(tmp_path / "binary.yaml")


BAD = {
    "version: 1\npasses:\n  - quantise\n": "line 3: Unknown pass 'quantise'; .* Did you mean 'quantize'?",
    "version: 1\npasses:\n  - quantize:\n      bits: 8\n      rnage: mse\n": "line 5: .*Unknown option 'rnage'; .* "
    "Did you mean 'range'?",
    "version: 1\npasses:\n  - prune-blocks:\n      rows: four\n": "line 4: .*option 'rows' is four, expected an",
    "version: 1\npasses:\n  - prune-blocks:\n      rows: 1\n      density: 2\n": "line 5: .*option 'density' is 2",
    "version: 1\npasses:\n  - quantize\nextra: 1\n": "line 4: Unknown key 'extra'; expected one of: passes, version",
    "version: 2\npasses: []\n": "line 1: version is '2', expected 1",
    "passes: []\n": "line 1: the key 'version' is missing",
    "version: 1\n": "line 1: expected 'passes:' with a list of passes",
    "version: 1\npasses: quantize\n": "line 2: expected 'passes:' with a list of passes",
    "version: 1\npasses:\n  - {quantize: , fold-constants: }\n": "line 3: expected one pass an entry",
    "version: 1\npasses:\n  - quantize: 8\n": "line 3: expected 'key: value' pairs",
    "version: 1\npasses:\n  - quantize: {bits: {a: 1}}\n": "line 3: expected a number, true or false, a text",
    "version: 1\npasses:\n  - quantize: {bits: 0x8}\n": "line 3: '0x8' is not a plain decimal number",
    "version: 1\npasses:\n  - quantize: {bits: 8, bits: 8}\n": "line 3: 'bits' is given twice",
    "version: 1\nversion: 1\npasses: []\n": "line 2: 'version' is given twice",
    "version: 1\npasses:\n  - &a quantize\n  - *a\n": "line 3: YAML anchors and aliases are not allowed",
    "version: 1\npasses: [[[[[[[[[]]]]]]]]]\n": "line 2: nested too deeply",
    "version: 1\npasses:\n  - [\n": "line 4: malformed YAML",
    "version: 1\npasses:\n  - !!python/object/apply:os.system ['true']\n": "line 3: expected 'key: value' pairs",
    "": "is empty; expected 'version: 1' and 'passes:'",
    "- quantize\n": "line 1: expected 'key: value' pairs",
    "version: 1\npasses: []\n" + "#" * MAX_BYTES: "more than 65,536 bytes",
    "a: 1\n---\nb: 2\n": "line 2: malformed YAML",
    "version: \x00": "malformed YAML",
}


@pytest.mark.parametrize("text", BAD, ids=range(len(BAD)))
def test_bad_recipe_gives_this_message(text):
    with pytest.raises(RecipeError, match=BAD[text]) as caught:
        Recipe.parse(text, "mine.yaml")
    assert str(caught.value).startswith("Recipe 'mine.yaml'")
