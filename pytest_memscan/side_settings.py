"""What memscan::side is asked to do, and how that is written."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from pytest_memscan.checkpoints.families import Kind
from pytest_memscan.data.sources import DataSource
from pytest_memscan.errors import OptionError
from pytest_memscan.settings import (
    Given,
    as_list,
    parse_base,
    parse_integer,
    parse_train_source,
)

# Name of each variant -> what it is, in the order they run.
VARIANTS = {
    "side_c": "SIDE-C: clusters of its own images",
    "side_c_rest": "SIDE-C+rest: what belongs to no cluster kept apart",
    "side_o": "SIDE-O: a labeller trained on the training images",
    "side_a": "SIDE-A: a labeller that never saw the training images",
    "ol_ti": "OL-TI: the labeller itself, not told the timestep",
    "random_labels": "Random labels: drawn by chance",
}
# Likewise, of text-to-image checkpoints: nothing guides there but a prompt.
PROMPT_VARIANTS = {"side_lora": "SIDE-LoRA: a learned token for each cluster"}
CONTROLS = ("ol_ti", "random_labels")  # not expected to bring out more than plain sampling
DEFAULT_SCALES = (1.0, 2.0, 3.0, 5.0, 6.0, 7.0, 8.0, 9.0)
DEFAULT_SAMPLES = 4096
DEFAULT_CLUSTERS = 100  # the paper's
SAMPLES_PER_CLUSTER = 10  # where the rest is kept apart, as many clusters as samples allow
# The paper's for its own rule; ours, see docs/side.md, where the rest is kept apart.
DEFAULT_COHESION = {"side_c": 0.5, "side_c_rest": 0.7, "side_lora": 0.7}
DEFAULT_TRAINING = 1500
DEFAULT_RANK = 8
PROMPT_SCALES = (3.0,)  # of classifier-free guidance towards a learned token
MAX_SCALE = 100.0


@dataclass(frozen=True, kw_only=True)
class SideSettings:
    """Settings of memscan::side.

    Attributes:
        variants: Those asked for; empty for every one that the inputs allow, but for random labels.
        scales: Lambdas, ascending; of side_lora scales of classifier-free guidance.
        num_samples: Images of the checkpoint that labels and classifiers are made from.
        num_clusters: At most so many; None for what suits the variant.
        least_cohesion: Clusters below it are dropped; None for what suits the variant.
        training: Steps that a classifier or LoRA is trained for.
        rank: Of the LoRA.
        auxiliary: Labelled images that were not trained on.
        labeller: An image classifier: a folder, or its name on the Hub.
    """

    variants: tuple[str, ...] = ()
    scales: tuple[float, ...] = DEFAULT_SCALES
    num_samples: int = DEFAULT_SAMPLES
    num_clusters: int | None = None
    least_cohesion: float | None = None
    training: int = DEFAULT_TRAINING
    rank: int = DEFAULT_RANK
    auxiliary: DataSource | None = None
    labeller: str | None = None

    def clusters_of(self, variant: str) -> int:
        """Clusters that the samples are put into, at most."""
        if self.num_clusters is not None:
            return self.num_clusters
        if variant == "side_c_rest":
            return max(DEFAULT_CLUSTERS, self.num_samples // SAMPLES_PER_CLUSTER)
        return DEFAULT_CLUSTERS

    def cohesion_of(self, variant: str) -> float:
        """Mean cosine to their centroid that the members of a cluster need."""
        return DEFAULT_COHESION[variant] if self.least_cohesion is None else self.least_cohesion


def side_settings(take: Callable[[str, Callable[[Given], Any], Any], Any]) -> SideSettings:
    """All of them, each as given or by default.

    Args:
        take: Given the name of a setting, its parser and its default, returns its value.
    """
    return SideSettings(
        variants=take("side_variants", parse_variants, ()),
        scales=take("side_scales", parse_scales, DEFAULT_SCALES),
        num_samples=take("side_samples", parse_integer(32, 10**7), DEFAULT_SAMPLES),
        num_clusters=take("side_clusters", parse_integer(2, 10_000), None),
        least_cohesion=take("side_cohesion", parse_cohesion, None),
        training=take("side_training", parse_integer(10, 10**7), DEFAULT_TRAINING),
        rank=take("side_rank", parse_integer(1, 1024), DEFAULT_RANK),
        auxiliary=take("auxiliary", parse_train_source, None),
        labeller=take("labeller", parse_base, None),
    )


def parse_variants(given: Given) -> tuple[str, ...]:
    """Names of variants, in the order they run."""
    known = VARIANTS | PROMPT_VARIANTS
    names = {name.strip() for item in as_list(given) for name in item.split(",")}
    for name in sorted(names) or [""]:
        if name not in known:
            raise OptionError(
                f"{given.where}: there is no variant {name!r}; available: {', '.join(known)}"
            )
    return tuple(name for name in known if name in names)


def check_variants(variants: tuple[str, ...], kind: Kind) -> None:
    """Refuse variants that are for the other kind of checkpoint.

    Raises:
        OptionError: Names those that are for this one.
    """
    right = VARIANTS if kind == "unconditional" else PROMPT_VARIANTS
    for name in variants:
        if name not in right:
            article = "an" if kind == "unconditional" else "a"
            raise OptionError(
                f"--memscan-side-variants: {name} is not for {article} {kind} checkpoint, which "
                f"has {', '.join(right)}; ask for {'some of those' if len(right) > 1 else 'that'}, "
                "or leave the option out"
            )


def parse_scales(given: Given) -> tuple[float, ...]:
    """Lambdas above 0, which is plain sampling and always there."""
    items = [part.strip() for item in as_list(given) for part in item.split(",")]
    if not items:
        raise OptionError(f"{given.where}: at least one lambda is needed, such as 5")
    scales = []
    for item in items:
        try:
            scale = float(item)
        except ValueError:
            scale = math.nan
        if not 0 < scale <= MAX_SCALE:
            raise OptionError(
                f"{given.where}: {item!r} is no lambda; write numbers above 0 and up to "
                f"{MAX_SCALE:g}, as in 1,2,5 (0, plain sampling, is always there)"
            )
        scales.append(scale)
    if len(set(scales)) < len(scales):
        raise OptionError(f"{given.where}: the same lambda is there twice")
    return tuple(sorted(scales))


def parse_cohesion(given: Given) -> float:
    """A cosine from 0 up to, not including, 1."""
    try:
        value = float(given.value)
    except (TypeError, ValueError):
        value = math.nan
    if not 0 <= value < 1:
        raise OptionError(
            f"{given.where}: {given.value!r} is no cohesion; write a cosine of at least 0 and "
            "below 1, such as 0.5"
        )
    return value
