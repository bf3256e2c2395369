# SPDX-License-Identifier: Apache-2.0
"""The C side of an artifact for several threads: a function that each of the caller's threads calls.

The artifact has no runtime, so it starts no threads. Those of the caller meet between the stages of a program: the
last to arrive opens the door for the others, which look at it again and again (a centralized barrier, as in
Mellor-Crummey and Scott, "Algorithms for scalable synchronization on shared-memory multiprocessors", 1991; a counter of
rounds takes the place of the sense, so that nothing has to be set up before the next run).
"""

from collections.abc import Iterator

from sparsec.backends.entry import PARAMETERS, call_line, prologue
from sparsec.backends.isa import Isa
from sparsec.compiler.lowering.program import Program

SYNC_BYTES = 64
"""Bytes of the block on which threads meet; they start at a multiple of as many, so it is a cache line."""


def functions(program: Program) -> tuple[str, ...]:
    """Names of the functions that an artifact for several threads has besides those of every artifact."""
    return (f"{program.name}_threads", f"{program.name}_run_thread") if program.threads > 1 else ()


def options(isa: Isa) -> tuple[str, ...]:
    """What the C compiler must be told for `source`: to write atomic operations out, as there is no library."""
    return ("-mno-outline-atomics",) if isa.triple.startswith("aarch64") else ()


def source(program: Program) -> str:
    """The functions in C, to stand behind `entry.source`; nothing for one thread.

    The status of the second is that of `NAME_run`, or 3 for a thread that there is not.
    """
    if program.threads == 1:
        return ""
    name = program.name
    return "\n".join(
        [
            _MEET.format(threads=program.threads, patience=_PATIENCE),
            f"int {name}_threads(void);",
            f"int {name}_threads(void) {{ return {program.threads}; }}",
            "",
            f"int {name}_run_thread({PARAMETERS}, void *sync, int thread);",
            f"int {name}_run_thread({PARAMETERS}, void *sync, int thread) {{",
            *prologue(program, ("sync",)),
            f"  if (thread < 0 || thread >= {program.threads}) return 3;",
            "  switch (thread) {",
            *(line for thread in range(program.threads) for line in _case(program, thread)),
            "  }",
            "  return 0;",
            "}",
            "",
        ]
    )


def _case(program: Program, thread: int) -> Iterator[str]:
    """The calls of one thread, and where it waits: between stages, and at the end."""
    yield f"    case {thread}:"
    for stage in range(program.stages):
        own = [call for call in program.calls if (call.stage, call.thread) == (stage, thread)]
        yield from (f"      {line}" for line in map(call_line, own))
        yield "      meet((uint32_t *)sync);"
    yield "      break;"


def declarations(program: Program) -> list[str]:
    """Lines for the header that `entry.header` writes; none for one thread."""
    if program.threads == 1:
        return []
    text = _DECLARATIONS.format(
        name=program.name,
        BIG=program.name.upper(),
        threads=program.threads,
        last=program.threads - 1,
        parameters=PARAMETERS,
        bytes=SYNC_BYTES,
    )
    return text.splitlines()


_PATIENCE = 4000
"""Turns of waiting, some ten microseconds to a hundred, before a thread gives way."""
_MEET = """\
enum {{ PATIENCE = {patience} }};

#if defined(__x86_64__)
#define PAUSE() __asm__ volatile("pause")
#elif defined(__aarch64__)
#define PAUSE() __asm__ volatile("yield")
#endif

/* Let another thread have this core: Linux's sched_yield, the one system call there is. */
static void give_way(void) {{
#if defined(__linux__) && defined(__x86_64__)
  long number = 24;
  __asm__ volatile("syscall" : "+a"(number) : : "rcx", "r11", "memory");
#elif defined(__linux__) && defined(__aarch64__)
  register long number __asm__("x8") = 124;
  register long result __asm__("x0");
  __asm__ volatile("svc 0" : "=r"(result) : "r"(number) : "memory");
#else
  PAUSE();
#endif
}}

/* Wait until all threads are here: sync[0] counts those that are, sync[1] the rounds. */
static void meet(uint32_t *sync) {{
  const uint32_t round = __atomic_load_n(sync + 1, __ATOMIC_ACQUIRE);
  if (__atomic_add_fetch(sync, 1, __ATOMIC_ACQ_REL) == {threads}u) {{
    __atomic_store_n(sync, 0, __ATOMIC_RELAXED);
    __atomic_store_n(sync + 1, round + 1, __ATOMIC_RELEASE);
    return;
  }}
  for (int turns = 0; __atomic_load_n(sync + 1, __ATOMIC_ACQUIRE) == round; turns++) {{
    if (turns < PATIENCE) {{
      PAUSE();
    }} else {{
      give_way();
      turns = PATIENCE;
    }}
  }}
}}
"""

_DECLARATIONS = """\

/* The same by {threads} threads at once. {name}_threads returns {threads}. Each of as many threads of yours calls
 * {name}_run_thread with the same pointers and a number of its own, 0 to {last}; it returns when all are done.
 * The results have the same bits as those of {name}_run, which does all the work on the thread that calls it.
 *   sync     {bytes} bytes at a multiple of {bytes}, zero before the first run; the next run may use them as they are.
 * Between two layers threads wait for each other; they do not sleep, but give way to other threads where that takes
 * long (Linux's sched_yield, the only system call). So have at least {threads} free processor cores, and
 * do call it from all {threads} threads: one that is missing keeps the others waiting for ever.
 * Returns what {name}_run returns, or 3 if there is no thread of that number: then nothing is done, and others wait.
 *
 * Example with POSIX threads; weights, arena, inputs and outputs as above, but outside of any function:
 *
 *     static _Alignas({bytes}) unsigned char sync[{BIG}_SYNC_BYTES];
 *     static void *work(void *number) {{
 *       int status = {name}_run_thread(weights, arena, inputs, outputs, sync, (int)(intptr_t)number);
 *       return (void *)(intptr_t)status;
 *     }}
 *     int run(void) {{
 *       pthread_t others[{BIG}_THREADS];
 *       for (intptr_t i = 1; i < {BIG}_THREADS; i++) pthread_create(&others[i], 0, work, (void *)i);
 *       void *status = work(0);
 *       for (int i = 1; i < {BIG}_THREADS; i++) pthread_join(others[i], 0);
 *       return (int)(intptr_t)status;
 *     }}
 *
 * To start threads takes longer than a small model: keep them, and let them wait for the next input. */
#define {BIG}_THREADS {threads}
#define {BIG}_SYNC_BYTES {bytes}u
int {name}_threads(void);
int {name}_run_thread({parameters}, void *sync, int thread);"""
