# SPDX-License-Identifier: Apache-2.0
import pytest

from sparsec.backends.isa import ISAS, for_target
from sparsec.compiler.target import FEATURES, Target


@pytest.mark.parametrize("name", FEATURES)
def test_every_target_has_an_instruction_set(name):
    plain, full = for_target(Target(name)), for_target(Target(name, FEATURES[name]))
    assert plain.triple == full.triple
    assert plain.name != full.name


def test_lanes_count_elements_of_a_register():
    assert ISAS["avx2"].lanes("float32") == 8
    assert ISAS["avx512vnni"].lanes("int8") == 64
    assert ISAS["simd128"].lanes("float64") == 2


def test_pointers_are_narrow_in_wasm_only():
    assert {isa.name for isa in ISAS.values() if isa.pointer_bytes == 4} == {"simd128", "relaxed-simd"}
