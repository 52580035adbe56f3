"""The LoRA branch: what is trained and kept, that the first model stays as it was, its numbers."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from pipeline_factory import SIDE, call_settings, tiny_pipeline
from scipy import stats
from torch.utils.flop_counter import FlopCounterMode

from pytest_memscan.denoising.attach import count_calls
from pytest_memscan.denoising.latents import clean_latents_of, images_of
from pytest_memscan.errors import CheckpointError, MemscanError, StoreError
from pytest_memscan.generation import Prompting, generate, plan_rows
from pytest_memscan.store import ImageStore
from pytest_memscan.surrogates import lora_training
from pytest_memscan.surrogates.lora import (
    ClusterLora,
    LoraRecord,
    LoraSettings,
    lora_cost,
    mean_with_bounds,
    train_lora,
)
from pytest_memscan.surrogates.lora_kept import KeptLora
from pytest_memscan.surrogates.lora_model import TOKENS, ClusterModel, with_clusters
from pytest_memscan.surrogates.lora_training import Pupil, encoded, losses_by_token, split

FIXTURE = Path(__file__).parents[3] / "fixtures" / "leaky-t2i"
NUM, CLASSES = 30, 3
SETTINGS = LoraSettings(rank=2, num_steps=6, batch_size=4, learning_rate=1e-2)


@cache
def shared(family: str = "sd1") -> Any:
    """One pipeline for many tests: training on it must leave nothing behind."""
    return tiny_pipeline(family)


def samples(num: int = NUM, seed: int = 0) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Noisy pictures, of one colour for each class."""
    rng = np.random.default_rng(seed)
    labels = np.arange(num, dtype=np.int64) % CLASSES
    noise = rng.integers(0, 60, size=(num, SIDE, SIDE, 3))
    colours = np.array([[190, 0, 0], [0, 190, 0], [0, 0, 190]])
    return (noise + colours[labels][:, None, None]).astype(np.uint8), labels


def trained(settings: LoraSettings = SETTINGS, *, family: str = "sd1", **more: Any) -> ClusterLora:
    pictures, labels = samples()
    return train_lora(
        shared(family), pictures, labels, num_classes=CLASSES, settings=settings, **more
    )


@cache
def reference() -> ClusterLora:
    """Trained once without a break and without a folder, to compare with."""
    return trained()


def values_of(found: ClusterLora) -> dict[str, torch.Tensor]:
    """What was trained."""
    pipeline = found.pipeline
    parts = {f"unet {n}": p for n, p in pipeline.unet.named_parameters() if "lora_" in n}
    return parts | {TOKENS: pipeline.text_encoder.get_input_embeddings().learned}


def assert_same(one: ClusterLora, other: ClusterLora) -> None:
    ours, theirs = values_of(one), values_of(other)
    assert ours.keys() == theirs.keys()
    for name, value in ours.items():
        assert torch.equal(value, theirs[name]), name
    assert one.record == other.record
    assert one.prompts == other.prompts


def pictures_of(pipeline: Any, prompts: list[str]) -> NDArray[np.float32]:
    generators = [torch.Generator("cpu").manual_seed(seed) for seed in range(len(prompts))]
    images: NDArray[np.float32] = pipeline(
        prompts,
        generator=generators,
        num_inference_steps=3,
        output_type="np",
        **call_settings("sd1"),
    ).images
    return images


def everything(pipeline: Any) -> dict[str, Any]:
    """All that training could change in a pipeline."""
    parts = {"unet": pipeline.unet, "text": pipeline.text_encoder, "vae": pipeline.vae}
    found: dict[str, Any] = {
        "tokens": len(pipeline.tokenizer),
        "reads": pipeline.tokenizer("<cluster-0> a red cat").input_ids,
        "scheduler": dict(pipeline.scheduler.config),
        "pipeline": dict(pipeline.config),
        "components": {name: id(each) for name, each in pipeline.components.items()},
    }
    for part, network in parts.items():
        found[f"{part} config"] = dict(getattr(network.config, "__dict__", network.config))
        found[f"{part} modules"] = [(n, type(m), m.training) for n, m in network.named_modules()]
        for name, each in network.named_parameters():
            found[f"{part} {name}"] = (
                each.data_ptr(),
                each.dtype,
                each.requires_grad,
                each.grad,
                each.detach().numpy().tobytes(),
            )
    return found


# --- the first pipeline --------------------------------------------------------------------------


def test_the_pipeline_it_came_from_stays_bit_identical() -> None:
    pipeline = tiny_pipeline("sd1")
    pictures, labels = samples()
    before, drawn = everything(pipeline), pictures_of(pipeline, ["a red cat"])
    random_state = torch.random.get_rng_state()
    found = train_lora(pipeline, pictures, labels, num_classes=CLASSES, settings=SETTINGS)
    assert torch.equal(torch.random.get_rng_state(), random_state)
    pictures_of(found.pipeline, list(found.prompts))
    assert everything(pipeline) == before
    assert (pictures_of(pipeline, ["a red cat"]) == drawn).all()


def test_before_training_the_copy_is_the_same_model_and_shares_its_weights() -> None:
    pipeline = shared()
    model = with_clusters(pipeline, num_classes=CLASSES, rank=2, seed=0)
    ours, theirs = (pictures_of(each, ["a red cat", ""]) for each in (model.pipeline, pipeline))
    assert (ours == theirs).all()
    frozen = {each.data_ptr() for each in pipeline.unet.parameters()}
    theirs = {n: p for n, p in model.pipeline.unet.named_parameters() if "lora_" not in n}
    assert {each.data_ptr() for each in theirs.values()} == frozen


def test_every_cluster_starts_from_the_empty_prompt() -> None:
    model = with_clusters(shared(), num_classes=CLASSES, rank=2, seed=0)
    images = pictures_of(model.pipeline, ["", *model.prompts][:1])
    for prompt in model.prompts:
        assert np.abs(pictures_of(model.pipeline, [prompt]) - images).max() < 1e-5


def test_half_precision_is_trained_in_a_float32_copy() -> None:
    pipeline = tiny_pipeline("sd1")
    for part in (pipeline.unet, pipeline.text_encoder, pipeline.vae):
        part.to(torch.bfloat16)
    before = everything_in_half(pipeline)
    pictures, labels = samples()
    found = train_lora(pipeline, pictures, labels, num_classes=CLASSES, settings=SETTINGS)
    assert {each.dtype for each in found.pipeline.unet.parameters()} == {torch.float32}
    assert np.isfinite(pictures_of(found.pipeline, list(found.prompts))).all()
    assert everything_in_half(pipeline) == before


def everything_in_half(pipeline: Any) -> list[tuple[torch.dtype, bytes]]:
    parts = (pipeline.unet, pipeline.text_encoder, pipeline.vae)
    return [
        (each.dtype, each.detach().view(torch.int16).numpy().tobytes())
        for part in parts
        for each in part.parameters()
    ]


# --- what is trained -----------------------------------------------------------------------------


@pytest.mark.parametrize("family", ["sd1", "sd2-v"])
def test_a_model_is_taught_and_can_be_asked_for_each_cluster(family: str) -> None:
    found = trained(family=family)
    assert found.prompts == ("<cluster-0>", "<cluster-1>", "<cluster-2>")
    images = [pictures_of(found.pipeline, [prompt]) for prompt in found.prompts]
    assert all(np.isfinite(each).all() for each in images)
    assert (images[0] != images[1]).any()
    assert all(not each.requires_grad for each in found.pipeline.unet.parameters())


def test_only_attention_projections_carry_a_lora_and_all_of_them_moved() -> None:
    names = values_of(reference())
    layers = {name.partition(".lora_")[0] for name in names if name != TOKENS}
    assert all(each.endswith(("to_q", "to_k", "to_v", "to_out.0")) for each in layers)
    attentions = sum(name.endswith("to_q") for name in layers)
    assert len(layers) == 4 * attentions
    assert all((each != 0).any() for each in names.values())


def test_prompts_are_one_token_each_also_above_ten() -> None:
    model = with_clusters(shared(), num_classes=12, rank=2, seed=0)
    tokenizer = model.pipeline.tokenizer
    read = [tokenizer(prompt).input_ids[1:-1] for prompt in model.prompts]
    known = len(shared().tokenizer)
    assert read == [[known + number] for number in range(12)]


def test_ordinary_generation_with_prompts_samples_a_cluster(tmp_path: Path) -> None:
    found = reference()
    store = ImageStore(tmp_path, spec={})
    prompting = Prompting(prompts=found.prompts, rows_per_prompt=2)
    rows = plan_rows(2 * CLASSES, seed=0)
    generate(
        found.pipeline,
        rows,
        store=store,
        batch_size=2,
        steps=2,
        plan_seed=0,
        prompting=prompting,
    )
    assert len(list(store.read("planned", range(2 * CLASSES)))) == 2 * CLASSES
    store.close()


def test_the_loss_is_that_of_the_checkpoint() -> None:
    """Epsilon and v, from the definitions, with diffusers' own noise."""
    for family in ("sd1", "sd2-v"):
        from diffusers import DDPMScheduler

        pipeline = shared(family)
        model = with_clusters(pipeline, num_classes=CLASSES, rank=2, seed=0)
        pictures, labels = samples(4)
        pupil = pupil_of(model, pictures, labels)
        noise = np.random.default_rng(1).standard_normal(pupil.latents.shape, dtype=np.float32)
        times = np.array([0, 10, 500, 999])
        prompts = ["a red cat", "", "the dog", "a red cat"]
        with torch.no_grad():
            found = lora_training._losses(pupil, pupil.latents, prompts, times, noise)
            scheduler = DDPMScheduler.from_config(pipeline.scheduler.config)
            clean, drawn, when = (torch.from_numpy(e) for e in (pupil.latents, noise, times))
            ids = pipeline.tokenizer(prompts, padding="max_length", return_tensors="pt").input_ids
            answer = pipeline.unet(
                scheduler.add_noise(clean, drawn, when), when, pipeline.text_encoder(ids)[0]
            ).sample
            target = scheduler.get_velocity(clean, drawn, when) if family == "sd2-v" else drawn
        expected = (answer - target).square().mean(dim=(1, 2, 3))
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


def pupil_of(model: ClusterModel, pictures: NDArray[np.uint8], labels: NDArray[np.int64]) -> Pupil:
    return Pupil(
        model=model,
        latents=encoded(model.pipeline, pictures),
        labels=labels,
        parametrisation=lora_training.parametrisation_of(model.pipeline),
    )


def test_latents_do_not_depend_on_how_many_are_encoded_at_once() -> None:
    pictures, _ = samples(lora_training.ENCODED_AT_ONCE + 5)
    found = encoded(shared(), pictures)
    assert found.dtype == np.float32
    assert (found == clean_latents_of(shared(), pictures)).all()
    assert images_of(shared(), found).shape == pictures.shape


# --- cost ----------------------------------------------------------------------------------------


def test_the_cost_is_what_training_then_takes(monkeypatch: pytest.MonkeyPatch) -> None:
    pictures, labels = samples()
    cost = lora_cost(shared(), num_samples=NUM, num_classes=CLASSES, settings=SETTINGS)
    forwards = []
    original = lora_training._losses

    def counted(*args: Any) -> torch.Tensor:
        with count_calls(args[0].model.pipeline) as counter:
            losses = original(*args)
        forwards.append((counter.calls, losses.requires_grad))
        return losses

    monkeypatch.setattr(lora_training, "_losses", counted)
    found = train_lora(shared(), pictures, labels, num_classes=CLASSES, settings=SETTINGS)
    assert cost.num_steps == sum(trains for _, trains in forwards) == SETTINGS.num_steps
    assert cost.trained_forwards == sum(calls for calls, trains in forwards if trains)
    assert cost.plain_forwards == sum(calls for calls, trains in forwards if not trains)
    assert cost.num_encoded == NUM
    assert cost.num_parameters == found.record.num_parameters
    assert cost.num_parameters == sum(each.numel() for each in values_of(found).values())
    assert cost.latent_bytes == encoded(shared(), pictures).nbytes


def test_asking_for_the_cost_computes_nothing() -> None:
    with FlopCounterMode(display=False) as flops:
        lora_cost(shared(), num_samples=NUM, num_classes=CLASSES, settings=SETTINGS)
    assert flops.get_total_flops() == 0


# --- kept, and gone on with ----------------------------------------------------------------------


def test_the_same_seed_gives_the_same_weights_and_another_gives_others() -> None:
    assert_same(trained(), reference())
    other = trained(replace(SETTINGS, seed=1))
    assert not torch.equal(values_of(other)[TOKENS], values_of(reference())[TOKENS])


def test_a_second_call_trains_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = trained(folder=tmp_path)
    assert sorted(each.name for each in tmp_path.iterdir()) == [
        "record.json",
        "weights.safetensors",
    ]
    monkeypatch.setattr(lora_training, "_losses", None)  # whoever trains calls it
    told: list[tuple[int, int]] = []
    second = trained(folder=tmp_path, progress=lambda *each: told.append(each))
    assert_same(first, second)
    assert told == [(SETTINGS.num_steps, SETTINGS.num_steps)]
    one, other = (pictures_of(each.pipeline, ["<cluster-1>"]) for each in (first, second))
    assert (one == other).all()


class Killed(Exception):  # noqa: N818 - what ends a program is no error of it
    pass


def test_a_killed_training_goes_on_to_the_very_same_weights(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lora_training, "SAVED_EVERY", 2)
    told: list[int] = []

    def until(step: int) -> Any:
        def tell(done: int, total: int) -> None:
            told.append(done)
            if done == step:
                raise Killed

        return tell

    for step in (3, 5):
        with pytest.raises(Killed):
            trained(folder=tmp_path, progress=until(step))
    whole = trained(folder=tmp_path, progress=until(-1))
    assert told == [0, 1, 2, 3, 2, 3, 4, 5, 4, 5, 6]
    assert_same(whole, reference())


@pytest.mark.parametrize(
    ("name", "damage"),
    [
        ("state.safetensors", "cut"),
        ("weights.safetensors", "cut"),
        ("weights.safetensors", "flipped"),
        ("record.json", "text"),
        ("record.json", "cut"),
    ],
)
def test_what_is_damaged_is_made_again(
    name: str, damage: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lora_training, "SAVED_EVERY", 2)
    if name.startswith("state"):
        with pytest.raises(Killed):
            trained(folder=tmp_path, progress=_die_at_four)
    else:
        trained(folder=tmp_path)
    path = tmp_path / name
    data = path.read_bytes()
    cut = {
        "cut": data[: len(data) // 2],
        "text": b"{]",
        "flipped": data[:-1] + bytes([data[-1] ^ 1]),
    }
    path.write_bytes(cut[damage])
    assert_same(trained(folder=tmp_path), reference())


def _die_at_four(done: int, total: int) -> None:
    if done == 4:
        raise Killed


def test_a_folder_of_another_training_is_refused(tmp_path: Path) -> None:
    trained(folder=tmp_path)
    with pytest.raises(StoreError, match="of other samples, labels or settings; delete") as error:
        trained(replace(SETTINGS, rank=3), folder=tmp_path)
    assert str(tmp_path.parent) not in str(error.value)


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("in the way")
    with pytest.raises(StoreError, match=r"cannot be kept in .*file"):
        trained(folder=blocked)


def test_the_record_is_plain_json(tmp_path: Path) -> None:
    record = trained(folder=tmp_path).record
    kept = json.loads((tmp_path / "record.json").read_text())["record"]
    assert LoraRecord.from_json(kept) == record
    assert LoraRecord.from_json(json.loads(json.dumps(record.as_json()))) == record


def test_state_keeps_what_it_is_given(tmp_path: Path) -> None:
    kept = KeptLora(folder=tmp_path, spec="a")
    tensors = {"x": torch.arange(3.0), "y": torch.ones(2, dtype=torch.float64)}
    kept.save_state(tensors)
    found = kept.state()
    assert found is not None
    assert found.keys() == tensors.keys()
    assert all(torch.equal(found[name], tensors[name]) for name in tensors)
    with pytest.raises(StoreError):
        KeptLora(folder=tmp_path, spec="b").state()


# --- what it learnt ------------------------------------------------------------------------------


def test_tokens_of_clusters_that_differ_are_learnt() -> None:
    """By a network that was trained: one of random weights has nothing to tell by a token."""
    from diffusers import StableDiffusionPipeline

    pipeline = StableDiffusionPipeline.from_pretrained(
        FIXTURE, use_safetensors=True, local_files_only=True, dtype=torch.float32
    )
    pictures, labels = samples()
    settings = LoraSettings(rank=4, num_steps=60, learning_rate=1e-3, token_learning_rate=3e-2)
    record = train_lora(
        pipeline,
        pictures.repeat(2, axis=1).repeat(2, axis=2),
        labels,
        num_classes=CLASSES,
        settings=settings,
    ).record
    assert record.learnt_something
    assert record.loss_right < record.loss_wrong
    assert record.loss_at_end < record.loss_at_start
    assert (record.num_samples, record.num_held_out) == (24, 6)


def test_labels_that_mean_nothing_are_not_learnt() -> None:
    pictures, _ = samples()
    labels = np.random.default_rng(3).permutation(np.arange(NUM, dtype=np.int64) % CLASSES)
    found = train_lora(shared(), pictures, labels, num_classes=CLASSES, settings=SETTINGS)
    assert not found.record.learnt_something


def test_an_untrained_model_has_no_advantage_at_all() -> None:
    model = with_clusters(shared(), num_classes=CLASSES, rank=2, seed=0)
    pupil = pupil_of(model, *samples(6))
    asked = losses_by_token(pupil, num_classes=CLASSES, batch_size=4, seed=0)
    assert asked.shape == (6, 2)
    assert np.abs(asked[:, 0] - asked[:, 1]).max() < 1e-6


def test_bounds_of_a_mean_are_students() -> None:
    values = np.array([1.0, 2.0, 4.0, 9.0])
    found = mean_with_bounds(values)
    low, high = stats.t.interval(0.9, 3, loc=4.0, scale=stats.sem(values))
    assert math.isclose(found.value, 4.0)
    assert math.isclose(found.lower, low)
    assert math.isclose(found.upper, high)


def test_held_out_samples_are_apart_and_every_class_keeps_one() -> None:
    labels = np.array([0] * 10 + [1] * 9 + [2], dtype=np.int64)
    for seed in range(20):
        shown, held_out = split(labels, share=0.5, seed=seed)
        assert sorted([*shown, *held_out]) == list(range(20))
        assert len(held_out) == 10
        assert set(labels[shown]) == {0, 1, 2}
    assert len(split(np.arange(5), share=0.9, seed=0)[1]) == 0


# --- what cannot be done -------------------------------------------------------------------------


@pytest.mark.parametrize("family", ["sdxl", "pixart-sigma", "sd3", "flux-dev"])
def test_other_families_are_refused_in_a_sentence(family: str) -> None:
    with pytest.raises(CheckpointError, match=r"works on Stable Diffusion 1\.x and 2\.x .*Leave"):
        trained(family=family)
    with pytest.raises(CheckpointError, match="Leave the LoRA branch out"):
        lora_cost(shared(family), num_samples=9, num_classes=2, settings=SETTINGS)


def test_a_model_with_an_adapter_is_refused() -> None:
    found = reference()
    pictures, labels = samples()
    with pytest.raises(CheckpointError, match="carries a LoRA already"):
        train_lora(found.pipeline, pictures, labels, num_classes=CLASSES, settings=SETTINGS)


def test_a_tokenizer_that_knows_clusters_is_refused() -> None:
    pipeline = tiny_pipeline("sd1")
    pipeline.tokenizer.add_tokens(["<cluster-1>"])
    pictures, labels = samples()
    with pytest.raises(CheckpointError, match="cannot take the tokens <cluster-0> to <cluster-2>"):
        train_lora(pipeline, pictures, labels, num_classes=CLASSES, settings=SETTINGS)


def test_divergence_is_a_sentence_and_leaves_no_result(tmp_path: Path) -> None:
    wild = replace(SETTINGS, learning_rate=1e30, token_learning_rate=1e30)
    with pytest.raises(MemscanError, match=r"diverged: the loss of step \d of 6 is (nan|inf)"):
        trained(wild, folder=tmp_path)
    assert not (tmp_path / "record.json").exists()


def test_latents_that_are_not_finite_are_a_sentence() -> None:
    pipeline = tiny_pipeline("sd1")
    with torch.no_grad():
        pipeline.vae.quant_conv.weight.fill_(float("inf"))
    pictures, labels = samples()
    with pytest.raises(CheckpointError, match="not finite of 30 of 30"):
        train_lora(pipeline, pictures, labels, num_classes=CLASSES, settings=SETTINGS)


def test_too_few_samples_or_clusters_are_a_sentence() -> None:
    pictures, labels = samples()
    with pytest.raises(MemscanError, match="has 3 clusters with samples, of 4"):
        train_lora(shared(), pictures, labels, num_classes=4, settings=SETTINGS)
    with pytest.raises(MemscanError, match="has 1 clusters with samples, of 1; it needs"):
        train_lora(shared(), pictures, 0 * labels, num_classes=1, settings=SETTINGS)
    with pytest.raises(MemscanError, match="can hold out 0 of 4 samples in 3 clusters"):
        train_lora(shared(), pictures[:4], labels[:4], num_classes=3, settings=SETTINGS)


def test_what_a_caller_gets_wrong_is_named() -> None:
    pictures, labels = samples()
    with pytest.raises(ValueError, match="labels 0 to 2 of 2 classes"):
        train_lora(shared(), pictures, labels, num_classes=2, settings=SETTINGS)
    with pytest.raises(ValueError, match="expected uint8"):
        train_lora(shared(), pictures / 255, labels, num_classes=3, settings=SETTINGS)
    with pytest.raises(ValueError, match="expected uint8"):
        train_lora(shared(), pictures, labels[:-1], num_classes=3, settings=SETTINGS)
    for wrong in ({"rank": 0}, {"held_out_share": 0.0}, {"learning_rate": 0.0}):
        with pytest.raises(ValueError, match=r"at least 1|between 0 and 1|above 0"):
            LoraSettings(**wrong)  # type: ignore[arg-type]
