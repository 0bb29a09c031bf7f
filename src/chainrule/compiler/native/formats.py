"""The floating-point formats that machine code computes in: their layout, and the polynomials of the functions to their precision.

Near-minimax polynomials: interpolated at Chebyshev's points in 60 digits, rounded to the format.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

Poly = tuple[float, ...]
"""Coefficients from the highest power down."""


@dataclass(frozen=True, kw_only=True)
class Format:
    """What the functions need to know of a floating-point format."""

    whole: str
    mantissa: int
    tiny: float
    """The smallest normal number."""
    ends: tuple[float, float]
    """Where exp is 0, and where it is infinite."""
    ones: float
    """Above this tanh is 1."""
    angle: float
    """Up to here sines are reduced by `half_pi`."""
    half_pi: tuple[float, float, float]
    """In three parts: products of the first with whole numbers are exact as far as they matter."""
    ln2: tuple[float, float]
    """In two parts."""
    exp: Poly
    log: Poly
    tanh: Poly
    sin: Poly
    cos: Poly
    atan: Poly
    erf: Poly
    """Of float32 up to 0.93, of float64 up to 0.81."""

    @property
    def magic(self) -> float:
        """Added to a number, it leaves no fraction; the difference to its own bits is then that whole number."""
        return 1.5 * 2.0**self.mantissa

    @property
    def bias(self) -> int:
        return 127 if self.whole == "i32" else 1023

    def bits(self, x: float) -> int:
        """Of a number, as an integer."""
        return int(np.float32(x).view(np.int32)) if self.whole == "i32" else int(np.float64(x).view(np.int64))


# fmt: off
FORMATS = {
    "float": Format(
        whole="i32", mantissa=23, tiny=2.0**-126, ends=(-104.0, 89.0), ones=10.0, angle=2.0**19,
        half_pi=(1.5707963705062866, -4.371138828673793e-08, -1.7151245100058819e-15),
        ln2=(0.6931471824645996, -1.9046542121259336e-09),
        exp=(0.000198911803, 0.00139338209, 0.00833331048, 0.041666463, 0.166666672, 0.5),
        log=(0.0697162002, -0.11479748, 0.116854236, -0.124256857, 0.142490566, -0.166678026, 0.200007156, -0.24999997, 0.333333313),
        tanh=(0.00228962628, -0.00834118854, 0.0217680763, -0.0539591573, 0.133333027, -0.333333343),
        sin=(2.7246333e-06, -0.000198400594, 0.00833333191, -0.166666672),
        cos=(2.45449774e-05, -0.00138882897, 0.0416666642),
        atan=(-0.0645186305, 0.107437119, -0.142639533, 0.199995399, -0.333333313),
        erf=(8.33471859e-05, -0.000813470921, 0.00520036882, -0.0268591512, 0.112836912, -0.376126349, 0.128379166),
    ),
    "double": Format(
        whole="i64", mantissa=52, tiny=2.0**-1022, ends=(-746.0, 710.0), ones=20.0, angle=2.0**20,
        half_pi=(1.5707963267948966, 6.123233995736766e-17, -1.4973849048591698e-33),
        ln2=(0.6931471805599453, 2.3190468138462996e-17),
        exp=(2.091483135138041e-09, 2.5105419192016337e-08, 2.7557273295539724e-07, 2.75572549134867e-06, 2.4801587325822283e-05,
             0.00019841269875205077, 0.001388888888888367, 0.008333333333326025, 0.04166666666666667, 0.1666666666666667, 0.5),
        log=(0.14616562422104645, 0.15331712479381301, 0.1818288939967772, 0.2222221113102852, 0.2857142862599856, 0.39999999999899455,
             0.666666666666667),
        tanh=(-2.4316497630014687e-06, 1.2193738987130529e-05, -3.706514378846229e-05, 9.603210574278365e-05, -0.00023888623778637894,
              0.000589981060857246, -0.001455828281626584, 0.0035921274954513784, -0.008863235499013071, 0.0218694885351031,
              -0.05396825396823531, 0.1333333333333332, -0.3333333333333333),
        sin=(-7.585989217686428e-13, 1.6058519539543833e-10, -2.505210615578957e-08, 2.755731921911718e-06, -0.00019841269841264778,
             0.008333333333333331, -0.16666666666666666),
        cos=(-1.1381600803648663e-11, 2.0876131865438917e-09, -2.755731720221659e-07, 2.480158729863089e-05, -0.0013888888888887309,
             0.041666666666666664),
        atan=(0.01628532732275549, -0.034570174391823104, 0.045515781496647055, -0.052304509666811966, 0.05878928549229719,
              -0.06666424846721739, 0.07692296372859808, -0.09090908753425743, 0.11111111105153937, -0.14285714285659812,
              0.19999999999999804, -0.3333333333333333),
        erf=(-9.107321067339702e-10, 1.4287366090754487e-08, -1.631575921805092e-07, 1.645902060805438e-06, -1.4925523444508197e-05,
             0.00012055329497795956, -0.000854832696036818, 0.00522397762471715, -0.026866170645082038, 0.11283791670954953,
             -0.3761263890318375, 0.1283791670955126),
    ),
}
# fmt: on
