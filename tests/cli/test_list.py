# SPDX-License-Identifier: Apache-2.0
import pytest

from sparsec.cli.list import TARGETS
from sparsec.compiler import registry
from sparsec.compiler.recipe import built_in
from sparsec.compiler.target import FEATURES, Target
from sparsec.models.catalog import MODELS
from sparsec.passes import PASSES


@pytest.mark.parametrize(
    ("what", "known"), [("passes", PASSES), ("recipes", built_in()), ("targets", TARGETS), ("models", MODELS)]
)
def test_everything_is_listed_with_a_line(what, known, sparsec):
    done = sparsec("list", what)
    assert done.exit_code == 0, done.stderr
    rows = {line.split()[0]: line.split()[1:] for line in done.stdout.splitlines() if line.split()}
    for name in known:
        assert len(rows[name]) > 2, name


def test_each_target_and_feature_has_a_description():
    texts = [text for name in FEATURES for text in (name, *(f"{name}+{f}" for f in FEATURES[name]))]
    assert list(TARGETS) == texts
    assert [str(Target.parse(text)) for text in texts] == texts


def test_a_plugin_that_fails_to_import_is_reported(sparsec, monkeypatch):
    broken = registry.Entry("break-things", "no_such_module_here:Break", "broken-package")
    monkeypatch.setattr(registry, "_installed", lambda: [broken])
    done = sparsec("list", "passes")
    assert done.exit_code == 0, done.stderr
    text = " ".join(done.stdout.split())
    assert "not available" in text
    assert "no_such_module_here" in text
    assert "prune-blocks" in text
