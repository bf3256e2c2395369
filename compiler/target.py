# SPDX-License-Identifier: Apache-2.0
"""Target: the only thing a pass may know of hardware."""

import os
import platform
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path

from sparsec.compiler.errors import TargetError

FEATURES: dict[str, tuple[str, ...]] = {
    "x86": ("avx512vnni",),
    "arm": ("dotprod",),
    "wasm": ("relaxed-simd",),
}
"""Each target's optional features. `x86` alone is AVX2 with FMA, `arm` NEON, `wasm` SIMD128."""

MOST_THREADS = 16
"""That a model may be compiled for."""
_THREADED = ("x86", "arm")


@dataclass(frozen=True, slots=True)
class Target:
    """A machine to compile for, such as ``x86+avx512vnni``.

    Attributes:
        name: One of `FEATURES`.
        features: Optional features, sorted, each listed under the name in `FEATURES`.

    Raises:
        TargetError: On an unknown name or feature.
    """

    name: str
    features: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        _known("target", self.name, tuple(FEATURES))
        for feature in self.features:
            _known(f"feature of target '{self.name}'", feature, FEATURES[self.name])
        object.__setattr__(self, "features", tuple(sorted(set(self.features))))

    def __str__(self) -> str:
        return "+".join((self.name, *self.features))

    @classmethod
    def parse(cls, text: str) -> "Target":
        """Read ``name[+feature]...``; ``host`` is the machine at hand with the features it has.

        Raises:
            TargetError: On an unknown name or feature, or a host that is no target.
        """
        name, *features = text.strip().split("+")
        return host() if name == "host" and not features else cls(name, tuple(features))


def host() -> Target:
    """The machine at hand, with the features it really has.

    Raises:
        TargetError: If this machine is neither x86-64 with AVX2 nor AArch64.
    """
    machine = platform.machine().lower()
    flags = _cpu_flags()
    if machine in ("x86_64", "amd64"):
        if "avx2" not in flags or "fma" not in flags:
            msg = "Target 'host': this x86-64 processor lacks AVX2 or FMA, the least sparsec compiles for."
            raise TargetError(msg)
        vnni = {"avx512f", "avx512bw", "avx512vl", "avx512_vnni"} <= flags
        return Target("x86", ("avx512vnni",) if vnni else ())
    if machine in ("aarch64", "arm64"):
        return Target("arm", ("dotprod",) if "asimddp" in flags or platform.system() == "Darwin" else ())
    msg = f"Target 'host': found machine '{machine}', expected x86-64 or AArch64. Name a target: {_list()}."
    raise TargetError(msg)


def cores() -> int:
    """Processor cores that this process may use."""
    allowed = getattr(os, "sched_getaffinity", None)
    return len(allowed(0)) if allowed else os.cpu_count() or 1


def most_threads(target: Target) -> int:
    """How many threads of the caller can run one artifact of this target together."""
    return MOST_THREADS if target.name in _THREADED else 1


def check_threads(threads: int, target: Target) -> None:
    """Refuse a number of threads that a target's artifact cannot have.

    Raises:
        TargetError: Saying what it can have.
    """
    if isinstance(threads, bool) or not isinstance(threads, int) or not 1 <= threads <= MOST_THREADS:
        msg = f"Option 'threads' is {threads!r}; expected a whole number in 1..{MOST_THREADS}."
        raise TargetError(msg)
    if threads > most_threads(target):
        msg = (
            f"Target '{target}': option 'threads' is {threads}, but its artifacts run on one thread. "
            f"Leave the option out, or compile for {' or '.join(_THREADED)}."
        )
        raise TargetError(msg)


def _cpu_flags() -> set[str]:
    """Feature words of the first processor, from Linux; empty elsewhere."""
    path = Path("/proc/cpuinfo")
    lines = path.read_text().splitlines() if path.exists() else []
    words = [line.partition(":")[2].split() for line in lines if line.lower().startswith(("flags", "features"))]
    return set(words[0]) if words else set()


def _known(kind: str, word: str, known: tuple[str, ...]) -> None:
    if word in known:
        return
    near = get_close_matches(word, known, n=1)
    hint = f" Did you mean '{near[0]}'?" if near else ""
    msg = f"Unknown {kind} '{word}'; expected one of: {', '.join(known) or '(none)'}.{hint}"
    raise TargetError(msg)


def _list() -> str:
    return ", ".join(name + "".join(f"[+{f}]" for f in features) for name, features in FEATURES.items())
