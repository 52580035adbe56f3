"""Greedy cliques against a loop over networkx's ``find_cliques``, and a whole extraction.

    PYTHONPATH=tests python -m benchmarks.cliques [NUM_IMAGES ...] [--cap SECONDS]

Prints JSON: for each number of images and each share of pairs that are joined, seconds of
processor time down to the smallest size, of ours and of networkx; the size of the first clique of
both; whether ours was proven to be the largest at every step. networkx never comes to an end on
dense graphs: it runs in a child of this process, forked with the graph, and is stopped after
``--cap`` seconds of processor time. The peer is the loop of FineXtract's authors. Descriptors are
made up: one style, ten pictures, noise; three in five lean on a picture.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import multiprocessing
import resource
import time
from multiprocessing.connection import Connection
from typing import Any

import networkx
import numpy as np
from numpy.typing import NDArray

from pytest_memscan.cliques import greedy_cliques
from pytest_memscan.clustering import extract

DENSITIES = (0.02, 0.05, 0.1, 0.2, 0.3, 0.5, 0.75)
NODE_BUDGET = 2_000  # for each clique; with 20,000, 2,000 images take 23 to 31 s at 0.2 and 0.3
NUM_PICTURES = 10
DIMENSION = 512


def unit(vectors: NDArray[np.float64]) -> NDArray[np.float64]:
    lengths = np.linalg.norm(vectors, axis=-1, keepdims=True)
    return np.asarray(vectors / lengths, dtype=np.float64)


def made_up(num_images: int, *, leaning: float = 0.6, seed: int = 0) -> NDArray[np.float64]:
    """Descriptors ``(num_images, DIMENSION)``."""
    rng = np.random.default_rng(seed)
    style = unit(rng.standard_normal(DIMENSION))
    pictures = unit(rng.standard_normal((NUM_PICTURES, DIMENSION)))
    lean = rng.uniform(0.3, 2.0, num_images) * (rng.random(num_images) < leaning)
    chosen = pictures[rng.integers(0, NUM_PICTURES, num_images)]
    noise = unit(rng.standard_normal((num_images, DIMENSION)))
    return unit(0.6 * style + 0.8 * noise + lean[:, None] * chosen)


def _loop(joined: NDArray[np.bool_], smallest: int, cap: int, results: Connection) -> None:
    """Sends the size of the first clique, and the processor time when all are found."""
    resource.setrlimit(resource.RLIMIT_CPU, (cap, cap))
    graph = networkx.from_numpy_array(joined)
    started = time.process_time()
    largest = max(networkx.find_cliques(graph), key=len)
    results.send(len(largest))
    while len(largest) >= smallest:
        graph.remove_nodes_from(largest)
        largest = max(networkx.find_cliques(graph), key=len) if graph else []
    results.send(time.process_time() - started)


def networkx_loop(joined: NDArray[np.bool_], smallest: int, cap: int) -> list[float | None]:
    """Size of the first clique and seconds; None for what was not there after ``cap`` seconds."""
    context = multiprocessing.get_context("fork")
    results, sender = context.Pipe(duplex=False)
    child = context.Process(target=_loop, args=(joined, smallest, cap, sender))
    child.start()
    sender.close()
    received: list[float | None] = []
    with contextlib.suppress(EOFError):
        while len(received) < 2:
            received.append(results.recv())
    child.join()
    return [*received, None, None][:2]


def measure(descriptors: NDArray[np.float64], density: float, cap: int) -> dict[str, Any]:
    similarities = descriptors @ descriptors.T
    pairs = similarities[np.triu_indices(len(descriptors), 1)]
    joined = np.minimum(similarities, similarities.T) >= np.quantile(pairs, 1 - density)
    np.fill_diagonal(joined, False)
    smallest = 1 if len(descriptors) <= 500 else 3
    started = time.process_time()
    partition = greedy_cliques(joined, minimum_size=smallest, node_budget=NODE_BUDGET)
    seconds = time.process_time() - started
    first, theirs = networkx_loop(joined, smallest, cap)
    return {
        "memscan": round(seconds, 3),
        "networkx": f"> {cap}" if theirs is None else round(theirs, 3),
        "networkx / memscan": round((theirs or cap) / seconds, 1),
        "first clique": len(partition.cliques[0]),
        "first clique of networkx": first,
        "proven": partition.proven,
    }


def whole(descriptors: NDArray[np.float64]) -> dict[str, Any]:
    """Seconds of `extract`, and what it says."""
    null = made_up(len(descriptors), leaning=0.0, seed=1)
    options: dict[str, dict[str, Any]] = {
        "plateau": {"num_wanted": NUM_PICTURES},
        "plateau, null": {"num_wanted": NUM_PICTURES, "null": null},
        "plateau, null, number unknown": {"num_wanted": None, "null": null},
        "null": {"num_wanted": NUM_PICTURES, "null": null, "rule": "null"},
        "finextract_compat": {"num_wanted": NUM_PICTURES, "rule": "finextract_compat"},
    }
    figures = {}
    for name, each in options.items():
        started = time.process_time()
        found = extract(descriptors, **each)
        figures[name] = {
            "seconds": round(time.process_time() - started, 2),
            "threshold": found.threshold,
            "supported": found.num_supported,
            "largest": found.largest,
            "proven": found.is_proven,
        }
    return figures


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("num_images", type=int, nargs="*", default=[500, 2000])
    parser.add_argument("--cap", type=int, default=30)
    arguments = parser.parse_args()
    figures: dict[str, Any] = {}
    for num_images in arguments.num_images:
        descriptors = made_up(num_images)
        figures[f"{num_images} images"] = {
            **{f"{each:g}": measure(descriptors, each, arguments.cap) for each in DENSITIES},
            "extract": whole(descriptors),
        }
    print(json.dumps(figures, indent=2))


if __name__ == "__main__":
    main()
