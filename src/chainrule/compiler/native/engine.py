"""From LLVM IR as text to machine code in this process: the only file that knows llvmlite.

All code lives in one ORC JIT, each module in a library of its own, which is freed with the `Code` that stands for it. What a
module means, and who calls it, is the business of others.
"""

from __future__ import annotations

import ctypes
import marshal
import os
import re
import sys
import threading
from collections.abc import Iterable, Mapping
from functools import cache, partial
from importlib.util import find_spec
from itertools import count
from typing import Any

from chainrule.compiler.native import threads
from chainrule.compiler.native.cache import discard, fetch, keep, key_of
from chainrule.compiler.native.host import Host, describe
from chainrule.compiler.native.pieces import pieces, shared
from chainrule.compiler.native.threads import Pool, thread_count
from chainrule.core.errors import MissingExtraError, TraceError

_DEFINED = re.compile(r"^define (?!internal |private )[^@\n]*@([\w.$]+)\(", re.MULTILINE)
_FUNCTION = re.compile(r"^define [^@\n]*@([\w.$]+)\(")
_POOLED = re.compile(r"^declare .*@pool_", re.MULTILINE)
_LINE = re.compile(r":(\d+):\d+: ")
_REPORT = "this is a mistake of the library: please report it with this message"
_PIECE = 100_000
"""Characters of a module that are compiled in one go, about; it takes 50 to 100 ms."""
_numbers = count()
_working = threading.RLock()
_kept: list[Any] = []
_locks: list[Any] = [_working]
"""In the order in which they are taken; llvmlite's own, too, when it is there."""


def _hold() -> None:
    for lock in _locks:
        lock.__enter__()


def _let_go() -> None:
    for lock in reversed(_locks):
        lock.__exit__(None, None, None)


if hasattr(os, "register_at_fork"):
    # A child must not begin with a compiler that was at work.
    os.register_at_fork(before=_hold, after_in_parent=_let_go, after_in_child=_let_go)


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
    try:
        return find_spec("llvmlite") is not None
    except (ImportError, ValueError):
        # Who looks for modules refuses this one.
        return False


def load(text: str = "", *, loops: str = "", symbols: Mapping[str, int] | None = None, permanent: bool = False) -> Code:
    """Compile a module and make it callable.

    Parameters
    ----------
    text : str
        LLVM IR that has its vectors written out. Functions that are neither internal nor private get an address. The
        instructions are chosen with care, and nothing else is made better.
    loops : str
        LLVM IR with scalar loops that LLVM shall turn into vectors; it and ``text`` may call each other's functions.
    symbols : Mapping, optional
        Addresses of what the module declares and does not define; the pool's functions and the C library's are found by
        themselves.
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
        whole = f"{text}\n{loops}"
        given = {**pool().symbols, **(symbols or {})} if _POOLED.search(whole) else symbols or {}
        names = _DEFINED.findall(whole)
        key = key_of(text, loops, *machine_kind())
        tracker = _revive(key, names, given)
        if tracker is None:
            images = _compile(text, loops)
            tracker = _link(images, names, given)
            keep(key, marshal.dumps(images))
        if permanent:
            _kept.append(tracker)
    return Code({name: tracker[name] for name in names}, tracker, key)


def reload(key: str, names: Iterable[str], *, pooled: bool = False) -> Code | None:
    """What `load` has kept, without its text; None if it is not there any more.

    Parameters
    ----------
    key : str
        Of the code that was loaded.
    names : iterable of str
        Its functions.
    pooled : bool
        Whether it calls the pool's functions; other symbols it must not need.
    """
    with _working:
        tracker = _revive(key, names, pool().symbols if pooled else {})
    return None if tracker is None else Code({name: tracker[name] for name in names}, tracker, key)


def assembly(text: str, *, optimize: int = 0) -> str:
    """The instructions that a module becomes, to be read."""
    with _working:
        module, machine = _parsed(text), _machine()
        if optimize:
            _optimize(module, machine, optimize)
        return machine.emit_assembly(module)


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
    try:
        import llvmlite.binding as llvm  # pyright: ignore[reportMissingTypeStubs] - llvmlite has none
    except (ImportError, OSError) as error:
        # Its file of machine code may be missing, or made for another system.
        says = f"which cannot be imported: {error}" if available() else "which is not installed"
        raise MissingExtraError(f"native code needs llvmlite, {says}", mend="pip install 'chainrule[cpu]'") from None
    llvm.initialize_native_target()
    llvm.initialize_native_asmprinter()
    lock = _reached(llvm, "ffi.lib._lock")
    if lock:
        _locks.append(lock)
    return llvm


def _machine() -> Any:
    """Writes instructions for the host, for one thread at a time."""
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
    kept = fetch(key)
    if kept is None:
        return None
    try:
        return _link(marshal.loads(kept), names, symbols)  # noqa: S302, as trusted as what is in it, which is run
    except (ValueError, EOFError, TypeError, TraceError):
        # Whole, and yet not what this LLVM takes.
        discard(key)
        return None


def _link(images: Iterable[bytes], names: Iterable[str], symbols: Mapping[str, int]) -> Any:
    builder = _llvm().JITLibraryBuilder().add_current_process()
    for image in images:
        builder.add_object_img(image)
    for name, address in symbols.items():
        builder.import_symbol(name, address)
    for name in names:
        builder.export_symbol(name)
    try:
        return builder.link(_jit(), f"chainrule.{next(_numbers)}")
    except RuntimeError as error:
        raise TraceError(f"LLVM cannot link the module: {error}", mend=_REPORT) from None


def _compile(text: str, loops: str) -> list[bytes]:
    """Object files."""
    modules = [(piece, 0) for piece in pieces(text, _PIECE) if piece]
    # What takes longest begins first: loops are short, and much is done with them.
    modules = [*([(loops, 2)] if loops else []), *sorted(modules, key=lambda module: -len(module[0]))]
    try:
        return shared([partial(_object, *module) for module in modules], thread_count())
    except TraceError:
        # It has counted the lines of a piece.
        _parsed(text)
        raise


def _object(text: str, optimize: int) -> bytes:
    """An object file. Context and machine are its own: threads may work on several."""
    machine = _machine()
    module = _parsed(text)
    if optimize:
        _optimize(module, machine, optimize)
    emit = _unlocked("LLVMPY_TargetMachineEmitToMemory")
    if emit is None:
        return machine.emit_object(module)
    ffi = _llvm().ffi
    with ffi.OutputString() as message:
        memory = emit(machine, module, 1, message)
        if not memory:
            raise TraceError(f"LLVM cannot compile the module: {message}", mend=_REPORT)
    try:
        return ctypes.string_at(ffi.lib.LLVMPY_GetBufferStart(memory), ffi.lib.LLVMPY_GetBufferSize(memory))
    finally:
        ffi.lib.LLVMPY_DisposeMemoryBuffer(memory)


def _parsed(text: str) -> Any:
    """A module in a context of its own."""
    llvm = _llvm()
    try:
        module = llvm.parse_assembly(text, llvm.create_context())
        # A hundredth of what compiling takes.
        module.verify()
    except RuntimeError as error:
        raise TraceError(_blame(text, str(error)), mend=_REPORT) from None
    return module


def _optimize(module: Any, machine: Any, level: int) -> None:
    llvm = _llvm()
    passes = llvm.create_pass_builder(machine, llvm.create_pipeline_tuning_options(level))
    manager = passes.getModulePassManager()
    run = _unlocked("LLVMPY_RunNewModulePassManager") or type(manager).run
    run(manager, module, passes)


def _unlocked(name: str) -> Any:
    """A function of LLVM without llvmlite's lock, which lets in one thread at a time; None if it is not to be had."""
    return _reached(_llvm(), f"ffi.lib.{name}._cfn")


def _reached(x: Any, path: str) -> Any:
    """What lies inside of llvmlite, whose other releases may not have it: then it is None."""
    for name in path.split("."):
        x = getattr(x, name, None)
    return x


def _blame(text: str, message: str) -> str:
    """What LLVM says, with the function and the line that it speaks of."""
    found = _LINE.search(message)
    if not found:
        return f"LLVM refuses the module: {message.strip()}"
    number = int(found.group(1))
    lines = text.splitlines()[:number]
    function = next((m.group(1) for line in reversed(lines) if (m := _FUNCTION.match(line))), "")
    return f"LLVM refuses line {number}{f' in {function}' if function else ''}: {lines[-1].strip() if lines else ''}\n{message.strip()}"
