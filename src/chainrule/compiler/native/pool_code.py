"""The code of a pool of threads: it runs one step on all of them, lets them wait for each other inside it, and shares out units of work.

Its module is never freed, because its threads sleep in it until the process ends. It knows nothing of what a step computes.
Who calls while a step of another caller is running has no share of the threads and runs alone: results do not depend on it.
"""

from __future__ import annotations

import platform
import sys

__all__ = ["MOST", "SYMBOLS", "WORKS", "text"]

MOST = 256
"""Threads of a pool: a job's word has eight bits for how many take part."""

SYMBOLS = ("pool_run", "pool_turn", "pool_barrier", "pool_take")
"""Functions for other modules: ``void pool_run(ptr step, ptr args)``; ``void pool_turn(ptr step, ptr args, ptr mood)``, the same for a step that
runs again and again, with two i32 of its own that are 0 at first; ``void pool_barrier(i64 thread, i64 threads)``; ``{ i64, i64 } pool_take(i64 work,
i64 thread, i64 threads, i64 units, i64 least, i64 done)``, from which to which unit of a work a thread goes on, no unit if nothing is left: ``done``
is where it ended last, 0 at first."""

WORKS = 8
"""How many works, counted from 0, may be shared out by `pool_take` between two barriers."""

# Offers of the processor to others (0.4 us if nobody takes them) before sleeping; waking costs 20 to 60 us.
_OFFERS = 500

# Turns that a step runs alone after one in which threads spent all that they gained waiting for each other, which happens where other
# processes want their processors: at first, and at most, as they double each time.
_ALONE_FIRST, _ALONE_MOST = 16, 512

# Bytes of a thread's stack: some systems give no more than what kernels keep on it.
_STACK = 8 << 20

_FUTEX = {"x86_64": 202, "aarch64": 98, "riscv64": 98, "ppc64le": 221, "s390x": 238}
# A thread takes the 2**-_PART of what is left of a share at a time: when it is slow, most of the rest is there for others.
_PART = 2
_PAUSE = {
    "x86_64": ("declare void @llvm.x86.sse2.pause()", "call void @llvm.x86.sse2.pause()"),
    "aarch64": ("declare void @llvm.aarch64.hint(i32)", "call void @llvm.aarch64.hint(i32 1)"),
}

# A word that is waited for lies in a cache line of its own, followed by the number of those that sleep until it changes.
_POOL = """
%word = type { i32, i32, [14 x i32] }
@job = internal global %word zeroinitializer, align 64
@left = internal global %word zeroinitializer, align 64
@phase = internal global %word zeroinitializer, align 64
@arrived = internal global i32 0, align 64
@taken = internal global i32 0, align 64
@step = internal global ptr null, align 64
@args = internal global ptr null
@workers = internal global i32 0
@wanted = internal global i32 1
@rounds = internal global i32 0
; Counts the stretches between waits. How many units of a thread's shares have been taken stands in the low halves of its line, one for each
; work, and in the high halves since which stretch: no count is ever set back.
@stretch = internal global i64 1, align 64
@shares = internal global [MOST x [WORKS x i64]] zeroinitializer, align 64
; Nanoseconds of waits inside of steps that took more than the rounds.
@lost = internal global i64 0, align 64

declare i32 @clock_gettime(i32, ptr)
define internal i64 @clock() nounwind {
  %pair = alloca [2 x i64]
  %ignored = call i32 @clock_gettime(i32 CLOCK, ptr %pair)
  %seconds = load i64, ptr %pair
  %place = getelementptr i64, ptr %pair, i64 1
  %rest = load i64, ptr %place
  %whole = mul i64 %seconds, 1000000000
  %now = add i64 %whole, %rest
  ret i64 %now
}

declare i32 @pthread_attr_init(ptr)
declare i32 @pthread_attr_setstacksize(ptr, i64)
declare i32 @pthread_attr_destroy(ptr)
declare i32 @pthread_create(ptr, ptr, ptr, ptr)
declare i32 @sched_yield()

; Until the word is no longer what it was; returns what it is then.
define internal i32 @wait(ptr %word, i32 %old) nounwind {
entry:
  %sleepers = getelementptr i32, ptr %word, i64 1
  %rounds = load atomic i32, ptr @rounds monotonic, align 4
  br label %look
look:
  %round = phi i32 [ 0, %entry ], [ %round.next, %again ]
  %now = load atomic i32, ptr %word acquire, align 4
  %changed = icmp ne i32 %now, %old
  br i1 %changed, label %done, label %again
again:
  PAUSE
  %round.next = add i32 %round, 1
  %patient = icmp ult i32 %round.next, %rounds
  br i1 %patient, label %look, label %long
long:
  %since = call i64 @clock()
  br label %offer
offer:
  %offers = phi i32 [ 0, %long ], [ %offers.next, %offer.again ]
  %offer.now = load atomic i32, ptr %word acquire, align 4
  %offer.changed = icmp ne i32 %offer.now, %old
  br i1 %offer.changed, label %late, label %offer.again
offer.again:
  %ignored = call i32 @sched_yield()
  %offers.next = add i32 %offers, 1
  %awake = icmp ult i32 %offers.next, OFFERS
  br i1 %awake, label %offer, label %sleep
sleep:
  %more = atomicrmw add ptr %sleepers, i32 1 seq_cst
  call void @park(ptr %word, i32 %old)
  %fewer = atomicrmw sub ptr %sleepers, i32 1 seq_cst
  %woken.now = load atomic i32, ptr %word acquire, align 4
  %woken = icmp ne i32 %woken.now, %old
  br i1 %woken, label %late, label %sleep
late:
  %result = phi i32 [ %offer.now, %offer ], [ %woken.now, %sleep ]
  %until = call i64 @clock()
  %took = sub i64 %until, %since
  ; Who waits for a job loses nothing.
  %idle = icmp eq ptr %word, @job
  %lost = select i1 %idle, i64 0, i64 %took
  %before = atomicrmw add ptr @lost, i64 %lost monotonic
  ret i32 %result
done:
  ret i32 %now
}

; After the word was changed, with seq_cst: either the sleepers are seen here, or they see the change.
define internal void @wake(ptr %word) nounwind {
  %place = getelementptr i32, ptr %word, i64 1
  %sleepers = load atomic i32, ptr %place seq_cst, align 4
  %some = icmp ne i32 %sleepers, 0
  br i1 %some, label %call, label %done
call:
  call void @unpark(ptr %word)
  br label %done
done:
  ret void
}

; The low half is this thread's number, the high half the last job before its time.
define internal ptr @worker(ptr %packed) nounwind {
entry:
  %bits = ptrtoint ptr %packed to i64
  %number = and i64 %bits, 4294967295
  %high = lshr i64 %bits, 32
  %first = trunc i64 %high to i32
  br label %rest
rest:
  %seen = phi i32 [ %first, %entry ], [ %job, %rest ], [ %job, %work ], [ %job, %tell ]
  %job = call i32 @wait(ptr @job, i32 %seen)
  %last = and i32 %job, 255
  %last.wide = zext i32 %last to i64
  %mine = icmp ule i64 %number, %last.wide
  br i1 %mine, label %work, label %rest
work:
  %step = load ptr, ptr @step
  %args = load ptr, ptr @args
  %threads = add i64 %last.wide, 1
  call void %step(ptr %args, i64 %number, i64 %threads)
  %left = atomicrmw sub ptr @left, i32 1 seq_cst
  %end = icmp eq i32 %left, 1
  br i1 %end, label %tell, label %rest
tell:
  call void @wake(ptr @left)
  br label %rest
}

; Workers up to this number, with stacks of one size on every system; how many there are. If it refuses, there are fewer from now on.
define internal i32 @start(i32 %need) nounwind {
  %handle = alloca i64, align 8
  %traits = alloca [16 x i64], align 16
  br label %next
next:
  %have = load i32, ptr @workers
  %missing = icmp ult i32 %have, %need
  br i1 %missing, label %create, label %done
create:
  %number = add i32 %have, 1
  %low = zext i32 %number to i64
  %job = load atomic i32, ptr @job monotonic, align 4
  %wide = zext i32 %job to i64
  %high = shl i64 %wide, 32
  %bits = or i64 %low, %high
  %packed = inttoptr i64 %bits to ptr
  %begun = call i32 @pthread_attr_init(ptr %traits)
  %sized = call i32 @pthread_attr_setstacksize(ptr %traits, i64 STACK)
  %refused = call i32 @pthread_create(ptr %handle, ptr %traits, ptr @worker, ptr %packed)
  %ended = call i32 @pthread_attr_destroy(ptr %traits)
  %fine = icmp eq i32 %refused, 0
  br i1 %fine, label %count, label %give.up
count:
  store i32 %number, ptr @workers
  br label %next
give.up:
  store atomic i32 %number, ptr @wanted monotonic, align 4
  br label %done
done:
  %ready = call i32 @llvm.umin.i32(i32 %have, i32 %need)
  ret i32 %ready
}

define void @pool_run(ptr %step, ptr %args) nounwind {
entry:
  %wanted = load atomic i32, ptr @wanted monotonic, align 4
  %several = icmp ugt i32 %wanted, 1
  br i1 %several, label %ask, label %alone
ask:
  %pair = cmpxchg ptr @taken, i32 0, i32 1 acquire monotonic
  %free = extractvalue { i32, i1 } %pair, 1
  br i1 %free, label %gather, label %alone
alone:
  call void %step(ptr %args, i64 0, i64 1)
  ret void
gather:
  %need = sub i32 %wanted, 1
  %others = call i32 @start(i32 %need)
  store ptr %step, ptr @step
  store ptr %args, ptr @args
  store atomic i32 %others, ptr @left monotonic, align 4
  call void @advance()
  ; The job's number and the last thread that takes part in one word: who has no part in it reads nothing else of the job.
  %before = load atomic i32, ptr @job monotonic, align 4
  %bare = and i32 %before, -256
  %number = add i32 %bare, 256
  %job = or i32 %number, %others
  store atomic i32 %job, ptr @job seq_cst, align 4
  call void @wake(ptr @job)
  %wide = zext i32 %others to i64
  %threads = add i64 %wide, 1
  call void %step(ptr %args, i64 0, i64 %threads)
  br label %join
join:
  %left = load atomic i32, ptr @left acquire, align 4
  %all = icmp eq i32 %left, 0
  br i1 %all, label %done, label %stay
stay:
  %fewer = call i32 @wait(ptr @left, i32 %left)
  br label %join
done:
  store atomic i32 0, ptr @taken release, align 4
  ret void
}
declare i32 @llvm.umin.i32(i32, i32)

define void @pool_turn(ptr %step, ptr %args, ptr %mood) nounwind {
entry:
  %alone = load i32, ptr %mood
  %resting = icmp ne i32 %alone, 0
  br i1 %resting, label %rest, label %look
rest:
  %fewer = sub i32 %alone, 1
  store i32 %fewer, ptr %mood
  br label %single
look:
  %wanted = load atomic i32, ptr @wanted monotonic, align 4
  %several = icmp ugt i32 %wanted, 1
  br i1 %several, label %measure, label %single
single:
  call void %step(ptr %args, i64 0, i64 1)
  ret void
measure:
  %ignored = atomicrmw xchg ptr @lost, i64 0 monotonic
  %begin = call i64 @clock()
  call void @pool_run(ptr %step, ptr %args)
  %end = call i64 @clock()
  %lost = atomicrmw xchg ptr @lost, i64 0 monotonic
  %took = sub i64 %end, %begin
  ; Nine tenths of what the other threads could have done.
  %others = sub i32 %wanted, 1
  %others.wide = zext i32 %others to i64
  %gain = mul i64 %took, %others.wide
  %gain.nine = mul i64 %gain, 9
  %lost.ten = mul i64 %lost, 10
  %in.vain = icmp ugt i64 %lost.ten, %gain.nine
  %place = getelementptr i32, ptr %mood, i64 1
  %span = load i32, ptr %place
  %doubled = shl i32 %span, 1
  %longer = call i32 @llvm.umax.i32(i32 %doubled, i32 ALONE_FIRST)
  %bounded = call i32 @llvm.umin.i32(i32 %longer, i32 ALONE_MOST)
  %next = select i1 %in.vain, i32 %bounded, i32 0
  store i32 %next, ptr %place
  store i32 %next, ptr %mood
  ret void
}
declare i32 @llvm.umax.i32(i32, i32)

define void @pool_barrier(i64 %thread, i64 %threads) nounwind {
  %alone = icmp eq i64 %threads, 1
  br i1 %alone, label %done, label %arrive
arrive:
  %phase = load atomic i32, ptr @phase acquire, align 4
  %before = atomicrmw add ptr @arrived, i32 1 acq_rel
  %count = zext i32 %before to i64
  %last = sub i64 %threads, 1
  %is.last = icmp eq i64 %count, %last
  br i1 %is.last, label %open, label %stay
open:
  store atomic i32 0, ptr @arrived monotonic, align 4
  call void @advance()
  %opened = atomicrmw add ptr @phase, i32 1 seq_cst
  call void @wake(ptr @phase)
  ret void
stay:
  %new = call i32 @wait(ptr @phase, i32 %phase)
  ret void
done:
  ret void
}

; By one thread, while all others wait.
define internal void @advance() nounwind {
  %stretch = load i64, ptr @stretch
  %next = add i64 %stretch, 1
  store i64 %next, ptr @stretch
  ret void
}

; First of the thread's own share, then of those of the threads after it.
define { i64, i64 } @pool_take(i64 %work, i64 %thread, i64 %threads, i64 %units, i64 %least, i64 %done) nounwind {
entry:
  %alone = icmp eq i64 %threads, 1
  br i1 %alone, label %give, label %several
several:
  %now = load i64, ptr @stretch
  %mark = shl i64 %now, 32
  br label %owner
owner:
  %step = phi i64 [ 0, %several ], [ %step.next, %further ]
  %beyond = add i64 %thread, %step
  %round = icmp uge i64 %beyond, %threads
  %back = select i1 %round, i64 %threads, i64 0
  %whose = sub i64 %beyond, %back
  %from.wide = mul i64 %whose, %units
  %from = udiv i64 %from.wide, %threads
  %until.wide = add i64 %from.wide, %units
  %until = udiv i64 %until.wide, %threads
  %share = sub i64 %until, %from
  %place = getelementptr [MOST x [WORKS x i64]], ptr @shares, i64 0, i64 %whose, i64 %work
  %found = load atomic i64, ptr %place monotonic, align 8
  br label %look
look:
  %old = phi i64 [ %found, %owner ], [ %other, %try ]
  %since = and i64 %old, -4294967296
  %current = icmp eq i64 %since, %mark
  %count = and i64 %old, 4294967295
  %taken = select i1 %current, i64 %count, i64 0
  %some = icmp ult i64 %taken, %share
  br i1 %some, label %try, label %further
try:
  %left = sub i64 %share, %taken
  %part = lshr i64 %left, PART
  %enough = call i64 @llvm.umax.i64(i64 %part, i64 %least)
  %size = call i64 @llvm.umin.i64(i64 %enough, i64 %left)
  %more = add i64 %taken, %size
  %new = or i64 %mark, %more
  %pair = cmpxchg ptr %place, i64 %old, i64 %new monotonic monotonic
  %other = extractvalue { i64, i1 } %pair, 0
  %mine = extractvalue { i64, i1 } %pair, 1
  br i1 %mine, label %go, label %look
go:
  %go.first = add i64 %from, %taken
  %go.last = add i64 %go.first, %size
  br label %give
further:
  %step.next = add i64 %step, 1
  %others = icmp ult i64 %step.next, %threads
  br i1 %others, label %owner, label %give
give:
  %first = phi i64 [ %done, %entry ], [ %go.first, %go ], [ 0, %further ]
  %last = phi i64 [ %units, %entry ], [ %go.last, %go ], [ 0, %further ]
  %half = insertvalue { i64, i64 } undef, i64 %first, 0
  %both = insertvalue { i64, i64 } %half, i64 %last, 1
  ret { i64, i64 } %both
}
declare i64 @llvm.umax.i64(i64, i64)
declare i64 @llvm.umin.i64(i64, i64)

define void @pool_resize(i32 %threads, i32 %rounds) nounwind {
  store atomic i32 %threads, ptr @wanted monotonic, align 4
  store atomic i32 %rounds, ptr @rounds monotonic, align 4
  ret void
}

; In a forked child, where only the thread that forked lives on: as it was at first.
define void @pool_reset() nounwind {
  store %word zeroinitializer, ptr @job
  store %word zeroinitializer, ptr @left
  store %word zeroinitializer, ptr @phase
  store i32 0, ptr @arrived
  store i32 0, ptr @taken
  store i32 0, ptr @workers
  call void @prepare()
  ret void
}
"""

# Sleeping in the kernel, if the word is still what it was.
_LINUX = """
declare i64 @syscall(i64, ...)
define internal void @park(ptr %word, i32 %old) nounwind {
  %ignored = call i64 (i64, ...) @syscall(i64 FUTEX, ptr %word, i64 128, i32 %old, ptr null, ptr null, i32 0)
  ret void
}
define internal void @unpark(ptr %word) nounwind {
  %ignored = call i64 (i64, ...) @syscall(i64 FUTEX, ptr %word, i64 129, i32 2147483647, ptr null, ptr null, i32 0)
  ret void
}
define internal void @prepare() nounwind { ret void }
"""

_POSIX = """
@mutex = internal global [128 x i8] zeroinitializer, align 64
@condition = internal global [128 x i8] zeroinitializer, align 64
declare i32 @pthread_mutex_init(ptr, ptr)
declare i32 @pthread_mutex_lock(ptr)
declare i32 @pthread_mutex_unlock(ptr)
declare i32 @pthread_cond_init(ptr, ptr)
declare i32 @pthread_cond_wait(ptr, ptr)
declare i32 @pthread_cond_broadcast(ptr)
define internal void @park(ptr %word, i32 %old) nounwind {
entry:
  %locked = call i32 @pthread_mutex_lock(ptr @mutex)
  br label %look
look:
  %now = load atomic i32, ptr %word seq_cst, align 4
  %same = icmp eq i32 %now, %old
  br i1 %same, label %sleep, label %done
sleep:
  %slept = call i32 @pthread_cond_wait(ptr @condition, ptr @mutex)
  br label %look
done:
  %unlocked = call i32 @pthread_mutex_unlock(ptr @mutex)
  ret void
}
define internal void @unpark(ptr %word) nounwind {
  %locked = call i32 @pthread_mutex_lock(ptr @mutex)
  %told = call i32 @pthread_cond_broadcast(ptr @condition)
  %unlocked = call i32 @pthread_mutex_unlock(ptr @mutex)
  ret void
}
define internal void @prepare() nounwind {
  %first = call i32 @pthread_mutex_init(ptr @mutex, ptr null)
  %second = call i32 @pthread_cond_init(ptr @condition, ptr null)
  ret void
}
"""

_ALONE = """
define void @pool_run(ptr %step, ptr %args) nounwind {
  call void %step(ptr %args, i64 0, i64 1)
  ret void
}
define void @pool_turn(ptr %step, ptr %args, ptr %mood) nounwind {
  call void %step(ptr %args, i64 0, i64 1)
  ret void
}
define void @pool_barrier(i64 %thread, i64 %threads) nounwind { ret void }
define { i64, i64 } @pool_take(i64 %work, i64 %thread, i64 %threads, i64 %units, i64 %least, i64 %done) nounwind {
  %first = insertvalue { i64, i64 } undef, i64 %done, 0
  %both = insertvalue { i64, i64 } %first, i64 %units, 1
  ret { i64, i64 } %both
}
define void @pool_resize(i32 %threads, i32 %rounds) nounwind { ret void }
define void @pool_reset() nounwind { ret void }
"""


def text(system: str = sys.platform, machine: str = "") -> str:
    """The pool's module.

    Parameters
    ----------
    system : str
        On ``"linux"`` threads sleep by futex, on other kinds of Unix by a condition variable; elsewhere the caller runs alone.
    machine : str
        The processor's family; by default this one's.
    """
    family = (machine or platform.machine()).lower().replace("amd64", "x86_64").replace("arm64", "aarch64")
    if system == "win32":
        return _ALONE
    futex = _FUTEX.get(family) if system == "linux" else None
    declared, pause = _PAUSE.get(family, ("", ""))
    sleep = _POSIX if futex is None else _LINUX.replace("FUTEX", str(futex))
    numbers = {"OFFERS": _OFFERS, "ALONE_FIRST": _ALONE_FIRST, "ALONE_MOST": _ALONE_MOST, "CLOCK": 1 if system == "linux" else 6}
    numbers |= {"PART": _PART, "MOST": MOST, "WORKS": WORKS, "STACK": _STACK}
    pool = _POOL.replace("PAUSE", pause)
    for word, number in numbers.items():
        pool = pool.replace(word, str(number))
    return pool + sleep + declared + "\n"
