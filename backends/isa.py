# SPDX-License-Identifier: Apache-2.0
"""Isa: what a vector instruction set offers to a kernel generator."""

from dataclasses import dataclass

from sparsec.compiler.target import Target

ELEMENT_BYTES: dict[str, int] = {
    "bool": 1, "int8": 1, "uint8": 1, "int16": 2, "uint16": 2, "float16": 2, "bfloat16": 2,
    "int32": 4, "uint32": 4, "float32": 4, "int64": 8, "uint64": 8, "float64": 8,
}  # fmt: skip
"""Bytes of one element of each type that tensors have, by its TVM (and numpy) name."""


@dataclass(frozen=True, slots=True)
class Isa:
    """One vector instruction set of one architecture.

    Attributes:
        name: Key in `ISAS`.
        triple: LLVM's name of architecture, vendor and system.
        cpu: LLVM's processor name.
        features: LLVM's feature switches on top of `cpu`.
        vector_bytes: Bytes of one vector register.
        registers: Number of vector registers that a kernel can count on.
        fma: Whether float32 multiply and add is one instruction.
        dot: The four-element int8 dot product: ``vpdpbusd`` (u8 x s8), ``pmaddubsw`` (u8 x s8, int16
            intermediate that saturates), ``sdot`` (s8 x s8), ``relaxed`` (s8 x 7 bit), ``widen`` (none:
            extend to int16, multiply, add pairs).
    """

    name: str
    triple: str
    cpu: str
    features: tuple[str, ...]
    vector_bytes: int
    registers: int
    fma: bool
    dot: str

    def lanes(self, dtype: str) -> int:
        """Elements of `dtype` (a TVM type name such as ``float32``) in one vector register."""
        return self.vector_bytes // ELEMENT_BYTES[dtype]

    @property
    def wasm(self) -> bool:
        """Whether objects are WebAssembly rather than ELF."""
        return self.triple.startswith("wasm")

    @property
    def pointer_bytes(self) -> int:
        """Bytes of a pointer in memory."""
        return 4 if self.wasm else 8


_X86 = "x86_64-unknown-linux-gnu"
_ARM = "aarch64-unknown-linux-gnu"
# The processor is for its schedule; the base architecture must do. Latencies count little where code is reordered, and
# to hide them takes registers that a tile needs.
_ARM_FEATURES = ("+neon", "-aes", "-sha2", "-crc", "-perfmon", "+disable-latency-sched-heuristic")
_WASM = "wasm32-unknown-unknown"
_WASM_FEATURES = ("+simd128", "+bulk-memory", "+bulk-memory-opt", "+sign-ext", "+nontrapping-fptoint")

ISAS: dict[str, Isa] = {
    isa.name: isa
    for isa in (
        Isa("avx2", _X86, "x86-64-v3", (), 32, 16, True, "pmaddubsw"),
        # The oldest processor with VNNI; without the tuning switch LLVM would stop at 256 bits.
        Isa("avx512vnni", _X86, "cascadelake", ("-prefer-256-bit",), 64, 32, True, "vpdpbusd"),
        Isa("neon", _ARM, "cortex-a72", _ARM_FEATURES, 16, 32, True, "widen"),
        Isa("neon-dotprod", _ARM, "cortex-a72", (*_ARM_FEATURES, "+dotprod"), 16, 32, True, "sdot"),
        # An engine on x86 maps WebAssembly's vectors onto 16 registers.
        Isa("simd128", _WASM, "generic", _WASM_FEATURES, 16, 16, False, "widen"),
        Isa("relaxed-simd", _WASM, "generic", (*_WASM_FEATURES, "+relaxed-simd"), 16, 16, True, "relaxed"),
    )
}
"""Every instruction set there is code for, by name."""

_FOR_TARGET = {
    "x86": "avx2",
    "x86+avx512vnni": "avx512vnni",
    "arm": "neon",
    "arm+dotprod": "neon-dotprod",
    "wasm": "simd128",
    "wasm+relaxed-simd": "relaxed-simd",
}


_FAST_TWIN = {"simd128": "relaxed-simd"}
"""A WebAssembly artifact holds both modules; most engines take the second."""


def for_target(target: Target) -> Isa:
    """The instruction set that `target`'s kernels use at least."""
    return ISAS[_FOR_TARGET[str(target)]]


def priced_for(target: Target) -> Isa:
    """The instruction set by whose profile `target`'s kernels are chosen: that of the artifact's fast code."""
    name = _FOR_TARGET[str(target)]
    return ISAS[_FAST_TWIN.get(name, name)]


def twins_of(isa: Isa) -> list[Isa]:
    """The instruction sets of which an artifact holds code besides `isa`, from the same kernels."""
    return [ISAS[plain] for plain, fast in _FAST_TWIN.items() if fast == isa.name]
