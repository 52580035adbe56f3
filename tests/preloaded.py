"""What runs of the plugin inside this process import, imported before pytester looks.

pytester forgets modules that a run inside this process imported; torch cannot be imported twice.
"""

from __future__ import annotations

import diffusers.pipelines.ddim
import diffusers.pipelines.ddpm
import diffusers.pipelines.stable_diffusion.pipeline_stable_diffusion
import pydantic
import scipy.sparse.csgraph
import torch
import transformers
from diffusers import AutoencoderKL, UNet2DConditionModel
from transformers import CLIPTextModel, CLIPTokenizer
from transformers.models.resnet.modeling_resnet import ResNetBasicLayer

PRELOADED = (diffusers, pydantic, scipy, torch, transformers)
PRELOADED_PARTS = (
    AutoencoderKL,
    UNet2DConditionModel,
    CLIPTextModel,
    CLIPTokenizer,
    ResNetBasicLayer,
)
