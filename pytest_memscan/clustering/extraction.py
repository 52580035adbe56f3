"""Which generated images show what a fine-tune was trained on: groups of near-identical images.

A fine-tune that memorised gives its training images again and again, so images that many others
repeat are the extracted set (FineXtract, arXiv:2410.03039). Images are joined from some similarity
on, the largest clique is taken, then the largest of what is left, and so on (`cliques`). One
picture often falls apart into several cliques, for want of one edge: a clique whose representative
is joined to that of a better supported one shows the same *picture*, and is left out.

Which similarity joins two images is a rule's to say (`RULES`):

``plateau``
    The middle of the longest run of thresholds that give at least so many supported pictures as
    there are training images, or, where no threshold gives so many, as many as any gives. Without
    a number of training images, as many as most thresholds give. Thresholds run from 0.99 down to
    that of the null or, where there is none, the median similarity, and never below `FLOOR`.
``null``
    The lowest threshold at which images of the base model, asked the same way, have no clique
    large enough to be evidence.
``finextract_compat``
    The authors': from the lower quartile of all similarities up in steps of 0.01, until there are
    as many cliques as training images, single images counted, same pictures or not. Without the
    time limit of their search, on which its outcome depends.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pytest_memscan.cliques import find_clique
from pytest_memscan.clustering.graphs import SHARES, Graphs, Group, pictures, similarities_of

RULES = ("plateau", "null", "finextract_compat")
NODE_BUDGET = 100_000  # spent by 2,000 unstructured images, in 7 s on one core
FLOOR = 50  # hundredths, as all thresholds of here; less alike images hardly show one picture
_TOP = 99
_NONE_JOINED = 101


@dataclass(frozen=True, kw_only=True)
class Extraction:
    """The extracted set, and how it was chosen."""

    rule: str
    sentence: str  # what the rule said here
    threshold: float  # similarity from which two images are joined
    minimum_support: int  # images in a clique that is evidence
    members: tuple[tuple[int, ...], ...]  # best supported first: size, mean similarity, index
    representatives: tuple[int, ...]  # of each, the member nearest to its mean descriptor
    mean_similarities: tuple[float | None, ...]  # over its pairs; None for a single image
    num_supported: int  # pictures with so many images, those beyond `num_wanted` included
    largest: int  # images in the largest clique; 0 where no two are joined
    is_proven: bool  # every search for a largest clique came to its end


def default_support(num_images: int, num_wanted: int | None) -> int:
    """Images that make a clique evidence: a fifth of what each training image's share would be.

    At least three. For an unknown number of training images, as if there were ten of them.

    Example:
        >>> default_support(500, 10), default_support(40, 10)
        (10, 3)
    """
    return max(3, ceil(num_images / (5 * (num_wanted or 10))))


def extract(
    descriptors: NDArray[np.floating[Any]],
    *,
    num_wanted: int | None,
    null: NDArray[np.floating[Any]] | None = None,
    rule: str = "plateau",
    minimum_support: int | None = None,
    node_budget: int = NODE_BUDGET,
) -> Extraction:
    """The extracted set of generated images.

    Args:
        descriptors: ``(num_images, dimension)`` unit vectors.
        num_wanted: Training images: at most so many cliques come back. ``None`` if that is not
            known: all supported pictures do, and ``num_supported`` estimates their number.
        null: ``(num_null, dimension)``, of images of the base model. Best as many as there are
            generated images: of fewer, smaller cliques are looked for, and thresholds get higher.
        rule: One of `RULES`.
        minimum_support: Images that make a clique evidence, at least 3. `default_support` unless
            given.
        node_budget: Search nodes for the whole extraction; see ``is_proven``.

    Returns:
        Outside ``finextract_compat``, cliques that are not supported, down to pairs, fill up
        what is missing to ``num_wanted`` and no single image ever does.

    Raises:
        ValueError: Not unit vectors, an unknown rule, or a rule without what it needs.

    Example:
        >>> three = np.repeat(np.eye(3), 4, axis=0)
        >>> extract(three, num_wanted=3).representatives
        (0, 4, 8)
    """
    graphs = Graphs(similarities_of(descriptors), np.asarray(descriptors, float), node_budget)
    support = minimum_support or default_support(len(descriptors), num_wanted)
    _check(rule, num_wanted, null, support)
    if rule == "finextract_compat":
        return _compat(graphs, num_wanted or 0, support)
    if rule == "null" and null is not None:
        threshold, sentence = _null_threshold(graphs, null, support, lowest=0)
    else:
        threshold, sentence = _plateau(graphs, num_wanted, support, *_floor(graphs, null, support))
    groups = pictures(graphs.cliques(threshold, 2), graphs, threshold)
    return _extraction(graphs, groups, rule, sentence, threshold, support, num_wanted)


def _plateau(
    graphs: Graphs, num_wanted: int | None, support: int, floor: int, because: str
) -> tuple[int, str]:
    thresholds = list(range(max(_TOP, floor), floor - 1, -1))
    counts = [len(pictures(graphs.cliques(t, support), graphs, t)) for t in thresholds]
    most = max(counts)
    if not most:
        return floor, (
            f"no threshold down to {_shown(floor)}, {because}, gives a group of {support} images"
        )
    wanted = min(num_wanted, most) if num_wanted else _most_frequent(counts)
    start, stop = _longest_run([count >= wanted for count in counts])
    return thresholds[(start + stop - 1) // 2], (
        f"the middle of the thresholds from {_shown(thresholds[start])} down to "
        f"{_shown(thresholds[stop - 1])} that give at least {wanted} different pictures with "
        f"{support} or more images each; looked at down to {_shown(floor)}, {because}"
    )


def _null_threshold(
    graphs: Graphs, null: NDArray[np.floating[Any]], support: int, *, lowest: int
) -> tuple[int, str]:
    """The lowest threshold at which the null has no clique that would be evidence, or `lowest`."""
    size = max(2, support * len(null) // len(graphs.similarities))
    similarities = similarities_of(null)
    nodes = max(graphs.node_budget // SHARES, 1)
    low, high = lowest - 1, _NONE_JOINED  # a group at `low`, as far as known, and none at `high`
    while high - low > 1:
        middle = (low + high) // 2
        found = find_clique(similarities >= middle / 100, size, node_budget=nodes)
        graphs.proven &= found.proven or bool(found.members)
        low, high = (middle, high) if found.members or not found.proven else (low, middle)
    if high == _NONE_JOINED:
        return high, f"out of reach: {size} or more images of the base are the same"
    return high, f"the lowest at which {len(null)} images of the base have no group of {size}"


def _floor(graphs: Graphs, null: NDArray[np.floating[Any]] | None, support: int) -> tuple[int, str]:
    """The lowest threshold that a plateau may reach down to, and what it is."""
    if null is not None:
        floor, because = _null_threshold(graphs, null, support, lowest=FLOOR)
    else:
        of_pairs = graphs.similarities[np.triu_indices(len(graphs.similarities), 1)]
        floor = min(ceil(100 * float(np.median(of_pairs))), _TOP) if of_pairs.size else 0
        because = "where half of all pairs are joined"
    return (floor, because) if floor > FLOOR else (FLOOR, "below which two images hardly match")


def _compat(graphs: Graphs, num_wanted: int, support: int) -> Extraction:
    num_images = len(graphs.similarities)
    of_pairs = graphs.similarities[np.triu_indices(num_images, 1)]
    start = int(np.floor(100 * np.quantile(of_pairs, 0.25) + 1e-9)) if of_pairs.size else _TOP
    threshold, groups = start, []
    for threshold in range(min(start, _TOP), _TOP + 1):
        groups = graphs.cliques(threshold, 2)
        alone = sorted(set(range(num_images)).difference(*(each.members for each in groups)))
        groups += [Group(members=(each,), representative=each, mean=None) for each in alone]
        if len(groups) >= num_wanted:
            break
    sentence = (
        f"the first from {_shown(start)}, the lower quartile of all similarities, that gives at "
        f"least {num_wanted} groups, single images counted: {len(groups)}"
    )
    return _extraction(
        graphs, groups, "finextract_compat", sentence, threshold, support, num_wanted
    )


def _extraction(
    graphs: Graphs,
    groups: list[Group],
    rule: str,
    sentence: str,
    threshold: int,
    support: int,
    num_wanted: int | None,
) -> Extraction:
    supported = sum(len(each.members) >= support for each in groups)
    chosen = groups[: supported if num_wanted is None else num_wanted]
    return Extraction(
        rule=rule,
        sentence=sentence,
        threshold=threshold / 100,
        minimum_support=support,
        members=tuple(each.members for each in chosen),
        representatives=tuple(each.representative for each in chosen),
        mean_similarities=tuple(each.mean for each in chosen),
        num_supported=supported,
        largest=len(groups[0].members) if groups else 0,
        is_proven=graphs.proven,
    )


def _most_frequent(counts: list[int]) -> int:
    """The count above 0 that most thresholds give; the larger of equally frequent ones."""
    values, times = np.unique([count for count in counts if count], return_counts=True)
    return int(values[times == times.max()].max())


def _longest_run(holds: list[bool]) -> tuple[int, int]:
    """Where the longest run starts and where it has stopped; the first of equally long ones."""
    best, start = (0, 0), 0
    for place, each in enumerate([*holds, False]):
        if not each:
            best = max(best, (start, place), key=lambda run: run[1] - run[0])
            start = place + 1
    return best


def _check(
    rule: str, num_wanted: int | None, null: NDArray[np.floating[Any]] | None, support: int
) -> None:
    if rule not in RULES:
        raise ValueError(f"rule must be one of {', '.join(RULES)}, got {rule!r}")
    if num_wanted is not None and num_wanted < 1:
        raise ValueError(f"num_wanted must be at least 1, got {num_wanted}")
    if support < 3:
        raise ValueError(f"two images are no evidence, minimum_support is 3 or more, got {support}")
    if rule == "finextract_compat" and num_wanted is None:
        raise ValueError("finextract_compat needs the number of training images")
    if rule == "null" and null is None:
        raise ValueError("rule null needs images of the base model")


def _shown(hundredths: int) -> str:
    return f"{hundredths / 100:.2f}"
