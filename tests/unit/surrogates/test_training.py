"""Training of classifiers: what they are shown, what they learn, what is kept, and going on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file
from torch import nn

from pytest_memscan.denoising.parametrisation import Mixture, noisy_latents
from pytest_memscan.errors import MemscanError, StoreError
from pytest_memscan.statistics import proportion
from pytest_memscan.surrogates.kept_training import CLASSIFIER, RECORD, STATE
from pytest_memscan.surrogates.training import (
    Progress,
    Trained,
    Training,
    by_chance,
    learnt_something,
    read_levels,
    train_classifier,
)

NUM_STEPS = 7
SHORT = Training(num_steps=NUM_STEPS, batch_size=8, seed=3)
SCHEDULER: Any = diffusers.DDPMScheduler(num_train_timesteps=1000)


class Stopped(Exception):  # noqa: N818
    """As a person at the keyboard stops a run."""


def stripes(num: int = 60, *, seed: int = 0) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Lines across, or lines down, with some noise."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 2, num)
    lines = np.where(np.arange(12) % 4 < 2, 40, 215)
    across = np.broadcast_to(lines[:, None, None], (12, 12, 3))
    images = np.stack([across if label else across.swapaxes(0, 1) for label in labels])
    return (images + rng.integers(-30, 30, images.shape)).astype(np.uint8), labels


def trained(
    folder: Path,
    *,
    training: Training = SHORT,
    scheduler: Any = SCHEDULER,
    progress: Progress | None = None,
    seed: int = 0,
) -> Trained:
    images, labels = stripes(seed=seed)
    return train_classifier(
        images,
        labels,
        num_classes=2,
        scheduler=scheduler,
        training=training,
        folder=folder,
        device="cpu",
        progress=progress,
        save_every=2,
    )


def steps_of(folder: Path, **how: Any) -> tuple[Trained, list[int]]:
    """With the steps that were made."""
    steps: list[int] = []
    return trained(folder, progress=lambda done, _: steps.append(done), **how), steps


def stop_at(last: int) -> Progress:
    def progress(done: int, total: int) -> None:
        assert total == NUM_STEPS
        if done == last:
            raise Stopped

    return progress


def assert_same(first: nn.Module, second: nn.Module) -> None:
    expected = second.state_dict()
    assert first.state_dict().keys() == expected.keys()
    for name, value in first.state_dict().items():
        assert torch.equal(value, expected[name]), name


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Trained:
    """Trained without interruption, in a folder that no other test sees."""
    return trained(tmp_path_factory.mktemp("whole"))


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("DDPMScheduler", {}),
        ("DDIMScheduler", {"beta_schedule": "squaredcos_cap_v2"}),
        ("DDIMScheduler", {"rescale_betas_zero_snr": True, "prediction_type": "v_prediction"}),
    ],
)
def test_noise_is_added_as_the_target_adds_it(name: str, options: dict[str, Any]) -> None:
    scheduler = getattr(diffusers, name)(num_train_timesteps=1000, **options)
    levels = read_levels(scheduler)
    generator = torch.Generator().manual_seed(0)
    clean, noise = torch.randn((2, 5, 3, 4, 4), generator=generator)
    timesteps = torch.tensor([0, 1, 333, 998, 999])
    assert torch.equal(levels.timesteps[timesteps], timesteps.float())
    expected = scheduler.add_noise(clean, noise, timesteps)
    torch.testing.assert_close(levels.noisy(clean, noise, timesteps), expected, atol=1e-5, rtol=0)


def test_noise_is_that_of_the_training_where_the_scheduler_is_only_for_sampling() -> None:
    """Before a sampling schedule is set, its own `add_noise` has the noise levels backwards."""
    scheduler = diffusers.DPMSolverMultistepScheduler(num_train_timesteps=1000)
    trained_with = diffusers.DDPMScheduler(num_train_timesteps=1000)
    scheduler.set_timesteps(50)
    places = scheduler.timesteps[::7]
    generator = torch.Generator().manual_seed(0)
    clean, noise = torch.randn((2, len(places), 3, 4, 4), generator=generator)
    found = read_levels(scheduler).noisy(clean, noise, places)
    for each in (scheduler, trained_with):
        expected = each.add_noise(clean, noise, places)
        torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("options", [{}, {"use_karras_sigmas": True}])
def test_noise_is_that_of_the_denoisers_input_where_the_scheduler_scales_it(
    options: dict[str, Any],
) -> None:
    scheduler = diffusers.EulerDiscreteScheduler(num_train_timesteps=1000)
    levels = read_levels(diffusers.EulerDiscreteScheduler(num_train_timesteps=1000, **options))
    generator = torch.Generator().manual_seed(0)
    clean, noise = torch.randn((2, 1, 3, 4, 4), generator=generator)
    for timestep in (0, 333, 999):
        place = torch.tensor([timestep])
        noised = scheduler.add_noise(clean, noise, place.float())
        scheduler._step_index = None
        expected = scheduler.scale_model_input(noised, place.float())
        torch.testing.assert_close(
            levels.noisy(clean, noise, place), expected, atol=1e-4, rtol=1e-4
        )


def test_a_schedule_that_was_set_for_sampling_changes_nothing() -> None:
    scheduler = diffusers.EulerDiscreteScheduler(num_train_timesteps=1000)
    expected = read_levels(scheduler)
    scheduler.set_timesteps(7)
    found = read_levels(scheduler)
    assert torch.equal(found.signals, expected.signals)
    assert len(scheduler.timesteps) == 7


def test_a_flow_goes_from_next_to_clean_to_pure_noise() -> None:
    levels = read_levels(diffusers.FlowMatchEulerDiscreteScheduler(num_train_timesteps=10))
    assert levels.timesteps.tolist() == list(range(1, 11))
    clean, noise = torch.ones(1, 1, 1, 1), torch.full((1, 1, 1, 1), 3.0)
    for place, sigma in enumerate(np.arange(1, 11) / 10):
        expected = noisy_latents(clean, noise, Mixture(signal=1 - sigma, level=sigma))
        found = levels.noisy(clean, noise, torch.tensor([place]))
        torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("is_timed", [True, False])
def test_what_can_be_seen_is_learnt(tmp_path: Path, is_timed: bool) -> None:
    training = Training(num_steps=30, batch_size=16, held_out=0.4, is_timed=is_timed)
    found = trained(tmp_path, training=training)
    record = found.record
    assert learnt_something(record)
    assert record.accuracies[0].accuracy.value == 1
    assert record.is_timed == is_timed
    assert (record.num_samples, record.num_held_out) == (36, 24)
    assert (record.num_steps, record.batch_size, record.learning_rate) == (30, 16, 2e-3)
    assert record.num_parameters == sum(each.numel() for each in found.classifier.parameters())
    assert [each.timestep for each in record.accuracies] == list(range(0, 1000, 111))
    # At pure noise there is nothing to see.
    assert record.accuracies[-1].accuracy.lower < record.chance + 0.2


def test_accuracy_is_counted_on_the_held_out_samples(tmp_path: Path) -> None:
    """Counted again one by one, where no noise is drawn."""
    training = Training(num_steps=3, batch_size=8, held_out=0.4, seed=3, is_timed=False)
    found = trained(tmp_path, training=training, scheduler=None)
    images, labels = stripes()
    rows = torch.randperm(60, generator=torch.Generator().manual_seed(3))[:24].tolist()
    answers = []
    for row in rows:
        pixels = torch.from_numpy(images[[row]].transpose(0, 3, 1, 2) / 127.5 - 1).float()
        answers.append(int(found.classifier(pixels, torch.zeros(1)).argmax()))
    (measured,) = found.record.accuracies
    asked = [int(labels[row]) for row in rows]
    num_right = sum(told == label for told, label in zip(answers, asked, strict=True))
    assert measured.accuracy == proportion(num_right, 24)
    shuffled = [told == label for told in answers for label in asked]
    assert found.record.chance == pytest.approx(sum(shuffled) / len(shuffled))


def test_chance_is_what_the_answers_reach_in_random_order() -> None:
    rng = np.random.default_rng(0)
    labels, answers = (rng.integers(0, 4, 50) ** 2 % 5 for _ in range(2))
    drawn = [float((rng.permutation(answers) == labels).mean()) for _ in range(4000)]
    assert by_chance(answers, labels) == pytest.approx(np.mean(drawn), abs=0.005)
    constant = np.zeros(50, dtype=np.int64)
    assert by_chance(constant, labels) == pytest.approx((labels == 0).mean())


def test_held_out_samples_are_not_trained_on(tmp_path: Path, whole: Trained) -> None:
    images, labels = stripes()
    rows = torch.randperm(60, generator=torch.Generator().manual_seed(SHORT.seed))[:6].numpy()
    images[rows] = 255 - images[rows]
    found = train_classifier(
        images,
        labels,
        num_classes=2,
        scheduler=SCHEDULER,
        training=SHORT,
        folder=tmp_path,
        device="cpu",
    )
    assert_same(found.classifier, whole.classifier)


def test_labels_without_meaning_are_not_learnt(tmp_path: Path) -> None:
    images, labels = stripes(120)
    found = train_classifier(
        images,
        np.random.default_rng(9).permutation(labels),
        num_classes=2,
        scheduler=SCHEDULER,
        training=Training(num_steps=20, batch_size=16, held_out=0.5),
        folder=tmp_path,
        device="cpu",
    )
    assert not learnt_something(found.record)


def test_a_labeller_of_clean_images_needs_no_scheduler(tmp_path: Path) -> None:
    training = Training(num_steps=20, batch_size=16, held_out=0.4, is_timed=False)
    record = trained(tmp_path, training=training, scheduler=None).record
    assert [each.timestep for each in record.accuracies] == [0]
    assert learnt_something(record)
    with pytest.raises(ValueError, match="noise levels"):
        trained(tmp_path, scheduler=None)


def test_what_comes_out_is_ready_to_guide(whole: Trained) -> None:
    assert not any(each.training for each in whole.classifier.modules())
    assert not any(each.requires_grad for each in whole.classifier.parameters())
    images = torch.randn(2, 3, 12, 12).requires_grad_()
    whole.classifier(images, torch.tensor([5.0, 700.0])).sum().backward()
    assert images.grad is not None


def test_a_second_run_trains_nothing(tmp_path: Path, whole: Trained) -> None:
    first, steps = steps_of(tmp_path)
    assert steps == list(range(1, NUM_STEPS + 1))
    assert sorted(each.name for each in tmp_path.iterdir()) == [RECORD, CLASSIFIER]
    second, steps = steps_of(tmp_path)
    assert steps == []
    assert first.record == second.record == whole.record
    for each in (first, second):
        assert_same(each.classifier, whole.classifier)
    assert not second.classifier.training


@pytest.mark.parametrize("last", [1, 2, 5, 6, NUM_STEPS])
def test_a_training_that_was_stopped_ends_in_the_same_weights(
    tmp_path: Path, whole: Trained, last: int
) -> None:
    with pytest.raises(Stopped):
        trained(tmp_path, progress=stop_at(last))
    torch.manual_seed(last)  # what the process drew elsewhere does not matter
    found, steps = steps_of(tmp_path)
    assert steps == list(range(last - last % 2 + 1 if last < NUM_STEPS else 7, NUM_STEPS + 1))
    assert_same(found.classifier, whole.classifier)
    assert found.record == whole.record
    assert not (tmp_path / STATE).exists()


def _damaged(content: bytes) -> list[bytes]:
    changed = bytearray(content)
    changed[-5] ^= 1  # of a weight: still a file that can be read
    return [b"", content[:100], content[:-1], bytes(changed), b"\x80\x04K\x01."]


@pytest.mark.parametrize("name", [CLASSIFIER, RECORD])
@pytest.mark.parametrize("kind", range(5))
def test_a_damaged_classifier_is_trained_anew(
    tmp_path: Path, whole: Trained, name: str, kind: int
) -> None:
    trained(tmp_path)
    (tmp_path / name).write_bytes(_damaged((tmp_path / name).read_bytes())[kind])
    found, steps = steps_of(tmp_path)
    assert len(steps) == NUM_STEPS
    assert_same(found.classifier, whole.classifier)
    assert steps_of(tmp_path)[1] == []


@pytest.mark.parametrize("kind", range(5))
def test_a_damaged_state_is_not_gone_on_from(tmp_path: Path, whole: Trained, kind: int) -> None:
    with pytest.raises(Stopped):
        trained(tmp_path, progress=stop_at(5))
    state = tmp_path / STATE
    state.write_bytes(_damaged(state.read_bytes())[kind])
    found, steps = steps_of(tmp_path)
    assert len(steps) == NUM_STEPS
    assert_same(found.classifier, whole.classifier)


def test_a_foreign_file_of_the_same_name_is_trained_over(tmp_path: Path, whole: Trained) -> None:
    trained(tmp_path)
    save_file(load_file(tmp_path / CLASSIFIER), tmp_path / CLASSIFIER)  # nothing says whose it is
    found, steps = steps_of(tmp_path)
    assert len(steps) == NUM_STEPS
    assert_same(found.classifier, whole.classifier)


@pytest.mark.parametrize(
    "other",
    [
        {"seed": 1},
        {"training": Training(num_steps=NUM_STEPS, batch_size=8, seed=4)},
        {"training": Training(num_steps=NUM_STEPS, batch_size=8, seed=3, is_timed=False)},
        {"scheduler": diffusers.DDPMScheduler(beta_schedule="squaredcos_cap_v2")},
    ],
    ids=["images", "seed", "not timed", "scheduler"],
)
def test_another_training_is_not_taken_for_this_one(tmp_path: Path, other: dict[str, Any]) -> None:
    with pytest.raises(Stopped):
        trained(tmp_path, progress=stop_at(5))
    assert len(steps_of(tmp_path, **other)[1]) == NUM_STEPS
    assert len(steps_of(tmp_path)[1]) == NUM_STEPS


def test_a_loss_that_is_no_number_is_said(tmp_path: Path) -> None:
    training = Training(num_steps=50, batch_size=8, learning_rate=1e30)
    with pytest.raises(MemscanError, match=r"its loss was \w+ at step \d+ of 50; lower its learni"):
        trained(tmp_path, training=training)
    assert not (tmp_path / CLASSIFIER).exists()


def test_a_folder_that_cannot_be_written_is_said(tmp_path: Path) -> None:
    in_the_way = tmp_path / "file"
    in_the_way.write_text("")
    with pytest.raises(StoreError, match=r"cannot be kept in \.\.\./classifier") as raised:
        trained(in_the_way / "classifier")
    assert str(tmp_path) not in str(raised.value)


def test_images_and_labels_must_belong_together(tmp_path: Path) -> None:
    images, labels = stripes()
    wrong: list[tuple[Any, Any]] = [
        (images, labels[:-1]),
        (images, labels + 1),
        (images, labels - 1),
        (images.astype(np.float32), labels),
        (images[0], labels),
    ]
    for some_images, some_labels in wrong:
        with pytest.raises(ValueError, match=r"labels|images"):
            train_classifier(
                some_images,
                some_labels,
                num_classes=2,
                scheduler=SCHEDULER,
                training=SHORT,
                folder=tmp_path,
                device="cpu",
            )


@pytest.mark.parametrize(
    "wrong",
    [{"num_steps": 0}, {"batch_size": 1}, {"learning_rate": 0.0}, {"held_out": 1.0}],
)
def test_a_training_that_makes_no_sense_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"training needs|learning rate"):
        Training(**wrong)
