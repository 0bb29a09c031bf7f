"""In a fresh process: what ``import chainrule`` loads, that it says nothing, and what `cr.compile` does without llvmlite."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

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


WITHOUT = """
import importlib.abc, sys, warnings
class Refusing(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name == "llvmlite":
            raise ModuleNotFoundError("no llvmlite", name=name)
{how}
import chainrule as cr
x = cr.ones(3)
with warnings.catch_warnings(record=True) as said:
    warnings.simplefilter("always")
    steps = [cr.compile(lambda x, k=k: k * x) for k in (2, 3)]
    print([step(x).tolist()[0] for step in steps], {{one["backend"] for step in steps for one in step.stats().compilations}}, len(said))
cr.profile(steps[0], x)
try:
    cr.compile(lambda x: 2 * x, backend="native")(x)
except ImportError as error:
    print(error.mend)
"""


@pytest.mark.parametrize(
    "how",
    [
        pytest.param("sys.modules['llvmlite'] = None", id="not-installed"),
        pytest.param("sys.meta_path.insert(0, Refusing())", id="refused"),
        pytest.param("sys.modules['llvmlite.binding'] = None", id="broken"),
        pytest.param("sys.path.insert(0, FOLDER)", id="without-its-library"),
    ],
)
def test_without_llvmlite_compiled_functions_run_as_numpy_code_which_is_said_once(how: str, tmp_path: Path) -> None:
    (tmp_path / "llvmlite.py").write_text("raise OSError('Could not find/load shared object file')")
    said = run(WITHOUT.format(how=how.replace("FOLDER", repr(str(tmp_path)))))
    assert said.splitlines() == ["[2.0, 3.0] {'numpy'} 1", "pip install 'chainrule[cpu]'"]
