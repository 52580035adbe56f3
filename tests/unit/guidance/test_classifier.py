"""Classifier guidance against the exact denoiser of the images of one class."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import diffusers
import pytest
import torch
from pipeline_factory import call_settings
from unit.guidance.classifiers import Linear, latent_pipeline, made, unconditional

from pytest_memscan.denoising.attach import CallCounter, denoiser_of, first_output, latents_of
from pytest_memscan.denoising.exact import ExactDenoiser, standing_in
from pytest_memscan.denoising.parametrisation import KINDS, Mixture, noise
from pytest_memscan.denoising.schedule import read_parametrisation
from pytest_memscan.guidance.classifier import classifier_guided

# diffusers 0.42 with numpy 2
pytestmark = [
    pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:.algorithm_types dpmsolver and:FutureWarning"),
]

LABELS = torch.tensor([0, 1, 1, 2, 2, 2, 2])
ASKED = torch.tensor([0, 1, 2, 0, 1, 2])  # the same for every run of a stock loop
STEPS = 12
NOISES: dict[str, Any] = {"beta_start": 0.00085, "beta_end": 0.012}
# Name -> class of diffusers and its settings, besides the kind of prediction.
SCHEDULERS: dict[str, tuple[str, dict[str, Any]]] = {
    "DDPM": ("DDPMScheduler", {"clip_sample": False}),
    "DDIM": ("DDIMScheduler", {"clip_sample": False}),
    "DPM-Solver++": ("DPMSolverMultistepScheduler", {}),
    "DPM-Solver": (
        "DPMSolverMultistepScheduler",
        {"algorithm_type": "dpmsolver", "final_sigmas_type": "sigma_min"},
    ),
    "Euler": ("EulerDiscreteScheduler", {}),
    "Heun": ("HeunDiscreteScheduler", {}),
}
CASES = [(name, kind) for name in SCHEDULERS for kind in KINDS if kind != "flow"]


class Posterior(torch.nn.Module):
    """``p(label | noisy)`` for labelled images that were mixed with noise, by Bayes' rule."""

    def __init__(
        self, clean: torch.Tensor, labels: torch.Tensor, mixture_of: Callable[[float], Mixture]
    ) -> None:
        super().__init__()
        self.clean, self.labels, self.mixture_of = clean.double(), labels, mixture_of
        self.asked: list[tuple[torch.Tensor, torch.Tensor]] = []
        self.eval()

    def forward(self, noisy: torch.Tensor, timesteps: torch.Tensor) -> torch.Tensor:
        """Logarithms of the joint density, ``(batch, labels)``."""
        self.asked.append((noisy, timesteps))
        mixture = self.mixture_of(float(timesteps[0]))
        differences = noisy.double()[:, None] - mixture.signal * self.clean
        likely = -differences.square().flatten(2).sum(2) / (2 * mixture.level**2)
        labels = self.labels.unique().tolist()
        return torch.stack([likely[:, self.labels == y].logsumexp(1) for y in labels], dim=1)


def images_of(shape: tuple[int, ...]) -> torch.Tensor:
    """As many as labels, in [-1, 1]."""
    return torch.rand((len(LABELS), *shape), generator=torch.Generator().manual_seed(1)) * 2 - 1


def with_scheduler(name: str, kind: str) -> Any:
    """A stock text-to-image pipeline with any scheduler; its latents stand for images."""
    pipeline = latent_pipeline("sd1")
    made_by, settings = SCHEDULERS[name]
    scheduler = getattr(diffusers, made_by)(
        beta_schedule="scaled_linear", prediction_type=kind, **NOISES, **settings
    )
    pipeline.scheduler = scheduler
    return pipeline


def sampled(pipeline: Any, family: str, seeds: range, steps: int = STEPS) -> torch.Tensor:
    """Latents that the stock loop ends with."""
    made: torch.Tensor = pipeline(
        ["the dog"] * len(seeds),
        generator=[torch.Generator().manual_seed(seed) for seed in seeds],
        num_inference_steps=steps,
        guidance_scale=1.0,
        output_type="latent",
        **call_settings(family),
    ).images
    return made


def assert_of_asked_class(images: torch.Tensor, clean: torch.Tensor, left: float = 0.0) -> None:
    """Every image is one of those with its label, but for the noise `left`: AMS of 100 %."""
    far = (images[:, None] - clean).abs().flatten(2).amax(2)
    assert far.amin(dim=1).max() < 0.05 + 5 * left
    assert torch.equal(LABELS[far.argmin(dim=1)], ASKED)


def heard_when_guided(
    pipeline: Any, family: str, scale: float
) -> tuple[list[tuple[torch.Tensor, float, torch.Tensor]], torch.Tensor]:
    """Input, timestep and guided answer of every call of the exact denoiser; final latents."""
    denoiser = denoiser_of(pipeline)
    clean = images_of((4, 8, 8))

    def mixture_of(timestep: float) -> Mixture:
        return read_parametrisation(pipeline.scheduler).mixture(timestep)

    kind = read_parametrisation(pipeline.scheduler).kind
    exact = ExactDenoiser(clean=clean, weights=torch.ones(len(clean)))
    calls: list[tuple[torch.Tensor, float, torch.Tensor]] = []

    def hear(_: object, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
        timestep = args[1] if len(args) > 1 else kwargs["timestep"]
        told = float(torch.as_tensor(timestep).flatten()[0])
        calls.append((latents_of(args, kwargs).clone(), told, first_output(output).clone()))

    with (
        standing_in(denoiser, exact, mixture_of, kind),
        classifier_guided(pipeline, Posterior(clean, LABELS, mixture_of), ASKED, scale),
    ):
        handle = denoiser.register_forward_hook(hear, with_kwargs=True)
        try:
            latents = sampled(pipeline, family, range(len(ASKED)))
        finally:
            handle.remove()
    return calls, latents


def assert_exact(pipeline: Any, family: str) -> None:
    """Guided by the exact posterior, the exact denoiser is that of the class, in a stock loop."""
    calls, latents = heard_when_guided(pipeline, family, 1.0)
    known = read_parametrisation(pipeline.scheduler)
    clean = images_of((4, 8, 8))
    assert len(calls) >= STEPS
    for noisy, timestep, answer in calls:
        mixture = known.mixture(timestep)
        if mixture.is_pure_noise:
            continue
        for row, label in enumerate(ASKED.tolist()):
            own = (label == LABELS).float()
            exact = ExactDenoiser(clean=clean, weights=own)
            expected = exact.prediction(noisy[row : row + 1], kind=known.kind, mixture=mixture)
            torch.testing.assert_close(answer[row : row + 1], expected, rtol=1e-4, atol=1e-3)
            implied = [
                noise(noisy[row : row + 1], each, kind=known.kind, mixture=mixture)
                for each in (answer[row : row + 1], expected)
            ]
            torch.testing.assert_close(*implied, rtol=1e-4, atol=1e-4)
    # DPM-Solver of noise ends at the least noise that the model knows, not at none.
    sigmas = getattr(pipeline.scheduler, "sigmas", None)
    assert_of_asked_class(latents, clean, 0.0 if sigmas is None else float(sigmas[-1]))


@pytest.mark.parametrize(("name", "kind"), CASES)
def test_the_exact_posterior_makes_the_exact_denoiser_that_of_the_class(
    name: str, kind: str
) -> None:
    assert_exact(with_scheduler(name, kind), "sd1")


def test_the_exact_posterior_makes_an_exact_flow_that_of_the_class() -> None:
    assert_exact(latent_pipeline("sd3"), "sd3")


@pytest.mark.parametrize("kind", ["epsilon", "v_prediction", "sample"])
@pytest.mark.parametrize("ddpm", [False, True])
def test_stock_unconditional_pipelines_make_images_of_the_asked_classes(
    kind: str, ddpm: bool
) -> None:
    pipeline = unconditional(kind, ddpm=ddpm)
    clean = images_of((3, 8, 8))
    known = read_parametrisation(pipeline.scheduler)
    exact = ExactDenoiser(clean=clean, weights=torch.ones(len(clean)))
    posterior = Posterior(clean, LABELS, known.mixture)
    with standing_in(pipeline.unet, exact, known.mixture, known.kind):
        with classifier_guided(pipeline, posterior, ASKED, 1.0):
            guided = made(pipeline, len(ASKED), steps=25)
        plain = made(pipeline, len(ASKED), steps=25)
    assert_of_asked_class(guided * 2 - 1, clean)
    with pytest.raises(AssertionError):
        assert_of_asked_class(plain * 2 - 1, clean)


def test_the_noise_changes_by_the_scaled_gradient() -> None:
    """Whatever the scale and the denoiser; the gradient of a linear classifier is by hand."""
    pipeline = unconditional("v_prediction", clips=False)
    classes = torch.tensor([2, 0])
    classifier = Linear(3 * 8 * 8)
    noisy = torch.randn((2, 3, 8, 8), generator=torch.Generator().manual_seed(2))
    known = read_parametrisation(pipeline.scheduler)
    for timestep in (20, 500, 999):
        mixture = known.mixture(timestep)
        with torch.no_grad():
            plain = pipeline.unet(noisy, timestep).sample
            with classifier_guided(pipeline, classifier, classes, 2.5):
                guided = pipeline.unet(noisy, timestep).sample
            weights, shares = classifier.layer.weight, classifier(noisy, noisy).softmax(1)
            gradient = (weights[classes] - shares @ weights).reshape(noisy.shape)
        before, after = (
            noise(noisy, each, kind="v_prediction", mixture=mixture) for each in (plain, guided)
        )
        expected = before - 2.5 * mixture.level * gradient
        torch.testing.assert_close(after, expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("ddpm", [False, True])
def test_scale_0_is_the_pipeline_as_it_is(ddpm: bool) -> None:
    pipeline, counter = unconditional(ddpm=ddpm), CallCounter()
    forward, plain = pipeline.unet.forward, made(pipeline, 3)
    classifier = Linear(3 * 8 * 8)
    with classifier_guided(pipeline, classifier, torch.tensor([0, 1, 2]), 0.0, counter=counter):
        assert torch.equal(made(pipeline, 3), plain)
    assert counter.calls == 0
    assert classifier.dtypes == set()
    with classifier_guided(pipeline, classifier, torch.tensor([0, 1, 2]), 3.0, counter=counter):
        assert not torch.equal(made(pipeline, 3), plain)
    assert counter.calls == 3 * 4
    assert "forward" not in vars(pipeline.unet)
    assert "step" not in vars(pipeline.scheduler)
    assert pipeline.unet.forward == forward
    assert torch.equal(made(pipeline, 3), plain)
    assert all(each.grad is None for each in classifier.parameters())


def test_an_image_does_not_depend_on_its_batch() -> None:
    pipeline, classifier = unconditional(), Linear(3 * 8 * 8)
    classes = torch.tensor([0, 1, 2])
    with classifier_guided(pipeline, classifier, classes, 2.0):
        together = made(pipeline, 3)
    for others in (torch.tensor([0, 2, 0]), classes[:1]):
        with classifier_guided(pipeline, classifier, others, 2.0):
            again = made(pipeline, len(others))
        torch.testing.assert_close(again[0], together[0], rtol=0, atol=1e-5)


def test_at_pure_noise_the_denoiser_answers() -> None:
    """Zero-terminal-SNR schedules (Lin et al. 2023) begin there."""
    pipeline = unconditional("v_prediction")
    pipeline.scheduler = diffusers.DDIMScheduler(
        prediction_type="v_prediction", rescale_betas_zero_snr=True
    )
    classifier, noisy = Linear(3 * 8 * 8), torch.randn(1, 3, 8, 8)
    with torch.no_grad():
        plain = pipeline.unet(noisy, 999).sample
        with classifier_guided(pipeline, classifier, torch.tensor([1]), 2.0):
            assert torch.equal(pipeline.unet(noisy, 999).sample, plain)
            assert classifier.dtypes == set()
            assert not torch.equal(pipeline.unet(noisy, 998).sample, plain)


def test_a_learned_variance_stays() -> None:
    pipeline, classifier = unconditional(ddpm=True, learned=True), Linear(3 * 8 * 8)
    noisy = torch.randn(1, 3, 8, 8, generator=torch.Generator().manual_seed(3))
    with torch.no_grad():
        plain = pipeline.unet(noisy, 500).sample
        with classifier_guided(pipeline, classifier, torch.tensor([1]), 2.0):
            guided = pipeline.unet(noisy, 500).sample
            made(pipeline, 1)
    assert torch.equal(guided[:, 3:], plain[:, 3:])
    assert not torch.equal(guided[:, :3], plain[:, :3])


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_the_classifier_is_asked_in_float32_whatever_the_pipelines_dtype(
    dtype: torch.dtype,
) -> None:
    pipeline, classifier = unconditional(), Linear(3 * 8 * 8)
    pipeline.unet.to(dtype)
    noisy = torch.randn((1, 3, 8, 8), dtype=dtype)
    with torch.inference_mode(), classifier_guided(pipeline, classifier, torch.tensor([1]), 2.0):
        answer = pipeline.unet(noisy, 500).sample
    assert answer.dtype == dtype
    assert classifier.dtypes == {torch.float32}


def test_the_classifier_is_asked_without_autocast() -> None:
    pipeline, classifier = unconditional(), Linear(3 * 8 * 8)
    noisy, answers = torch.randn(1, 3, 8, 8), []
    classifier.layer.register_forward_hook(lambda _, __, output: answers.append(output.dtype))
    with (
        torch.no_grad(),
        torch.autocast("cpu", dtype=torch.bfloat16),
        classifier_guided(pipeline, classifier, torch.tensor([1]), 2.0),
    ):
        pipeline.unet(noisy, 500)
    assert answers == [torch.float32]


def test_the_classifier_is_told_the_schedulers_timesteps_and_the_denoisers_input() -> None:
    pipeline = with_scheduler("Euler", "epsilon")
    classifier, inputs = Told(), []
    handle = pipeline.unet.register_forward_hook(
        lambda _, args, kwargs, __: inputs.append(latents_of(args, kwargs)), with_kwargs=True
    )
    with classifier_guided(pipeline, classifier, torch.tensor([0, 1]), 1.0):
        sampled(pipeline, "sd1", range(2))
    handle.remove()
    told = pipeline.scheduler.timesteps.tolist()
    assert [timesteps.tolist() for _, timesteps in classifier.asked] == [[t, t] for t in told]
    for (noisy, _), seen in zip(classifier.asked, inputs, strict=True):
        assert torch.equal(noisy, seen)


class Told(Linear):
    """Remembers what it was asked."""

    def __init__(self) -> None:
        super().__init__(4 * 8 * 8)
        self.asked: list[tuple[torch.Tensor, torch.Tensor]] = []

    def forward(self, noisy: torch.Tensor, timesteps: torch.Tensor) -> torch.Tensor:
        """Logits."""
        self.asked.append((noisy.detach().clone(), timesteps))
        return super().forward(noisy, timesteps)
