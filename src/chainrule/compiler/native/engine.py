"""From LLVM IR as text to machine code in this process: the only file that knows llvmlite.

All code lives in one ORC JIT, each module in a library of its own, which is freed with the `Code` that stands for it. What a
module means, and who calls it, is the business of others.
"""

from __future__ import annotations

import os
import re
import sys
import threading
from collections.abc import Iterable, Mapping
from functools import cache
from importlib.util import find_spec
from itertools import count
from typing import Any

from chainrule.compiler.native import threads
from chainrule.compiler.native.cache import discard, fetch, keep, key_of
from chainrule.compiler.native.host import Host, describe
from chainrule.compiler.native.threads import Pool, thread_count
from chainrule.core.errors import MissingExtraError, TraceError

_DEFINED = re.compile(r"^define (?!internal |private )[^@\n]*@([\w.$]+)\(", re.MULTILINE)
_FUNCTION = re.compile(r"^define [^@\n]*@([\w.$]+)\(")
_POOLED = re.compile(r"^declare .*@pool_", re.MULTILINE)
_LINE = re.compile(r":(\d+):\d+: ")
_REPORT = "this is a mistake of the library: please report it with this message"
_numbers = count()
_working = threading.RLock()
_kept: list[Any] = []


class Code:
    """Machine code in memory, there as long as this object is.

    Parameters
    ----------
    addresses : Mapping
        Of the functions that can be called from outside.
    tracker : object
        Frees the memory when it is dropped.
    key : str
        Under which it is kept on disk.
    """

    __slots__ = ("_addresses", "_tracker", "key")

    def __init__(self, addresses: Mapping[str, int], tracker: Any, key: str) -> None:
        self._addresses = addresses
        self._tracker = tracker
        self.key = key

    def address(self, name: str) -> int:
        """Of a function that the module defines."""
        return self._addresses[name]

    @property
    def names(self) -> tuple[str, ...]:
        """The functions that have an address."""
        return tuple(self._addresses)


def available() -> bool:
    """Whether llvmlite is installed; it is not imported by the question."""
    return find_spec("llvmlite") is not None


def load(text: str, *, symbols: Mapping[str, int] | None = None, optimize: int = 0, permanent: bool = False) -> Code:
    """Compile a module and make it callable.

    Parameters
    ----------
    text : str
        LLVM IR. Functions that are neither internal nor private get an address.
    symbols : Mapping, optional
        Addresses of what the module declares and does not define; the pool's functions and the C library's are found by
        themselves.
    optimize : {0, 2}
        0 for IR that has its vectors written out, 2 for scalar loops that LLVM shall turn into vectors. The instructions are
        chosen with care either way.
    permanent : bool
        The code stays until the process ends, whoever drops it: threads may be running it.

    Returns
    -------
    Code

    Raises
    ------
    MissingExtraError
        Without llvmlite.
    TraceError
        If the IR is not well formed: a mistake of the library.
    """
    with _working:
        given = {**pool().symbols, **(symbols or {})} if _POOLED.search(text) else symbols or {}
        names = _DEFINED.findall(text)
        key = key_of(text, str(optimize), *machine_kind())
        tracker = _revive(key, names, given)
        if tracker is None:
            image = _compile(text, optimize)
            tracker = _link(image, names, given)
            keep(key, image)
        if permanent:
            _kept.append(tracker)
    return Code({name: tracker[name] for name in names}, tracker, key)


def reload(key: str, names: Iterable[str], *, symbols: Mapping[str, int] | None = None, pooled: bool = False) -> Code | None:
    """What `load` has kept, without its text; None if it is not there any more.

    Parameters
    ----------
    key : str
        Of the code that was loaded.
    names : iterable of str
        Its functions.
    symbols : Mapping, optional
        As they were given to `load`.
    pooled : bool
        Whether it calls the pool's functions.
    """
    with _working:
        tracker = _revive(key, names, {**(pool().symbols if pooled else {}), **(symbols or {})})
    return None if tracker is None else Code({name: tracker[name] for name in names}, tracker, key)


def assembly(text: str, *, optimize: int = 0) -> str:
    """The instructions that a module becomes, to be read."""
    with _working:
        return _machine().emit_assembly(_module(text, optimize))


@cache
def host() -> Host:
    """The processor of this machine.

    Raises
    ------
    MissingExtraError
        Without llvmlite.
    """
    llvm = _llvm()
    try:
        features = dict(llvm.get_host_cpu_features())
    except RuntimeError:
        # LLVM cannot ask everywhere; it knows what comes with the processor's name.
        features = {}
    return describe(llvm.get_host_cpu_name(), features)


def pool() -> Pool:
    """The threads that steps run on."""
    with _working:
        return _pool()


@cache
def _pool() -> Pool:
    return Pool(load(threads.text(), permanent=True).address, thread_count())


@cache
def _llvm() -> Any:
    """The binding to LLVM, which has no types. Importing it takes 60 ms."""
    if hasattr(os, "register_at_fork"):
        # A child must not begin with a compiler that was at work.
        os.register_at_fork(before=_working.acquire, after_in_parent=_working.release, after_in_child=_working.release)
    try:
        import llvmlite.binding as llvm  # pyright: ignore[reportMissingTypeStubs] - llvmlite has none
    except ImportError:
        raise MissingExtraError("native code needs llvmlite, which is not installed", mend="pip install 'chainrule[cpu]'") from None
    llvm.initialize_native_target()
    llvm.initialize_native_asmprinter()
    return llvm


@cache
def _machine() -> Any:
    llvm = _llvm()
    target = llvm.Target.from_triple(llvm.get_process_triple())
    # Without a code model of its own, LLVM takes the large one for a JIT, where every constant costs two instructions more.
    model = "jitdefault" if sys.platform == "win32" else "small"
    return target.create_target_machine(cpu=host().cpu, features=host().features, opt=2, jit=True, reloc="pic", codemodel=model)


@cache
def _jit() -> Any:
    # JITLink keeps a module's code and constants together, as the small code model wants it.
    return _llvm().create_lljit_compiler(_machine(), use_jit_link=sys.platform != "win32")


@cache
def machine_kind() -> tuple[str, ...]:
    """What machine code depends on besides the IR."""
    llvm = _llvm()
    release = sys.modules["llvmlite"].__version__
    return (sys.platform, llvm.get_process_triple(), host().cpu, host().features, release, str(llvm.llvm_version_info), "O2 pic")


def _revive(key: str, names: Iterable[str], symbols: Mapping[str, int]) -> Any:
    """What was kept, linked; None if there is nothing that can be."""
    image = fetch(key)
    if image is None:
        return None
    try:
        return _link(image, names, symbols)
    except TraceError:
        # Whole, and yet not what this LLVM takes.
        discard(key)
        return None


def _link(image: bytes, names: Iterable[str], symbols: Mapping[str, int]) -> Any:
    builder = _llvm().JITLibraryBuilder().add_object_img(image).add_current_process()
    for name, address in symbols.items():
        builder.import_symbol(name, address)
    for name in names:
        builder.export_symbol(name)
    try:
        return builder.link(_jit(), f"chainrule.{next(_numbers)}")
    except RuntimeError as error:
        raise TraceError(f"LLVM cannot link the module: {error}", mend=_REPORT) from None


def _compile(text: str, optimize: int) -> bytes:
    """An object file."""
    return _machine().emit_object(_module(text, optimize))


def _module(text: str, optimize: int) -> Any:
    llvm = _llvm()
    try:
        module = llvm.parse_assembly(text)
        # A hundredth of what compiling takes.
        module.verify()
    except RuntimeError as error:
        raise TraceError(_blame(text, str(error)), mend=_REPORT) from None
    if optimize:
        passes = llvm.create_pass_builder(_machine(), llvm.create_pipeline_tuning_options(optimize))
        passes.getModulePassManager().run(module, passes)
    return module


def _blame(text: str, message: str) -> str:
    """What LLVM says, with the function and the line that it speaks of."""
    found = _LINE.search(message)
    if not found:
        return f"LLVM refuses the module: {message.strip()}"
    number = int(found.group(1))
    lines = text.splitlines()[:number]
    function = next((m.group(1) for line in reversed(lines) if (m := _FUNCTION.match(line))), "")
    return f"LLVM refuses line {number}{f' in {function}' if function else ''}: {lines[-1].strip() if lines else ''}\n{message.strip()}"
