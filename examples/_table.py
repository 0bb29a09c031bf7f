"""Run every example in a process of its own, and write what they reached as a table in docs/models.md."""

from __future__ import annotations

import argparse
import os
import platform
import re
import subprocess
import sys
from pathlib import Path

import numpy as np

HERE = Path(__file__).parent
RESULT = re.compile(r"^result: (?P<what>.+?)(?: \(aim: (?P<aim>.+)\))? in (?P<seconds>\d+) s$", re.MULTILINE)
ON_MNIST = ("autoencoder", "lenet", "mlp")
"""Examples that learn MNIST in minutes."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", help="examples to run; all if none is given")
    parser.add_argument("--mnist", type=Path, metavar="DIR", help="the folder with the MNIST files, for the examples that can use them")
    parser.add_argument("--output", type=Path, metavar="FILE", help="write the table there")
    given = parser.parse_args()
    programs = sorted(path for path in HERE.glob("*.py") if not path.name.startswith("_") and (not given.names or path.stem in given.names))
    runs = [(program, folder) for program in programs for folder in (None, *([given.mnist] if given.mnist and program.stem in ON_MNIST else []))]
    rows = [row for program, folder in runs for row in run(program, folder)]
    lines = ["| example | reached | aim | time |", "|---|---|---|---|", *rows]
    print("\n".join(lines))
    if given.output is not None:
        given.output.write_text(page(lines))


def run(program: Path, mnist: Path | None) -> list[str]:
    """The table's rows for one example."""
    arguments = [] if mnist is None else ["--data-dir", str(mnist)]
    print(f"{program.name} {' '.join(arguments)}", file=sys.stderr, flush=True)
    # On products as small as these a second thread of NumPy's gains little, and loses much where cores are shared.
    done = subprocess.run(
        [sys.executable, str(program), *arguments], capture_output=True, text=True, check=False, env={**os.environ, "OPENBLAS_NUM_THREADS": "1"}
    )
    if done.returncode:
        raise SystemExit(f"{program.name} failed:\n{done.stderr[-2000:]}")
    found = list(RESULT.finditer(done.stdout))
    if not found:
        raise SystemExit(f"{program.name} printed no result")
    label = program.stem + (" on MNIST" if arguments else "")
    return [f"| [{label}](../examples/{program.name}) | {r['what']} | {r['aim'] or ''} | {r['seconds']} s |" for r in found]


def page(lines: list[str]) -> str:
    machine = f"{cpu()}, {os.cpu_count()} cores; Python {platform.python_version()}, NumPy {np.__version__}"
    return "\n".join(
        [
            "# What the named networks reach",
            "",
            "Every program in `examples/` trains one network of `cr.models` from its seed.",
            f"Written by `make examples` on {machine}, one program at a time, on one thread.",
            "",
            *lines,
            "",
        ]
    )


def cpu() -> str:
    """The processor's name, where the system tells it."""
    try:
        text = Path("/proc/cpuinfo").read_text()
    except OSError:
        return platform.processor() or platform.machine()
    found = re.search(r"model name\s*:\s*(.+)", text)
    return found[1] if found else platform.machine()


if __name__ == "__main__":
    main()
