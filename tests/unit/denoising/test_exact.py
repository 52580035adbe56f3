"""The closed form against Bayes' rule, Tweedie's formula, its limits, and stock pipelines."""

from __future__ import annotations

import inspect
import math
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import DDIMPipeline, DDIMScheduler, UNet2DModel
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from pytest_memscan.denoising import parametrisation
from pytest_memscan.denoising.attach import count_calls
from pytest_memscan.denoising.exact import ExactDenoiser, standing_in
from pytest_memscan.denoising.parametrisation import KINDS, Kind, Mixture, noisy_latents
from pytest_memscan.denoising.schedule import read_parametrisation

SHAPE = (1, 2, 3)
CLOSE = {"rtol": 1e-9, "atol": 1e-9}
PIXEL = 1e-6  # of images in [0, 1]: float32 rounding
UNLIKELY = 1e-3  # chance of a false alarm where counts are compared with their expectation


@st.composite
def mixtures(draw: st.DrawFn) -> Mixture:
    """Of unit variance or of a flow."""
    share = draw(st.floats(0.02, 1.0))
    if draw(st.booleans()):
        return Mixture(signal=math.sqrt(1 - share), level=math.sqrt(share))
    return Mixture(signal=1 - share, level=share)


@st.composite
def denoisers(draw: st.DrawFn) -> ExactDenoiser:
    """Few images, some perhaps of weight 0; spread nowhere, everywhere or here and there."""
    num = draw(st.integers(1, 6))
    weights = draw(st.lists(st.sampled_from([0.0, 0.01, 1.0, 2.5]), min_size=num, max_size=num))
    spreads = st.sampled_from([0.0, 0.05, 0.4, 2.0])
    spread: float | torch.Tensor = draw(spreads)
    if draw(st.booleans()):
        spread = torch.tensor(draw(st.lists(spreads, min_size=num, max_size=num)))
    clean = drawn((num, *SHAPE), draw(st.integers(0, 2**32 - 1))).float()
    weights[draw(st.integers(0, num - 1))] = 1.0
    tile_bytes = draw(st.sampled_from([1, 100, 2**20]))
    return ExactDenoiser(
        clean=clean, weights=torch.tensor(weights), spread=spread, tile_bytes=tile_bytes
    )


def drawn(shape: tuple[int, ...], seed: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator, dtype=torch.float64)


def noisy_images(exact: ExactDenoiser, mixture: Mixture, num: int, seed: int) -> torch.Tensor:
    """Mixed from draws of the data distribution, float64."""
    clean = exact.sample(num, torch.Generator().manual_seed(seed)).double()
    return noisy_latents(clean, drawn(tuple(clean.shape), seed ^ 1), mixture)


def log_joint(exact: ExactDenoiser, noisy: torch.Tensor, mixture: Mixture) -> torch.Tensor:
    """Logarithm of ``w_j p(noisy | j)``, ``(batch, num_images)``, from torch's distributions."""
    spreads = torch.as_tensor(exact.spread, dtype=torch.float64).expand(len(exact.clean))
    columns = []
    for image, weight, spread in zip(exact.clean, exact.weights, spreads, strict=True):
        deviation = torch.sqrt(mixture.level**2 + (mixture.signal * spread) ** 2)
        values = torch.distributions.Normal(mixture.signal * image.double(), deviation)
        columns.append(weight.double().log() + values.log_prob(noisy).flatten(1).sum(dim=1))
    return torch.stack(columns, dim=1)


def definition(
    exact: ExactDenoiser, noisy: torch.Tensor, mixture: Mixture
) -> tuple[torch.Tensor, torch.Tensor]:
    """Posterior by Bayes' rule, and the mean from the mean of every joint normal distribution."""
    joint = log_joint(exact, noisy, mixture)
    posterior = (joint - joint.logsumexp(dim=1, keepdim=True)).exp()
    spreads = torch.as_tensor(exact.spread, dtype=torch.float64).expand(len(exact.clean))
    mean = torch.zeros_like(noisy)
    for j, (image, spread) in enumerate(zip(exact.clean.double(), spreads, strict=True)):
        covariance = mixture.signal * spread**2
        variance = mixture.signal**2 * spread**2 + mixture.level**2
        given_j = image + covariance / variance * (noisy - mixture.signal * image)
        mean += posterior[:, j].reshape(-1, 1, 1, 1) * given_j
    return posterior, mean


@settings(deadline=None, max_examples=60)
@given(exact=denoisers(), mixture=mixtures(), seed=st.integers(0, 2**32 - 1))
def test_posterior_and_mean_are_those_of_the_definition(
    exact: ExactDenoiser, mixture: Mixture, seed: int
) -> None:
    noisy = noisy_images(exact, mixture, 5, seed)
    posterior, mean = definition(exact, noisy, mixture)
    torch.testing.assert_close(exact.posterior(noisy, mixture), posterior, **CLOSE)
    torch.testing.assert_close(exact.clean_latents(noisy, mixture), mean, **CLOSE)


@settings(deadline=None, max_examples=40)
@given(exact=denoisers(), mixture=mixtures(), seed=st.integers(0, 2**32 - 1))
def test_the_clean_image_is_one_step_along_the_score(
    exact: ExactDenoiser, mixture: Mixture, seed: int
) -> None:
    """Tweedie's formula, ``signal * clean = noisy + level**2 * gradient of the log density``."""
    noisy = noisy_images(exact, mixture, 3, seed).requires_grad_()
    (score,) = torch.autograd.grad(log_joint(exact, noisy, mixture).logsumexp(1).sum(), noisy)
    with torch.no_grad():
        scaled = mixture.signal * exact.clean_latents(noisy, mixture)
        torch.testing.assert_close(scaled, noisy + mixture.level**2 * score, **CLOSE)
        epsilon = exact.prediction(noisy, kind="epsilon", mixture=mixture)
        torch.testing.assert_close(epsilon, -mixture.level * score, **CLOSE)


@pytest.mark.parametrize("kind", KINDS)
@settings(deadline=None, max_examples=30)
@given(exact=denoisers(), mixture=mixtures(), seed=st.integers(0, 2**32 - 1))
def test_every_kind_of_prediction_means_the_same_clean_image(
    kind: Kind, exact: ExactDenoiser, mixture: Mixture, seed: int
) -> None:
    noisy = noisy_images(exact, mixture, 3, seed)
    prediction = exact.prediction(noisy, kind=kind, mixture=mixture)
    if kind == "epsilon" and mixture.signal < 0.01:
        return  # the noise tells nothing of the clean image there
    clean = parametrisation.clean_latents(noisy, prediction, kind=kind, mixture=mixture)
    torch.testing.assert_close(clean, exact.clean_latents(noisy, mixture), **CLOSE)


def test_mean_of_the_data_that_a_noisy_image_may_come_from() -> None:
    """Without the closed form: draws of the data, weighted by how likely they make the image."""
    exact = ExactDenoiser(
        clean=torch.tensor([[0.0, 0.0], [1.0, 0.5], [-1.0, 2.0]]),
        weights=torch.tensor([1.0, 3.0, 2.0]),
        spread=torch.tensor([0.0, 0.3, 0.6]),
    )
    mixture = Mixture(signal=0.8, level=0.6)
    noisy = torch.tensor([[0.3, 0.6]], dtype=torch.float64)
    data = exact.sample(400_000, torch.Generator().manual_seed(0)).double()
    likely = (-(noisy - mixture.signal * data).square().sum(1) / (2 * mixture.level**2)).exp()
    mean = likely @ data / likely.sum()
    error = ((likely[:, None] * (data - mean)).square().sum(0)).sqrt() / likely.sum()
    difference = (exact.clean_latents(noisy, mixture)[0] - mean).abs()
    assert bool((difference < 4 * error).all())
    assert bool((error < 0.005).all())


def test_two_points_by_hand() -> None:
    """``tanh``: half-way between -1 and 1, pushed to one side by the noisy value."""
    exact = ExactDenoiser(clean=torch.tensor([[-1.0], [1.0]]), weights=torch.ones(2))
    mixture = Mixture(signal=0.6, level=0.8)
    noisy = torch.tensor([[0.5]], dtype=torch.float64)
    assert exact.clean_latents(noisy, mixture).item() == pytest.approx(math.tanh(0.6 * 0.5 / 0.64))


def test_one_image_with_spread_by_hand() -> None:
    """A normal prior of variance 4 around 1, and a noisy value of variance 1 around half of it."""
    exact = ExactDenoiser(clean=torch.tensor([[1.0]]), weights=torch.ones(1), spread=2.0)
    mixture = Mixture(signal=0.5, level=1.0)
    # Precisions 1/4 (of 1) and 1/4 (of noisy / signal = 3): half-way.
    noisy = torch.tensor([[1.5]], dtype=torch.float64)
    assert exact.clean_latents(noisy, mixture).item() == pytest.approx(2.0)


def test_at_pure_noise_the_weighted_mean_is_answered() -> None:
    clean = drawn((4, *SHAPE), 0).float()
    weights = torch.tensor([4.0, 1.0, 0.0, 3.0])
    exact = ExactDenoiser(clean=clean, weights=weights, spread=torch.tensor([0.0, 0.5, 1.0, 2.0]))
    pure = Mixture(signal=0.0, level=1.0)
    noisy = drawn((3, *SHAPE), 1)
    expected = (weights.double() / 8).expand(3, -1)
    torch.testing.assert_close(exact.posterior(noisy, pure), expected)
    mean = (4 * clean[0].double() + clean[1].double() + 3 * clean[3].double()) / 8
    torch.testing.assert_close(exact.clean_latents(noisy, pure), mean.expand(3, *SHAPE))
    torch.testing.assert_close(exact.prediction(noisy, kind="epsilon", mixture=pure), noisy)


@pytest.mark.parametrize("level", [1e-3, 1e-6])
def test_next_to_no_noise_the_nearest_image_is_answered(level: float) -> None:
    clean = drawn((50, *SHAPE), 2).float()
    exact = ExactDenoiser(clean=clean, weights=torch.linspace(1, 3, 50))
    noisy = drawn((40, *SHAPE), 3)
    mixture = Mixture(signal=1.0, level=level)
    distances = (noisy[:, None] - clean.double()).square().flatten(2).sum(2)
    assert torch.equal(exact.posterior(noisy, mixture).argmax(1), distances.argmin(1))
    nearest = clean[distances.argmin(1)].double()
    torch.testing.assert_close(exact.clean_latents(noisy, mixture), nearest, rtol=0, atol=1e-4)


def test_near_duplicates_are_told_apart_where_float32_products_cannot() -> None:
    """Far from the origin, half a grey level in one pixel apart, at the last step's noise."""
    generator = torch.Generator().manual_seed(4)
    image = 20 + torch.randn((3, 16, 16), generator=generator)
    other = image.clone()
    other[0, 0, 0] += 0.004
    mixture = Mixture(signal=0.99995, level=0.01)
    eps = torch.randn((8, 3, 16, 16), generator=generator)
    noisy = noisy_latents(image, eps, mixture)
    exact = ExactDenoiser(clean=torch.stack([image, other]), weights=torch.ones(2))

    differences = noisy.double()[:, None] - mixture.signal * exact.clean.double()
    logits = -differences.square().flatten(2).sum(2) / (2 * mixture.level**2)
    posterior = exact.posterior(noisy, mixture)
    torch.testing.assert_close(posterior, logits.softmax(1), rtol=1e-6, atol=1e-9)

    rows, columns = noisy.flatten(1), mixture.signal * exact.clean.flatten(1)
    products = rows.square().sum(1)[:, None] - 2 * rows @ columns.T + columns.square().sum(1)
    naive = (-products / (2 * mixture.level**2)).softmax(1)
    assert (naive - logits.softmax(1)).abs().max() > 0.1


@pytest.mark.parametrize("tile_bytes", [1, 1000, 5000])
def test_tiles_do_not_show(tile_bytes: int) -> None:
    clean, weights = drawn((37, *SHAPE), 5).float(), drawn((37,), 6).square()
    spread = drawn((37,), 7).square()
    whole = ExactDenoiser(clean=clean, weights=weights, spread=spread)
    tiled = ExactDenoiser(clean=clean, weights=weights, spread=spread, tile_bytes=tile_bytes)
    mixture = Mixture(signal=0.8, level=0.6)
    noisy = drawn((23, *SHAPE), 8)
    for name in ("posterior", "clean_latents"):
        expected = getattr(whole, name)(noisy, mixture)
        torch.testing.assert_close(getattr(tiled, name)(noisy, mixture), expected, **CLOSE)


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64])
def test_answers_have_the_dtype_of_the_question(dtype: torch.dtype) -> None:
    exact = ExactDenoiser(clean=drawn((3, *SHAPE), 9).float(), weights=torch.ones(3))
    mixture = Mixture(signal=0.8, level=0.6)
    noisy = drawn((2, *SHAPE), 10).to(dtype)
    assert exact.clean_latents(noisy, mixture).dtype == dtype
    assert exact.prediction(noisy, kind="v_prediction", mixture=mixture).dtype == dtype
    assert exact.posterior(noisy, mixture).dtype == torch.float64
    assert exact.clean_latents(noisy[:0], mixture).shape == (0, *SHAPE)


def test_draws_without_spread_are_the_images_in_their_proportions() -> None:
    clean = drawn((4, *SHAPE), 11).float()
    weights = torch.tensor([5.0, 0.0, 2.0, 1.0])
    images = ExactDenoiser(clean=clean, weights=weights).sample(
        4000, torch.Generator().manual_seed(12)
    )
    same = (images[:, None] == clean).flatten(2).all(dim=2)
    assert bool((same.sum(dim=1) == 1).all())
    counts = same.sum(dim=0).numpy()
    assert counts[1] == 0
    assert stats.chisquare(counts[[0, 2, 3]], [2500, 1000, 500]).pvalue > UNLIKELY


def test_draws_spread_around_each_image_by_its_own_spread() -> None:
    clean = torch.tensor([[-50.0, 0.0], [50.0, 0.0]])
    exact = ExactDenoiser(clean=clean, weights=torch.ones(2), spread=torch.tensor([1.0, 3.0]))
    images = exact.sample(4000, torch.Generator().manual_seed(13))
    again = exact.sample(4000, torch.Generator().manual_seed(13))
    assert torch.equal(images, again)
    for image, spread, side in ((clean[0], 1.0, -1), (clean[1], 3.0, 1)):
        around = (images[images[:, 0] * side > 0] - image).flatten().numpy()
        assert stats.kstest(around, stats.norm(scale=spread).cdf).pvalue > UNLIKELY


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"clean": torch.empty(0, 2)}, "expected at least one"),
        ({"clean": torch.ones(2, 2, dtype=torch.int64)}, "floating point"),
        ({"clean": torch.tensor([[1.0], [math.nan]])}, "not finite"),
        ({"clean": torch.tensor([[1.0], [math.inf]])}, "not finite"),
        ({"weights": torch.ones(3)}, r"weights of shape \(3,\)"),
        ({"weights": torch.zeros(2)}, "one weight above 0"),
        ({"weights": torch.tensor([1.0, -1.0])}, "at least 0"),
        ({"weights": torch.tensor([1.0, math.inf])}, "must be finite"),
        ({"spread": -0.1}, "at least 0"),
        ({"spread": math.nan}, "must be finite"),
        ({"spread": torch.ones(3)}, r"spreads of shape \(3,\)"),
    ],
)
def test_what_is_no_distribution_is_refused(changed: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ExactDenoiser(**{"clean": torch.ones(2, 3), "weights": torch.ones(2), **changed})


def test_noisy_images_of_another_shape_are_refused() -> None:
    exact = ExactDenoiser(clean=torch.ones(2, 1, 4, 4), weights=torch.ones(2))
    mixture = Mixture(signal=0.8, level=0.6)
    for ask in (exact.posterior, exact.clean_latents):
        with pytest.raises(ValueError, match="those of the data set"):
            ask(torch.ones(2, 1, 4, 5), mixture)


# What a stock pipeline makes with it

WEIGHTS = (0.4, 0.3, 0.15, 0.1, 0.05)


def tiny_unet() -> UNet2DModel:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return UNet2DModel(
            sample_size=4,
            in_channels=1,
            out_channels=1,
            layers_per_block=1,
            block_out_channels=(8,),
            norm_num_groups=4,
            down_block_types=("DownBlock2D",),
            up_block_types=("UpBlock2D",),
        ).eval()


def training_images() -> torch.Tensor:
    """In [-1, 1]; what a pipeline clamps is nothing."""
    return torch.rand((5, 1, 4, 4), generator=torch.Generator().manual_seed(14)) * 2 - 1


def pipeline_of(kind: str = "epsilon") -> Any:
    pipeline = DDIMPipeline(tiny_unet(), DDIMScheduler(prediction_type=kind))
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def made(pipeline: Any, num: int, *, eta: float = 0.0, steps: int = 40) -> torch.Tensor:
    images: torch.Tensor = pipeline(
        batch_size=num,
        eta=eta,
        num_inference_steps=steps,
        generator=torch.Generator().manual_seed(15),
        output_type="pt",
    ).images
    return images


@pytest.mark.parametrize("eta", [0.0, 1.0])
@pytest.mark.parametrize("kind", ["epsilon", "v_prediction", "sample"])
def test_a_stock_pipeline_makes_the_training_images_in_their_proportions(
    kind: str, eta: float
) -> None:
    """Steps of finite length shift the proportions by less than 400 images can show."""
    pipeline, clean = pipeline_of(kind), training_images()
    exact = ExactDenoiser(clean=clean, weights=torch.tensor(WEIGHTS))
    known = read_parametrisation(pipeline.scheduler)
    with standing_in(pipeline.unet, exact, known.mixture, known.kind):
        images = made(pipeline, 400, eta=eta)
    far = (images[:, None] - (clean / 2 + 0.5)).abs().flatten(2).amax(2)
    assert far.amin(dim=1).max() < PIXEL
    counts = np.bincount(far.argmin(dim=1).numpy(), minlength=5)
    assert stats.chisquare(counts, 400 * np.array(WEIGHTS)).pvalue > UNLIKELY


def test_a_pipeline_is_the_same_afterwards_whatever_happens() -> None:
    pipeline = pipeline_of()
    before, forward = made(pipeline, 2, steps=3), pipeline.unet.forward
    exact = ExactDenoiser(clean=training_images(), weights=torch.ones(5))
    known = read_parametrisation(pipeline.scheduler)

    def broken(timestep: float) -> Mixture:
        raise RuntimeError(f"at {timestep}")

    with (
        pytest.raises(RuntimeError, match=r"at 666\.0"),
        standing_in(pipeline.unet, exact, broken, known.kind),
    ):
        made(pipeline, 2, steps=3)
    assert "forward" not in vars(pipeline.unet)
    assert pipeline.unet.forward == forward
    with standing_in(pipeline.unet, exact, known.mixture, known.kind):
        assert not torch.equal(made(pipeline, 2, steps=3), before)
    assert torch.equal(made(pipeline, 2, steps=3), before)


def test_a_forward_that_was_replaced_before_is_put_back() -> None:
    unet = tiny_unet()
    own = unet.forward
    unet.forward = own
    exact = ExactDenoiser(clean=training_images(), weights=torch.ones(5))
    with standing_in(unet, exact, lambda _: Mixture(signal=0.8, level=0.6), "epsilon"):
        assert vars(unet)["forward"] is not own
        assert inspect.signature(unet.forward) == inspect.signature(own)
    assert vars(unet)["forward"] is own


def test_calls_are_answered_in_the_denoisers_own_form() -> None:
    """Timesteps of any form, one or one a row; a tuple where one is asked for; hooks called."""
    unet = tiny_unet()
    exact = ExactDenoiser(clean=training_images(), weights=torch.ones(5))
    known = read_parametrisation(DDIMScheduler())
    noisy = drawn((3, 1, 4, 4), 16).float()
    expected = {
        t: exact.prediction(noisy, kind="epsilon", mixture=known.mixture(t)) for t in (10, 500)
    }
    pipeline = pipeline_of()
    pipeline.unet = unet
    with standing_in(unet, exact, known.mixture, "epsilon"), count_calls(pipeline) as counter:
        for timestep in (500, 500.0, torch.tensor(500), torch.tensor([500])):
            assert torch.equal(unet(noisy, timestep).sample, expected[500])
        assert torch.equal(unet(sample=noisy, timestep=10)[0], expected[10])
        for answer in (
            unet(noisy, 10, return_dict=False),
            unet(noisy, 10, None, False),
        ):
            assert isinstance(answer, tuple)
            assert torch.equal(answer[0], expected[10])
        mixed = unet(noisy, torch.tensor([10, 500, 10])).sample
    together = torch.stack([expected[10][0], expected[500][1], expected[10][2]])
    torch.testing.assert_close(mixed, together)
    assert counter.calls == 8 * 3
