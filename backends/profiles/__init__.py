# SPDX-License-Identifier: Apache-2.0
"""The profile that comes with sparsec for each instruction set; `compiler/machine_profile.py` has the format."""

from importlib.resources import files

from sparsec.compiler.machine_profile import BUILT_IN, MachineProfile, parse


def built_in(isa: str) -> MachineProfile:
    """The profile of an instruction set, by its name in `backends.isa.ISAS`."""
    name = f"{isa}.json"
    return parse(files("sparsec.backends.profiles").joinpath(name).read_text("utf-8"), name, BUILT_IN)
