"""What the commands of the documentation are run on."""

from __future__ import annotations

# pytester forgets modules that a run inside this process imported; torch cannot be imported twice.
import diffusers.pipelines.ddim
import diffusers.pipelines.ddpm
import diffusers.pipelines.stable_diffusion.pipeline_stable_diffusion
import pydantic
import pytest
import scipy.sparse.csgraph
import torch
import transformers
from diffusers import AutoencoderKL, UNet2DConditionModel
from transformers import CLIPTextModel, CLIPTokenizer
from transformers.models.resnet.modeling_resnet import ResNetBasicLayer

from .places import Places, build

PRELOADED = (diffusers, pydantic, scipy, torch, transformers)
PRELOADED_PARTS = (
    AutoencoderKL,
    UNet2DConditionModel,
    CLIPTextModel,
    CLIPTokenizer,
    ResNetBasicLayer,
)


@pytest.fixture(scope="session")
def places(tmp_path_factory: pytest.TempPathFactory) -> Places:
    """Stand-ins for everything that the documentation names."""
    return build(tmp_path_factory.mktemp("places"))
