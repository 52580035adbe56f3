"""Networks that answer a whole population, asked in batches of one size."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from pytest_memscan.denoising.attach import first_output, replaced


@contextmanager
def in_batches(denoiser: torch.nn.Module, size: int, *, skip: int = 0) -> Iterator[None]:
    """Makes a denoiser answer in batches of ``size`` rows, the last one filled up, while open.

    Args:
        denoiser: Of diffusers.
        size: Rows.
        skip: Its first calls are answered with zeros.
    """
    original = denoiser.forward
    calls = 0

    @functools.wraps(original)
    def forward(sample: torch.Tensor, *args: Any, **settings: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls <= skip:
            return _Output(_with_variance(torch.zeros_like(sample), denoiser))
        predicted = []
        for start in range(0, len(sample), size):

            def part(value: Any, start: int = start) -> Any:
                return _rows(value, len(sample), start, size)

            answer = original(part(sample), *part(args), **part(settings))
            predicted.append(first_output(answer))
        return _Output(_with_variance(torch.cat(predicted)[: len(sample)], denoiser))

    with replaced(denoiser, "forward", forward):
        yield


@contextmanager
def decoding_in_batches(pipeline: Any, size: int) -> Iterator[None]:
    """The same for a pipeline's autoencoder, where it has one."""
    vae = getattr(pipeline, "vae", None)
    if vae is None:
        yield
        return
    original = vae.decode

    @functools.wraps(original)
    def decode(latents: torch.Tensor, *_: Any, **__: Any) -> Any:
        parts = latents.split(size)  # type: ignore[no-untyped-call]
        images = [first_output(original(padded(part, size), return_dict=False)) for part in parts]
        return _Output(torch.cat(images)[: len(latents)])

    with replaced(vae, "decode", decode):
        yield


def padded(part: torch.Tensor, size: int) -> torch.Tensor:
    """A short batch filled up with its first row."""
    missing = size - len(part)
    return part if not missing else torch.cat([part, part[:1].expand(missing, *part.shape[1:])])


class _Output(tuple[torch.Tensor]):
    """Serves pipelines that ask for a tuple and those that ask for ``sample``."""

    def __new__(cls, sample: torch.Tensor) -> _Output:
        return super().__new__(cls, (sample,))

    @property
    def sample(self) -> torch.Tensor:
        return self[0]


def _with_variance(prediction: torch.Tensor, denoiser: Any) -> torch.Tensor:
    """With zeros for the variance that the pipeline cuts off, where what stands in has none."""
    if denoiser.config.get("out_channels") != 2 * prediction.shape[1]:
        return prediction
    return torch.cat([prediction, torch.zeros_like(prediction)], dim=1)


def _rows(value: Any, num: int, start: int, size: int) -> Any:
    """The arguments of a denoiser's call on ``num`` rows, for ``size`` of them."""
    if torch.is_tensor(value) and value.ndim and len(value) == num:
        return padded(value[start : start + size], size)
    if isinstance(value, dict):
        return {key: _rows(each, num, start, size) for key, each in value.items()}
    if isinstance(value, tuple):
        return tuple(_rows(each, num, start, size) for each in value)
    return value
