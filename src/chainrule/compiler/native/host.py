"""The machine that code is written for: its processor as LLVM names it, how wide its vectors are.

Nothing here is measured, and nothing imports LLVM: `engine` hands in what LLVM knows.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import NamedTuple

from chainrule.core.errors import ArgumentError

WIDTHS = (512, 256, 128)

# What vectors of so many bits stand on, each on those before it: LLVM switches them off together.
_NEEDED = {512: {"avx", "avx2", "avx512f", "avx512vl"}, 256: {"avx", "avx2"}, 128: set[str]()}

# What has to be switched off for vectors of at most so many bits; LLVM switches off what stands on it too.
_NARROWER = {512: "", 256: "-avx512f", 128: "-avx"}


class Host(NamedTuple):
    """What decides about machine code.

    Attributes
    ----------
    cpu : str
        LLVM's name, such as ``"znver4"``.
    features : str
        LLVM's, ``"+avx2,-avx512f"``; of two entries for one feature the later one counts.
    bits : int
        Of the widest vector registers to be used: 512, 256 or 128.
    """

    cpu: str
    features: str
    bits: int

    def has(self, feature: str) -> bool:
        """Whether the processor has what LLVM calls by this name, and may use it."""
        found = [word[0] == "+" for word in self.features.split(",") if word[1:] == feature]
        wide = feature.startswith("avx512") and self.bits < 512
        return bool(found) and found[-1] and not wide


def describe(cpu: str, features: Mapping[str, bool], settings: Mapping[str, str] = os.environ) -> Host:
    """The host, as the settings want it.

    Parameters
    ----------
    cpu : str
    features : Mapping
        As LLVM finds them.
    settings : Mapping
        ``CHAINRULE_NATIVE_WIDTH``: 512, 256 or 128, the bits that vectors have at most; 256 on an x86 processor with AVX-512
        makes the code that one with AVX2 would get. ``CHAINRULE_NATIVE_FEATURES``: more of LLVM's features, such as
        ``"-avx512bf16,-fma"``.

    Raises
    ------
    ArgumentError
        For a width that is none of these, or a feature without its sign.
    """
    changes = [word.strip() for word in settings.get("CHAINRULE_NATIVE_FEATURES", "").split(",") if word.strip()]
    for word in changes:
        # LLVM would end the process.
        if word[0] not in "+-":
            raise ArgumentError(f"CHAINRULE_NATIVE_FEATURES has {word!r}", mend=f"write +{word} to use it, or -{word} not to")
    have = {name for name, there in features.items() if there} | {word[1:] for word in changes if word[0] == "+"}
    have -= {word[1:] for word in changes if word[0] == "-"}
    widest = next(bits for bits in WIDTHS if _NEEDED[bits] <= have)
    asked = settings.get("CHAINRULE_NATIVE_WIDTH", "") or str(widest)
    if asked not in map(str, WIDTHS):
        raise ArgumentError(f"CHAINRULE_NATIVE_WIDTH is {asked!r}", mend="set it to 512, 256 or 128, or leave it out")
    bits = min(int(asked), widest)
    words = [f"{'+' if there else '-'}{name}" for name, there in sorted(features.items())] + changes
    if "avx" in features:
        # Vectors of 512 bits are twice as fast here as LLVM's caution with them is.
        words += [_NARROWER[bits]] if _NARROWER[bits] else ["-prefer-256-bit"]
    return Host(cpu, ",".join(words), bits)
