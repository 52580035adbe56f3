"""Training of a classifier of surrogate labels on the checkpoint's own samples.

TDKD of SIDE (arXiv:2410.02467, appendix C): samples are noised with the target's own scheduler to
a timestep drawn uniformly from those that the target was trained on, and cross-entropy is lowered
with AdamW. The time-independent classifier (OL-TI, a baseline of the paper) is trained on the
samples as they are.

A folder belongs to one training, chosen by the caller::

    classifier.safetensors   the finished classifier
    classifier.json          how it was trained, and what it learnt
    training.safetensors     while it is under way: what it takes to go on

Nothing is unpickled. Every file says which training it is of, and by a digest what it should hold:
one that is damaged or foreign is as good as missing, and made again.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from torch.nn import functional

from pytest_memscan.denoising.schedule import read_parametrisation
from pytest_memscan.errors import MemscanError
from pytest_memscan.results import AccuracyAt, SurrogateTraining
from pytest_memscan.statistics import proportion
from pytest_memscan.surrogates.kept_training import KeptTraining
from pytest_memscan.surrogates.network import describe, new_classifier

NUM_LEVELS = 10  # noise levels at which accuracy is measured
Progress = Callable[[int, int], None]  # steps done, and of all


@dataclass(frozen=True, kw_only=True)
class Training:
    """How a classifier is trained.

    The paper trains for long with a rate of 1e-4. With as few steps as here the rate goes up to a
    larger one and down again to next to nothing (one cycle, arXiv:1708.07120).

    Attributes:
        num_steps: Batches.
        batch_size: Samples of a batch.
        learning_rate: The largest; of a first trial on 16x16 images with 1,500 steps.
        held_out: Share of the samples that accuracy is measured on, instead of training on them.
        seed: Of the weights, the held-out samples, the batches and their noise.
        is_timed: Whether the classifier is told the timestep and trained on noisy samples.
    """

    num_steps: int = 1500
    batch_size: int = 128
    learning_rate: float = 2e-3
    held_out: float = 0.1
    seed: int = 0
    is_timed: bool = True

    def __post_init__(self) -> None:
        if self.num_steps < 1 or self.batch_size < 2:
            raise ValueError("training needs a step, and two samples in a batch")
        if not (0 < self.learning_rate < math.inf and 0 < self.held_out < 1):
            raise ValueError("the learning rate must be above 0, and held_out between 0 and 1")


@dataclass(frozen=True, kw_only=True, eq=False)
class Trained:
    """A classifier, and how it came to be.

    Attributes:
        classifier: In evaluation mode, on the device it was asked for; its weights need no
            gradient.
        record: For the report.
    """

    classifier: nn.Module
    record: SurrogateTraining


@dataclass(frozen=True, kw_only=True, eq=False)
class NoiseLevels:
    """How noisy the denoiser's input is at every timestep that the target was trained on.

    Attributes:
        timesteps: ``(num_levels,)`` as the scheduler counts, cleanest first.
        signals: ``(num_levels,)`` of the clean samples in the denoiser's input.
        levels: ``(num_levels,)`` of the noise in it.
    """

    timesteps: torch.Tensor
    signals: torch.Tensor
    levels: torch.Tensor

    def noisy(self, clean: torch.Tensor, noise: torch.Tensor, places: torch.Tensor) -> torch.Tensor:
        """``(batch, channels, height, width)``, each noised to the timestep at its place."""
        shape = (-1, 1, 1, 1)
        signals, levels = self.signals[places].view(shape), self.levels[places].view(shape)
        return signals * clean + levels * noise


_CLEAN = NoiseLevels(timesteps=torch.zeros(1), signals=torch.ones(1), levels=torch.zeros(1))


def read_levels(scheduler: Any) -> NoiseLevels:
    """Noise levels of a target.

    Args:
        scheduler: Of diffusers; it may be set to any sampling schedule, and is left as it is.

    Raises:
        ValueError: A kind of scheduler that is not understood.
    """
    # A new one has all training timesteps: between those of a sampling schedule, an interpolation
    # would stand in for what the model was trained on.
    parametrisation = read_parametrisation(type(scheduler).from_config(scheduler.config))
    first = int(parametrisation.is_flow)  # timestep 0 of a flow has no noise at all
    timesteps = range(first, first + parametrisation.num_train_timesteps)
    mixtures = [parametrisation.mixture(timestep) for timestep in timesteps]
    return NoiseLevels(
        timesteps=torch.tensor([float(timestep) for timestep in timesteps]),
        signals=torch.tensor([mixture.signal for mixture in mixtures]),
        levels=torch.tensor([mixture.level for mixture in mixtures]),
    )


def train_classifier(
    images: NDArray[np.uint8],
    labels: NDArray[np.int64],
    *,
    num_classes: int,
    scheduler: Any,
    training: Training,
    folder: Path,
    device: str,
    progress: Progress | None = None,
    save_every: int = 200,
) -> Trained:
    """A classifier from the folder, or else a new one, trained from where the folder left off.

    On the CPU the same inputs give the same weights to the bit, interrupted or not.

    Args:
        images: ``(num, height, width, channels)``, the checkpoint's samples; they stay bytes, only
            batches become floats.
        labels: ``(num,)``, 0 to `num_classes` - 1.
        num_classes: At least 2.
        scheduler: The target's, of diffusers; None for a labeller of clean images, which is not
            timed and has no target.
        training: How.
        folder: Of this training alone; made if need be.
        device: Where the classifier runs.
        progress: Told the number of steps done and of all, after each step; a training that it
            ends with an exception goes on from the last state saved.
        save_every: Steps between two states saved.

    Raises:
        MemscanError: The loss was infinite or not a number.
        StoreError: The folder cannot be written.
        ValueError: Images and labels that do not belong together, or a scheduler that is not
            understood.
    """
    _check(images, labels, num_classes)
    if scheduler is None and training.is_timed:
        raise ValueError("a timed classifier needs the noise levels of a target")
    levels = _CLEAN if scheduler is None else read_levels(scheduler)
    network = new_classifier(
        num_classes=num_classes,
        channels=images.shape[3],
        size=max(images.shape[1:3]),
        is_timed=training.is_timed,
        seed=training.seed,
    ).to(device)
    samples = _Samples(images, labels, levels, training, device)
    kept = KeptTraining(folder, samples.fingerprint(num_classes))
    record = kept.finished(network)
    if record is None:
        _train(network, samples, kept, progress, save_every)
        record = _record(network.eval(), samples)
        kept.finish(network, record)
    return Trained(classifier=network.eval().requires_grad_(False), record=record)


def learnt_something(record: SurrogateTraining) -> bool:
    """Whether held-out samples with next to no noise are told better than chance would.

    The lower bound of their accuracy is above that of the same answers in random order, which is
    what a classifier reaches that looks at nothing, whatever it names.
    """
    return record.accuracies[0].accuracy.lower > record.chance


class _Samples:
    """What there is to train and to measure on."""

    def __init__(
        self,
        images: NDArray[np.uint8],
        labels: NDArray[np.int64],
        levels: NoiseLevels,
        training: Training,
        device: str,
    ) -> None:
        self.images, self.labels, self.levels = images, labels, levels
        self.training, self.device = training, device
        order = torch.randperm(
            len(images), generator=torch.Generator().manual_seed(training.seed)
        ).numpy()
        num_held_out = max(1, round(training.held_out * len(images)))
        self.held_out, self.trained_on = order[:num_held_out], order[num_held_out:]

    def batch(self, generator: torch.Generator) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """What the classifier is given, at which timesteps, and what it should say."""
        size = (self.training.batch_size,)
        chosen = torch.randint(len(self.trained_on), size, generator=generator).numpy()
        rows = self.trained_on[chosen]
        clean = self._clean(rows)
        places = torch.zeros(size, dtype=torch.int64)
        if self.training.is_timed:
            places = torch.randint(len(self.levels.timesteps), size, generator=generator)
            noise = torch.randn(clean.shape, generator=generator)
            clean = self.levels.noisy(clean, noise, places)
        return self._sent(clean, self.levels.timesteps[places], torch.from_numpy(self.labels[rows]))

    def held_out_at(
        self, place: int, generator: torch.Generator
    ) -> Iterator[tuple[torch.Tensor, torch.Tensor, torch.Tensor]]:
        """All held-out samples at one noise level, as `batch` gives them."""
        for start in range(0, len(self.held_out), self.training.batch_size):
            rows = self.held_out[start : start + self.training.batch_size]
            clean = self._clean(rows)
            places = torch.full((len(rows),), place)
            noise = torch.randn(clean.shape, generator=generator)
            noisy = self.levels.noisy(clean, noise, places)
            yield self._sent(
                noisy, self.levels.timesteps[places], torch.from_numpy(self.labels[rows])
            )

    def fingerprint(self, num_classes: int) -> str:
        """SHA-256 of everything that the weights depend on."""
        digest = hashlib.sha256()
        known = (num_classes, self.images.shape, sorted(asdict(self.training).items()))
        digest.update(repr(known).encode())
        for table in (self.levels.timesteps, self.levels.signals, self.levels.levels):
            digest.update(table.numpy().tobytes())
        digest.update(self.labels.astype("<i8").tobytes())
        digest.update(np.ascontiguousarray(self.images).data)
        return digest.hexdigest()

    def _clean(self, rows: NDArray[np.int64]) -> torch.Tensor:
        """Samples as the denoiser sees them, -1 to 1."""
        pixels = torch.from_numpy(self.images[rows]).permute(0, 3, 1, 2)
        return pixels.to(torch.float32).contiguous() / 127.5 - 1

    def _sent(self, *tensors: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        noisy, timesteps, labels = (each.to(self.device) for each in tensors)
        return noisy, timesteps, labels


def _train(
    network: nn.Module,
    samples: _Samples,
    kept: KeptTraining,
    progress: Progress | None,
    save_every: int,
) -> None:
    training = samples.training
    optimizer = torch.optim.AdamW(network.parameters(), training.learning_rate)
    rate = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, training.learning_rate, total_steps=training.num_steps
    )
    generator = torch.Generator().manual_seed(training.seed)
    start = kept.go_on(network, optimizer, rate, generator)
    network.train()
    for step in range(start + 1, training.num_steps + 1):
        noisy, timesteps, labels = samples.batch(generator)
        loss = functional.cross_entropy(network(noisy, timesteps), labels)
        if not torch.isfinite(loss):
            raise MemscanError(
                f"the classifier of surrogate labels could not be trained: its loss was "
                f"{loss.item()} at step {step} of {training.num_steps}; lower its learning rate, "
                f"which goes up to {training.learning_rate:g}"
            )
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        rate.step()
        if step % save_every == 0 and step < training.num_steps:
            kept.save(network, optimizer, rate, generator, step)
        if progress is not None:
            progress(step, training.num_steps)


def _record(network: nn.Module, samples: _Samples) -> SurrogateTraining:
    """What a trained classifier in evaluation mode has learnt."""
    training = samples.training
    generator = torch.Generator().manual_seed(training.seed)
    last = len(samples.levels.timesteps) - 1
    places = sorted({round(each) for each in np.linspace(0, last, NUM_LEVELS)})
    told = [_answers_at(network, samples, place, generator) for place in places]
    return SurrogateTraining(
        network=describe(network),
        is_timed=training.is_timed,
        num_parameters=sum(each.numel() for each in network.parameters()),
        num_samples=len(samples.trained_on),
        num_held_out=len(samples.held_out),
        num_steps=training.num_steps,
        batch_size=training.batch_size,
        learning_rate=training.learning_rate,
        seed=training.seed,
        chance=by_chance(told[0], samples.labels[samples.held_out]),
        accuracies=tuple(
            _accuracy_at(samples, place, answers)
            for place, answers in zip(places, told, strict=True)
        ),
    )


def by_chance(answers: NDArray[np.int64], labels: NDArray[np.int64]) -> float:
    """Accuracy to expect of the same answers in random order (Cohen 1960).

    Naming the commonest class is right more often than that of useful answers may be: where one
    class holds nearly all samples, what counts is whether the others are told from it.

    Args:
        answers: ``(num,)`` classes that were named.
        labels: ``(num,)`` what they are.

    Example:
        >>> by_chance(np.array([0, 0, 0, 1]), np.array([0, 0, 1, 1]))
        0.5
    """
    num_classes = int(max(answers.max(), labels.max())) + 1
    named = np.bincount(answers, minlength=num_classes)
    held = np.bincount(labels, minlength=num_classes)
    return float((named * held).sum() / len(labels) ** 2)


@torch.no_grad()
def _answers_at(
    network: nn.Module, samples: _Samples, place: int, generator: torch.Generator
) -> NDArray[np.int64]:
    """Class named for every held-out sample, noised to one level."""
    named = [
        network(noisy, timesteps).argmax(1).cpu().numpy()
        for noisy, timesteps, _ in samples.held_out_at(place, generator)
    ]
    return np.concatenate(named).astype(np.int64)


def _accuracy_at(samples: _Samples, place: int, answers: NDArray[np.int64]) -> AccuracyAt:
    num_right = int((answers == samples.labels[samples.held_out]).sum())
    return AccuracyAt(
        timestep=int(samples.levels.timesteps[place]),
        accuracy=proportion(num_right, len(samples.held_out)),
    )


def _check(images: NDArray[np.uint8], labels: NDArray[np.int64], num_classes: int) -> None:
    if images.dtype != np.uint8 or images.ndim != 4:
        raise ValueError(f"images must be bytes (num, height, width, channels), not {images.shape}")
    if labels.shape != (len(images),) or len(images) < 2:
        raise ValueError(f"{len(images)} images and labels of shape {labels.shape}")
    if num_classes < 2 or labels.min() < 0 or labels.max() >= num_classes:
        raise ValueError(f"labels must lie in 0 ... {num_classes - 1}, and there be two classes")
