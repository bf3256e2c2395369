# SPDX-License-Identifier: Apache-2.0
"""What can go wrong, by who is at fault; the command line maps each class to an exit code in one place."""


class SparsecError(Exception):
    """A fault with a message for the user: where, what was found, what was expected, what to do."""


class ModelError(SparsecError):
    """The model is malformed, oversized, or does not fit what was asked of it."""


class UnsupportedError(ModelError):
    """An operator, or a use of it, that sparsec refuses; the message names operator and reason."""


class RecipeError(SparsecError):
    """A recipe, a pass text or an option is wrong."""


class PassError(SparsecError):
    """A pass cannot do what it was asked on this model."""


class DataError(SparsecError):
    """Calibration or input arrays are missing, surplus, of the wrong type or shape, or not finite."""


class TargetError(SparsecError):
    """The target's name or features are unknown, or this machine cannot run it."""


class ToolchainError(SparsecError):
    """A tool that compiles, links or runs the artifact is missing or failed."""


class ArtifactError(SparsecError):
    """An artifact's folder is incomplete, damaged, of another version, or cannot be written."""


class BudgetError(SparsecError):
    """A budget on size, speed or accuracy is broken."""
