"""``import chainrule`` in a fresh process: what it loads, and that it says nothing."""

from __future__ import annotations

import subprocess
import sys

LOADED = """
import sys, numpy
before = set(sys.modules)
import chainrule
print(*sorted({name.partition(".")[0] for name in set(sys.modules) - before}))
"""


def run(program: str) -> str:
    result = subprocess.run([sys.executable, "-W", "error", "-c", program], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    assert not result.stderr
    return result.stdout


def test_import_loads_numpy_and_the_standard_library_alone() -> None:
    loaded = set(run(LOADED).split()) - {"numpy"}
    assert loaded - set(sys.stdlib_module_names) == {"chainrule"}


def test_import_leaves_the_slowest_modules_of_the_standard_library_for_later() -> None:
    loaded = run("import sys, numpy; before = set(sys.modules); import chainrule; print(*sorted(set(sys.modules) - before))").split()
    assert not {"pathlib", "inspect", "typing", "unittest", "asyncio", "urllib", "scipy"}.intersection(loaded)


def test_import_leaves_the_command_line_and_the_networks_files_for_later() -> None:
    assert run("import sys, chainrule; print('chainrule.cli' in sys.modules)").strip() == "False"


SETTINGS = """
import numpy as np
before = np.geterr(), np.get_printoptions()
import chainrule
print(before == (np.geterr(), np.get_printoptions()))
"""


def test_import_changes_no_setting_of_numpy() -> None:
    assert run(SETTINGS).strip() == "True"
