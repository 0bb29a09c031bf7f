"""Making things ahead of time in a thread, in order, a few at a time; the thread never outlives who waits for them.

The two sides speak through two queues. The waiting side asks for things by number, a few more than it has taken; the thread
makes what is asked for and stops when it is told to. Neither polls, and nothing here takes a lock that a garbage collection in the
other thread might want (`queue.SimpleQueue` is reentrant), so the iterator may be dropped anywhere, even in a reference cycle.
"""

from __future__ import annotations

import contextvars
import sys
import threading
from collections.abc import Callable, Generator, Sequence
from queue import SimpleQueue
from typing import NamedTuple, TypeVar

T = TypeVar("T")

NAME = "chainrule prefetch"


class _Made(NamedTuple):
    thing: object
    error: BaseException | None


def ahead(make: Callable[[int], T], numbers: Sequence[int], count: int) -> Generator[T]:
    """``make(number)`` for each number in order, up to ``count`` of them made before they are asked for.

    An error in ``make`` is raised here, at its place in the order, with its traceback. The thread has ended when the generator is
    exhausted, closed or collected; what it is making at that moment is waited for.
    """
    wanted: SimpleQueue[int | None] = SimpleQueue()
    made: SimpleQueue[_Made] = SimpleQueue()
    closed: list[bool] = []
    # A context variable set around the loop (numpy.errstate, say) holds for what is made for it.
    run = contextvars.copy_context().run
    thread = threading.Thread(target=run, args=(_work, make, wanted, made, closed), name=NAME, daemon=True)
    for number in numbers[:count]:
        wanted.put(number)
    thread.start()
    try:
        for place in range(len(numbers)):
            thing, error = made.get()
            if error is not None:
                raise error
            if place + count < len(numbers):
                wanted.put(numbers[place + count])
            yield thing  # pyright: ignore[reportReturnType] - it is what make gave
            del thing
    finally:
        closed.append(True)
        wanted.put(None)
        # At exit daemon threads stand still for good; and a collection in the thread itself may have brought it here.
        if not sys.is_finalizing() and thread is not threading.current_thread():
            thread.join()


def _work(make: Callable[[int], object], wanted: SimpleQueue[int | None], made: SimpleQueue[_Made], closed: Sequence[bool]) -> None:
    while (number := wanted.get()) is not None and not closed:
        try:
            made.put(_Made(make(number), None))
        except BaseException as error:
            made.put(_Made(None, error))
            return
