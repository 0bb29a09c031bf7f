"""What every example ends with: one line that says what it reached, and in which time."""

from __future__ import annotations

import time

_BEGUN = time.perf_counter()


def report(measure: str, value: float, unit: str = "", aim: str = "") -> dict[str, float]:
    """Print the result of a program, and return it by name.

    Parameters
    ----------
    measure : str
        What was measured, such as "test accuracy".
    value : float
    unit : str
    aim : str
        What it should reach, such as "at least 99".
    """
    seconds = time.perf_counter() - _BEGUN
    wanted = f" (aim: {aim})" if aim else ""
    print(f"result: {measure} {value:.4g} {unit}".rstrip() + f"{wanted} in {seconds:.0f} s")
    return {measure: value}
