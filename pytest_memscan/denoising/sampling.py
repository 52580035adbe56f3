"""Which scheduler a stock pipeline samples with."""

from __future__ import annotations

import copy
from typing import Any

import diffusers

from pytest_memscan.denoising.schedule import read_parametrisation


def with_ddim(pipeline: Any) -> Any:
    """The same modules, sampled by DDIM on the same noise schedule; a flow-matching model as it is.

    What DDIM and the pipeline's own scheduler both know is taken over, from its noise schedule to
    the spacing of its timesteps; but DDIM's steps are all of one length, and do not end where the
    next one starts when spaced by "linspace", which becomes "trailing". Clean latents are clipped
    only where that scheduler clips them.

    Args:
        pipeline: Stays as it was.

    Raises:
        ValueError: A scheduler that is not understood.
    """
    if read_parametrisation(pipeline.scheduler).kind == "flow":
        return pipeline
    # diffusers would leave out what its owner never set, and put DDIM's own defaults there.
    known = {k: v for k, v in pipeline.scheduler.config.items() if k != "_use_default_values"}
    if known.get("timestep_spacing") == "linspace":
        known["timestep_spacing"] = "trailing"
    clone = copy.copy(pipeline)
    ddim: Any = diffusers.DDIMScheduler
    # By default DDIM clips, as images need; most latents lie beyond 1.
    clone.register_modules(scheduler=ddim.from_config({"clip_sample": False} | known))
    return clone
