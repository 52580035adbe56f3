"""A steered island against as many ordinary images of the same sampler.

    PYTHONPATH=tests python -m benchmarks.splitting CHECKPOINT TRAJECTORIES STEPS REPEATS

CHECKPOINT is a built-in one. The baseline is a stock ``DDIMPipeline`` with eta 1 and the
same batches. Prints JSON: the time of the island, steered to every training image (at most 1,024)
and keeping on disk what it needs to go on, relative to the baseline in the same process; and the
share of its time that is spent on comparing predictions with training images.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from benchmarks.peers import race

from pytest_memscan.checkpoints.load import load_unconditional
from pytest_memscan.checkpoints.resolve import resolve
from pytest_memscan.splitting.chain import Chain
from pytest_memscan.splitting.island import Island
from pytest_memscan.splitting.kept import KeptIsland
from pytest_memscan.splitting.rounds import MAX_AIMS
from pytest_memscan.splitting.steering import Aims, Steering

BATCH = 32


class TimedAims(Aims):
    """Aims that know how long comparing with them took."""

    seconds = 0.0

    def promise(self, *arguments: Any) -> tuple[torch.Tensor, torch.Tensor]:
        """As that of any aims."""
        started = time.process_time()
        found = super().promise(*arguments)
        TimedAims.seconds += time.process_time() - started
        return found


def main(name: str, num: int, steps: int, repeats: int) -> dict[str, Any]:
    """Race the two."""
    checkpoint = resolve(f"builtin:{name}", offline=True)
    pipeline = load_unconditional(checkpoint, device="cpu", dtype="float32")
    images = _train_images(checkpoint.train_data)[:MAX_AIMS]
    aims = TimedAims(
        clean=images, log_shares=torch.full((len(images),), -float(np.log(len(images)))).double()
    )
    steering = Steering(tilts=np.full(steps, 0.3), slopes=np.full(steps, 10.0))
    chain = Chain(pipeline=pipeline, num_steps=steps, batch_size=BATCH)

    def steered() -> torch.Tensor:
        with tempfile.TemporaryDirectory() as folder:
            kept = KeptIsland(folder=Path(folder), name="island")
            island = Island(
                chain=chain, seeds=range(num), aims=aims, steering=steering, draws=0, kept=kept
            )
            return island.run().images

    def stock() -> torch.Tensor:
        parts = []
        for start in range(0, num, BATCH):
            generators = [torch.Generator().manual_seed(start + row) for row in range(BATCH)]
            parts.append(
                pipeline(
                    batch_size=BATCH,
                    generator=generators,
                    eta=1.0,
                    num_inference_steps=steps,
                    output_type="pt",
                ).images
            )
        return torch.cat(parts)

    seconds, _ = race({"steered": steered, "stock": stock}, repeats=repeats)
    return {
        "steered / stock": round(seconds["steered"] / seconds["stock"], 3),
        "comparing / all of the island": round(TimedAims.seconds / repeats / seconds["steered"], 4),
        "aims": len(images),
        "trajectories": num,
    }


def _train_images(path: Path | None) -> torch.Tensor:
    from safetensors.numpy import load_file

    if path is None:
        raise SystemExit("the checkpoint brings no training images")
    pixels = load_file(path)["images"].transpose(0, 3, 1, 2)
    return torch.from_numpy(np.ascontiguousarray(pixels)).float() / 127.5 - 1


if __name__ == "__main__":
    print(json.dumps(main(sys.argv[1], *(int(each) for each in sys.argv[2:])), indent=2))
