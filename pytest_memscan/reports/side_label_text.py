"""The words for surrogate labels, and for the classifiers that were trained on them."""

from __future__ import annotations

from collections.abc import Sequence

from pytest_memscan.reports.estimates import bounded_share
from pytest_memscan.reports.text import percent
from pytest_memscan.results import SurrogateLabels, SurrogateTraining


def labels_text(labels: SurrogateLabels) -> str:
    """``"61 classes of 2,048 samples, 9 to 41 in each; 312 samples in no class"``."""
    text = f"{classes_text(labels)} of {labels.num_samples:,} samples"
    if labels.sizes:
        text += f", {sizes_text(labels)} in each"
    if labels.cohesion:
        text += f", cohesion {cohesion_text(labels)}"
    return f"{text}; {labels.num_rest:,} samples in no class" if labels.num_rest else text


def classes_text(labels: SurrogateLabels) -> str:
    """``"61 classes"``, ``"61 classes (84 clusters before those without cohesion went)"``."""
    text = f"{labels.num_classes:,} class{'' if labels.num_classes == 1 else 'es'}"
    if labels.num_clusters > labels.num_classes:
        text += f" ({labels.num_clusters:,} clusters before those without cohesion were dropped)"
    return text


def sizes_text(labels: SurrogateLabels) -> str:
    """``"9 to 41"``."""
    return _spread([f"{each:,}" for each in sorted(labels.sizes)])


def cohesion_text(labels: SurrogateLabels) -> str:
    """``"0.61 to 0.83"``."""
    return _spread([f"{each:.2f}" for each in sorted(labels.cohesion)])


def _spread(ordered: Sequence[str]) -> str:
    if not ordered:
        return "not known"
    return ordered[0] if ordered[0] == ordered[-1] else f"{ordered[0]} to {ordered[-1]}"


def training_text(training: SurrogateTraining) -> str:
    """The network, its training, and what it learnt at the ends of the noise."""
    is_classifier = bool(training.accuracies)
    told = (
        f"{training.network}{f', {_timed(training)}' if is_classifier else ''}; "
        f"{training.num_steps:,} steps of {training.batch_size:,} among "
        f"{training.num_samples:,} samples"
    )
    if not is_classifier:
        return told
    return (
        f"{told}; accuracy on {training.num_held_out:,} others: "
        f"{accuracies_text(training)} (chance {percent(training.chance)})"
    )


def _timed(training: SurrogateTraining) -> str:
    return "told the timestep" if training.is_timed else "not told the timestep"


def accuracies_text(training: SurrogateTraining) -> str:
    """``"78.0 % [72.0 %, 83.0 %] at timestep 0, 12.0 % [8.1 %, 16.0 %] at timestep 900"``."""
    ends = training.accuracies[:1]
    if len(training.accuracies) > 1:
        ends += training.accuracies[-1:]
    told = ", ".join(
        f"{bounded_share(each.accuracy)} at timestep {each.timestep:,}" for each in ends
    )
    return told or "not measured"
