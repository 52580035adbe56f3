"""Every accepted scheduler: an image depends on its own generator, not on its batch."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from pipeline_factory import SIDE, tiny_pipeline

from pytest_memscan.checkpoints.families import DIFFUSION_SCHEDULERS

# diffusers reads tensors with np.array, which numpy 2 comments on.
pytestmark = pytest.mark.filterwarnings("ignore:__array:DeprecationWarning")
STOCHASTIC = [
    ("DPMSolverMultistepScheduler", {"algorithm_type": "sde-dpmsolver++"}),
    ("DPMSolverSinglestepScheduler", {"algorithm_type": "sde-dpmsolver++"}),
]


@pytest.mark.parametrize(
    ("name", "settings"), [*((name, {}) for name in DIFFUSION_SCHEDULERS), *STOCHASTIC]
)
def test_an_image_is_the_same_in_a_batch_and_alone(name: str, settings: dict[str, Any]) -> None:
    import diffusers

    pipeline = tiny_pipeline("sd1")
    known = {k: v for k, v in pipeline.scheduler.config.items() if k != "skip_prk_steps"}
    # Clipped latents of random weights would be equal for other reasons.
    known |= {"clip_sample": False, **settings}
    pipeline.scheduler = getattr(diffusers, name).from_config(
        {k: v for k, v in known.items() if not k.startswith("_")}
    )

    def images(*seeds: int) -> np.ndarray:
        torch.manual_seed(len(seeds))  # noise from here would show
        made: np.ndarray = pipeline(
            ["a cat"] * len(seeds),
            generator=[torch.Generator("cpu").manual_seed(seed) for seed in seeds],
            num_inference_steps=4,
            output_type="np",
            height=SIDE,
            width=SIDE,
        ).images
        return made

    together = images(1, 2, 3, 4)
    assert np.isfinite(together).all()
    assert np.abs(together[0] - together[1]).max() > 0.1
    for place, seed in enumerate((1, 2, 3, 4)):
        assert np.abs(images(seed)[0] - together[place]).max() < 1e-4
