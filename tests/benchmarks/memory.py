"""Peak memory of exact matching, whatever the number of training descriptors.

    PYTHONPATH=tests python -m benchmarks.memory [NUM_TRAIN ...] [--generated N] [--k K]

For every number a process of its own writes that many random unit vectors to a temporary file,
maps it, and matches. Prints JSON: the peak of memory of its own above what the process held before
(generated vectors and answer included), and the peak that counts the mapped file as well, whose
pages the system takes back whenever it wants to.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import numpy as np

from pytest_memscan.similarity.matching.nearest import most_similar

_WRITTEN_AT_ONCE = 10_000


def own_megabytes() -> float:
    """Memory of this process that is not a page of some file."""
    status = Path("/proc/self/status").read_text(encoding="ascii")
    lines = dict(line.split(":", 1) for line in status.splitlines())
    return int(lines["RssAnon"].split()[0]) / 1024


class Peak:
    """The largest `own_megabytes` while it is entered."""

    def __enter__(self) -> Peak:
        self.before = self.highest = own_megabytes()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._stop.is_set():
            self.highest = max(self.highest, own_megabytes())
            time.sleep(0.002)

    @property
    def megabytes(self) -> int:
        return round(self.highest - self.before)


def write_vectors(path: Path, count: int, dimension: int) -> None:
    """Random unit vectors, written a block at a time."""
    target = np.lib.format.open_memmap(path, mode="w+", dtype=np.float32, shape=(count, dimension))
    rng = np.random.default_rng(0)
    for start in range(0, count, _WRITTEN_AT_ONCE):
        block = rng.standard_normal((min(_WRITTEN_AT_ONCE, count - start), dimension), np.float32)
        target[start : start + len(block)] = block / np.linalg.norm(block, axis=1, keepdims=True)
    target.flush()


def measure(path: Path, num_generated: int, k: int) -> dict[str, float]:
    """Peaks of this process while it matches with the vectors in a file."""
    train = np.load(path, mmap_mode="r")
    generated = np.array(train[:: max(1, len(train) // num_generated)][:num_generated])
    most_similar(generated[:8], train[:100], k=1)  # warm up
    with Peak() as search:
        most_similar(generated, train, k=k)
    return {
        "peak MB of most_similar": search.megabytes,
        "peak MB with the mapped file": round(
            resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        ),
        "MB of the file": round(path.stat().st_size / 2**20),
    }


def main() -> None:
    """Run one process for every number of training vectors."""
    parser = argparse.ArgumentParser()
    parser.add_argument("num_train", type=int, nargs="*", default=[100_000, 1_000_000])
    parser.add_argument("--generated", type=int, default=2_000)
    parser.add_argument("--dimension", type=int, default=512)
    parser.add_argument("--k", type=int, default=10)
    parser.add_argument("--measure", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure is not None:
        print(json.dumps(measure(options.measure, options.generated, options.k)))
        return
    results = {}
    for count in options.num_train:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder, "train.npy")
            write_vectors(path, count, options.dimension)
            output = subprocess.run(
                [
                    sys.executable,
                    __file__,
                    f"--measure={path}",
                    f"--generated={options.generated}",
                    f"--k={options.k}",
                ],
                check=True,
                capture_output=True,
                text=True,
            ).stdout
        results[f"{count:,}"] = json.loads(output)
    print(json.dumps(results, indent=2))


if __name__ == "__main__":
    main()
