# SPDX-License-Identifier: Apache-2.0
"""Who may import whom: cli -> compiler.driver -> passes, backends -> the rest of compiler."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
FOLDERS = ("compiler", "passes", "backends", "cli", "models")
DRIVER = ("compiler/driver.py", "compiler/load.py", "compiler/pricing.py")
PLOTS = ("compiler/sweep/plot.py", "compiler/breakeven_plot.py")
TORCH = ("compiler/importers/torch.py", "compiler/executor", "passes/recover")
FILES = sorted(path for folder in FOLDERS for path in (ROOT / folder).rglob("*.py"))


def imports(path):
    """Every module a file names in an import statement."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def forbidden(place):
    """Prefixes that a file may not import."""
    folder = place.split("/")[0]
    rules = {
        "compiler": () if place in DRIVER else ("sparsec.passes", "sparsec.backends", "sparsec.compiler.driver"),
        "passes": ("sparsec.backends", "sparsec.compiler.driver", "sparsec.compiler.lowering"),
        "backends": ("sparsec.passes", "sparsec.compiler.driver", "sparsec.compiler.pass_manager"),
        "cli": ("sparsec.backends", "sparsec.passes"),
        "models": ("sparsec.backends", "sparsec.passes", "sparsec.cli"),
    }
    yield from rules[folder]
    yield from () if folder == "cli" else ("click", "sparsec.cli")
    yield from () if folder == "backends" else ("tvm", "wasmtime", "ziglang")
    yield from () if place.startswith(TORCH) else ("torch",)
    yield from () if place == "compiler/report_html/page.py" else ("jinja2",)
    yield from () if place in PLOTS else ("matplotlib",)


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_follow_the_layers(path):
    place = str(path.relative_to(ROOT))
    wrong = [
        (name, prefix)
        for name in imports(path)
        for prefix in forbidden(place)
        if name == prefix or name.startswith(prefix + ".")
    ]
    assert wrong == []
