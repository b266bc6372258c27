"""What benchmarks measure and report with: medians of turns, peak memory, the machine's own rates, tables."""

import gc
import os
import platform
import re
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.profiler import ProfilerActivity, profile

Work = Callable[[], Any]
WARM_UP = 3


def turns(works: Sequence[Work], repeats: int, *, warm_up: int = WARM_UP) -> np.ndarray:
    """Seconds (repeats, works) of works that take turns, back and forth, after a few that are not counted."""
    seconds = np.empty((repeats, len(works)))
    for _ in range(warm_up):
        for work in works:
            work()
    gc.collect()
    gc.disable()
    for turn in range(repeats):
        for which in range(len(works)) if turn % 2 else reversed(range(len(works))):
            start = time.perf_counter()
            works[which]()
            seconds[turn, which] = time.perf_counter() - start
    gc.enable()
    return seconds


def peak_bytes(work: Work) -> int:
    """Most bytes of tensors in use at a time inside the work, beyond those before it."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as watched:
        work()
    events = watched.profiler.kineto_results.events()  # type: ignore[union-attr]
    events = sorted((e for e in events if e.name() == "[memory]"), key=lambda e: e.start_ns())
    return max(0, *np.cumsum([e.nbytes() for e in events]))  # type: ignore[attr-defined]


def machine() -> str:
    """Processor, cores, threads and version, for the head of a table."""
    names = (
        [
            line.split(":")[1].strip()
            for line in Path("/proc/cpuinfo").read_text().splitlines()
            if line.startswith("model name")
        ]
        if Path("/proc/cpuinfo").exists()
        else []
    )
    name = names[0] if names else platform.processor()
    return f"{os.cpu_count()} cores of {name}, {torch.get_num_threads()} threads, torch {torch.__version__}"


def gemm_rate(side: int = 2048) -> float:
    """Floating-point operations a second of a large float32 matrix product."""
    a, b = torch.randn(side, side), torch.randn(side, side)
    return 2 * side**3 / float(np.median(turns([lambda: a @ b], 7)))


def memory_rate(numbers: int = 2**26) -> float:
    """Bytes a second, read and written, of a copy much larger than the cache."""
    a, b = torch.zeros(numbers), torch.ones(numbers)
    return 8 * numbers / float(np.median(turns([lambda: a.copy_(b)], 7)))


def head(*names: str) -> Iterator[str]:
    """The first two lines of a table."""
    yield row(*names)
    yield "|" + "---|" * len(names)


def row(*cells: str) -> str:
    """A line of a table."""
    return f"| {' | '.join(cells)} |"


def replaced(page: Path, name: str, text: str) -> None:
    """Puts text between the page's markers of that name."""
    marked = re.compile(f"(<!-- {re.escape(name)} -->\n).*?(<!-- end -->)", re.DOTALL)
    page.write_text(marked.sub(lambda found: f"{found[1]}\n{text}\n\n{found[2]}", page.read_text()))
