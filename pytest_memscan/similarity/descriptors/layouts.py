"""Names of SSCD's tensors in the two published layouts.

``*.classy.pt`` files hold a Classy Vision ResNeXt and a projection beside it, ``*.torchvision.pt``
files a torchvision ResNet whose ``fc`` is the projection. Both networks compute the same.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

_WRAPPERS = re.compile(r"^(?:module\.|model\.)+")
# Classy Vision's ResNeXt, and the same from before its blocks were named.
_CLASSY_BLOCK = re.compile(r"backbone\.blocks\.(\d+)\.(?:block\d+-)?(\d+)\.(?:_module\.)?(.+)")
_CLASSY_STEM = {"0": "conv1", "1": "bn1"}
_CLASSY_LAYERS = {"0": "conv1", "1": "bn1", "3": "conv2", "4": "bn2", "6": "conv3"}


def torchvision_names(tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Tensors of either published layout under the names that `sscd` uses.

    Step counters of batch norms, which evaluation does not use, are left out. Names of neither
    layout stay as they are.

    References:
        SSCD ``sscd/models/model.py``; Classy Vision ``models/resnext.py``, ``classy_block.py``;
        torchvision ``models/resnet.py``.
    """
    return {
        _torchvision_name(_WRAPPERS.sub("", name)): tensor
        for name, tensor in tensors.items()
        if not name.endswith("num_batches_tracked")
    }


def _torchvision_name(name: str) -> str:
    head, _, rest = name.partition("backbone.initial_block._module.")
    if rest and not head:
        position, _, kind = rest.partition(".")
        return f"backbone.{_CLASSY_STEM.get(position, position)}.{kind}"
    if name.startswith("embeddings.1."):
        return name.replace("embeddings.1.", "backbone.fc.")
    found = _CLASSY_BLOCK.fullmatch(name)
    if found is None:
        return name
    stage, block, rest = found.groups()
    block_name = f"backbone.layer{int(stage) + 1}.{block}"
    if rest.startswith("convolutional_block."):
        _, position, kind = rest.split(".", 2)
        return f"{block_name}.{_CLASSY_LAYERS.get(position, position)}.{kind}"
    return f"{block_name}.{re.sub(r'^bn[.]', 'bn3.', rest)}"
