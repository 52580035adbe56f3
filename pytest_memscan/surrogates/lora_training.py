"""Training of a cluster model with the loss of its own checkpoint, and what it learnt."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from pytest_memscan.denoising.latents import clean_latents_of
from pytest_memscan.denoising.parametrisation import noisy_latents, prediction_of
from pytest_memscan.denoising.schedule import Parametrisation, read_parametrisation
from pytest_memscan.errors import CheckpointError, MemscanError
from pytest_memscan.surrogates.lora_kept import KeptLora, Tensors
from pytest_memscan.surrogates.lora_model import TOKENS, ClusterModel
from pytest_memscan.surrogates.lora_records import LoraSettings

OnStep = Callable[[int, int], None]  # steps done, steps in all
NUM_DRAWS = 4  # noise levels, one from each quarter, at which a held-out sample is asked about
ENCODED_AT_ONCE = 32  # samples; bounds what the autoencoder is given
SAVED_EVERY = 50  # steps, which a killed training loses at most
_SPLIT, _TRAINING, _ASKING = 0, 2, 3  # streams of random numbers
_DECAY = 0.01  # AdamW's usual; of the LoRA alone: zero means nothing for a token


@dataclass(frozen=True, kw_only=True)
class Pupil:
    """A model and what it is taught.

    Attributes:
        model: In training.
        latents: ``(num, ...)`` float32 of samples, in the denoiser's scale.
        labels: ``(num,)`` int64.
        parametrisation: Of the checkpoint.
    """

    model: ClusterModel
    latents: NDArray[np.float32] = field(repr=False)
    labels: NDArray[np.int64] = field(repr=False)
    parametrisation: Parametrisation


def encoded(pipeline: Any, samples: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Latents ``(num, ...)`` in the denoiser's scale, encoded block by block.

    Raises:
        CheckpointError: Some are not finite.
    """
    starts = range(0, len(samples), ENCODED_AT_ONCE)
    latents = np.concatenate(
        [clean_latents_of(pipeline, samples[start : start + ENCODED_AT_ONCE]) for start in starts]
    )
    num_bad = int((~np.isfinite(latents)).reshape(len(latents), -1).any(axis=1).sum())
    if num_bad:
        raise CheckpointError(
            f"the autoencoder makes latents that are not finite of {num_bad} of {len(samples)} "
            "of the checkpoint's own samples; use --memscan-dtype float32"
        )
    return latents


def split(
    labels: NDArray[np.int64], *, share: float, seed: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Places to train on and places held out, each in ascending order.

    Held out are at most `share` of all; never the only sample that is left of its class.
    """
    num_left = np.bincount(labels)
    held_out: list[int] = []
    for place in np.random.default_rng([seed, _SPLIT]).permutation(len(labels)):
        if len(held_out) < int(share * len(labels)) and num_left[labels[place]] > 1:
            num_left[labels[place]] -= 1
            held_out.append(int(place))
    kept = np.setdiff1d(np.arange(len(labels)), held_out)
    return kept, np.array(sorted(held_out), dtype=np.int64)


def parametrisation_of(pipeline: Any) -> Parametrisation:
    """What the checkpoint predicts, at the noise levels that it was trained on.

    Raises:
        CheckpointError: Its scheduler is not understood.
    """
    try:
        found = read_parametrisation(
            type(pipeline.scheduler).from_config(pipeline.scheduler.config)
        )
    except ValueError as error:
        raise CheckpointError(
            f"the LoRA branch of SIDE cannot train this checkpoint: {error}"
        ) from None
    return replace(found, scheduled={})  # a sampling schedule is not what it was trained on


def train(
    pupil: Pupil, how: LoraSettings, *, kept: KeptLora, progress: OnStep
) -> NDArray[np.float64]:
    """Train, from where the kept state stands; losses of all steps ``(num_steps,)``.

    Step i is the same whatever happened before the program was last started: its batch, noise
    and timesteps depend on the seed and i alone.

    Raises:
        MemscanError: A loss is not finite, or memory ran out.
    """
    optimizer = _optimizer(pupil.model, how)
    losses = _resumed(pupil.model, optimizer, kept.state())
    progress(len(losses), how.num_steps)
    for step in range(len(losses), how.num_steps):
        with _explained(how.batch_size):
            loss = _one_step(pupil, how, optimizer, step)
        if not np.isfinite(loss):
            raise MemscanError(
                f"the LoRA of SIDE diverged: the loss of step {step + 1} of {how.num_steps} is "
                f"{loss}. Train it with a smaller learning rate than {how.learning_rate:g} "
                f"(tokens: {how.token_learning_rate:g})"
            )
        losses.append(loss)
        if len(losses) % SAVED_EVERY == 0:
            kept.save_state(_state(pupil.model, optimizer, losses))
        progress(len(losses), how.num_steps)
    return np.array(losses)


@torch.no_grad()
def losses_by_token(
    pupil: Pupil, *, num_classes: int, batch_size: int, seed: int
) -> NDArray[np.float64]:
    """Loss of samples with the token of their cluster, and with that of another: ``(num, 2)``.

    Both at the same noise; means over `NUM_DRAWS` noise levels. The other cluster is drawn at
    random each time.
    """
    rng = np.random.default_rng([seed, _ASKING])
    shape, num = pupil.latents.shape, len(pupil.latents)
    steps = pupil.parametrisation.num_train_timesteps
    found = np.zeros((num, 2))
    for draw in range(NUM_DRAWS):
        timesteps = ((draw + rng.random(num)) / NUM_DRAWS * steps).astype(np.int64)
        noise = rng.standard_normal(shape, dtype=np.float32)
        other = (pupil.labels + rng.integers(1, num_classes, size=num)) % num_classes
        for start in range(0, num, batch_size):
            part = slice(start, start + batch_size)
            for column, classes in enumerate((pupil.labels, other)):
                prompts = [pupil.model.prompts[number] for number in classes[part]]
                each = _losses(pupil, pupil.latents[part], prompts, timesteps[part], noise[part])
                found[part, column] += each.double().cpu().numpy() / NUM_DRAWS
    return found


def _one_step(
    pupil: Pupil, how: LoraSettings, optimizer: torch.optim.Optimizer, step: int
) -> float:
    rng = np.random.default_rng([how.seed, _TRAINING, step])
    chosen = rng.integers(len(pupil.latents), size=how.batch_size)
    timesteps = rng.integers(pupil.parametrisation.num_train_timesteps, size=how.batch_size)
    clean = pupil.latents[chosen]
    noise = rng.standard_normal(clean.shape, dtype=np.float32)
    is_empty = rng.random(how.batch_size) < how.empty_share
    prompts = [
        "" if empty else pupil.model.prompts[label]
        for label, empty in zip(pupil.labels[chosen], is_empty, strict=True)
    ]
    loss = _losses(pupil, clean, prompts, timesteps, noise).mean()
    optimizer.zero_grad(set_to_none=True)
    loss.backward()  # type: ignore[no-untyped-call]
    optimizer.step()
    return float(loss.detach())


def _losses(
    pupil: Pupil,
    clean: NDArray[np.float32],
    prompts: Sequence[str],
    timesteps: NDArray[np.int64],
    noise: NDArray[np.float32],
) -> torch.Tensor:
    """Mean squared error of the prediction of each image, ``(batch,)``."""
    pipeline, meaning = pupil.model.pipeline, pupil.parametrisation
    device = pipeline.unet.device
    rows = [torch.from_numpy(each).to(device) for each in (clean, noise)]
    mixtures = [meaning.mixture(float(timestep)) for timestep in timesteps]
    triples = list(zip(*rows, mixtures, strict=True))
    noisy = torch.stack([noisy_latents(*each) for each in triples])
    target = torch.stack(
        [prediction_of(c, n, kind=meaning.kind, mixture=mixture) for c, n, mixture in triples]
    )
    # The pipeline's own way from prompt to conditioning; gradients reach the learned tokens.
    different = list(dict.fromkeys(prompts))
    states = pipeline.encode_prompt(different, device, 1, False)[0]
    states = states[[different.index(prompt) for prompt in prompts]]
    when = torch.from_numpy(timesteps).to(device)
    predicted = pipeline.unet(noisy, when, encoder_hidden_states=states, return_dict=False)[0]
    errors: torch.Tensor = (predicted.float() - target).square().flatten(1).mean(dim=1)
    return errors


@contextmanager
def _explained(batch_size: int) -> Iterator[None]:
    try:
        yield
    except torch.OutOfMemoryError:
        raise MemscanError(
            f"out of memory while the LoRA of SIDE was trained with {batch_size} samples in a "
            "batch; train it with fewer, or with --memscan-device cpu"
        ) from None


# --- state --------------------------------------------------------------------------------------


def _optimizer(model: ClusterModel, how: LoraSettings) -> torch.optim.AdamW:
    lora = [each for name, each in model.trainable.items() if name != TOKENS]
    groups: list[dict[str, Any]] = [
        {"params": lora, "lr": how.learning_rate, "weight_decay": _DECAY},
        {"params": [model.trainable[TOKENS]], "lr": how.token_learning_rate, "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups)


def _state(
    model: ClusterModel, optimizer: torch.optim.Optimizer, losses: Sequence[float]
) -> Tensors:
    tensors: Tensors = {"losses": torch.tensor(losses, dtype=torch.float64)}
    for name, each in model.trainable.items():
        tensors[f"value {name}"] = each
        for key, moment in optimizer.state[each].items():
            tensors[f"{key} {name}"] = moment
    return tensors


def _resumed(
    model: ClusterModel, optimizer: torch.optim.Optimizer, state: Tensors | None
) -> list[float]:
    """Put model and optimizer where the state says, and return the losses so far."""
    if state is None:
        return []
    with torch.no_grad():
        for name, each in model.trainable.items():
            each.copy_(state[f"value {name}"])
            optimizer.state[each] = {
                key: state[f"{key} {name}"].to("cpu" if key == "step" else each.device)
                for key in ("step", "exp_avg", "exp_avg_sq")
                if f"{key} {name}" in state
            }
    losses: list[float] = state["losses"].tolist()
    return losses
