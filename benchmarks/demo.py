"""Wall time and peak memory of the whole default comparison, all its processes together, in a fresh directory.

    python -m benchmarks.demo                     # what make demo runs
    python -m benchmarks.demo digits-cnn --seeds 2

Memory is the sum of proportional set sizes (each shared page counted once), sampled ten times a second. Linux only.
"""

import os
import platform
import subprocess
import sys
import tempfile
import time
from pathlib import Path


def main(arguments: list[str]) -> int:
    problem, *options = arguments or ["digits-mlp"]
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "runs"
        command = [sys.executable, "-m", "landscape.cli", "compare", problem, "--out", str(out), *options]
        first, peak = measured(command)
        again, _ = measured(command)
        losses = deepest(out)
    print(f"machine: {os.cpu_count()} cores, {processor()}")
    print(
        f"landscape compare {' '.join([problem, *options])}: {first:.0f} s, peak memory {peak / 2**30:.2f} GiB"
    )
    print(f"the same command again: {again:.1f} s")
    for optimizer, (low, high) in losses.items():
        print(f"train loss of {optimizer}: {low:.3g} to {high:.3g} over seeds")
    return 0


def measured(command: list[str]) -> tuple[float, int]:
    """(seconds, peak bytes) of a command and its descendants."""
    start, peak = time.perf_counter(), 0
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    while process.poll() is None:
        peak = max(peak, sum(memory(pid) for pid in family(process.pid)))
        time.sleep(0.1)
    if process.returncode:
        raise SystemExit(f"the command failed with exit code {process.returncode}")
    return time.perf_counter() - start, peak


def family(pid: int) -> list[int]:
    """A process and all that descend from it."""
    children: dict[int, list[int]] = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(")")[2].split()
        except OSError:  # it has ended
            continue
        children.setdefault(int(fields[1]), []).append(int(stat.parent.name))
    found = [pid]
    for parent in found:
        found += children.get(parent, [])
    return found


def memory(pid: int) -> int:
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    except OSError:
        return 0
    return sum(1024 * int(line.split()[1]) for line in lines if line.startswith("Pss:"))


def deepest(out: Path) -> dict[str, tuple[float, float]]:
    from landscape.comparison import load_comparison

    found = load_comparison(out)
    losses = {
        name: [s.train_loss for s in found.solutions if s.optimizer == name] for name in found.optimizers
    }
    return {name: (min(values), max(values)) for name, values in losses.items()}


def processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
