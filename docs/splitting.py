"""Compare splitting with plain sampling of the same stochastic sampler: unbiased, and how much less.

    python docs/splitting_checkpoints.py digits OUT/digits
    python docs/splitting.py plain OUT/digits/model OUT/digits/images OUT/digits.plain.npz
    python docs/splitting.py scans OUT/digits/model OUT/digits/images OUT/digits.scans.npz
    python docs/splitting.py table OUT/digits OUT/photos OUT/partial --plot docs/results

``plain`` draws many ordinary images (DDIM with eta 1) and measures each. ``scans`` runs independent
scans that differ in their seed alone. ``table`` prints, for the similarities that ordinary images
reach in about 1 %, 0.1 % and 0.01 % of the cases: the rate from both, how often the bounds of a scan
hold, the efficiency (variance times denoiser calls of plain sampling over that of a scan), and how
many different training images are copied at equal denoiser calls. For the built-in checkpoints the
model is a folder of ``pytest_memscan/builtin`` and the images its ``train_images.safetensors``.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import DDIMPipeline
from numpy.typing import NDArray
from PIL import Image
from safetensors.numpy import load_file

from pytest_memscan.prices import combined
from pytest_memscan.rarefaction import expected_unique
from pytest_memscan.results import Coverage
from pytest_memscan.scans.splitting import Splitting
from pytest_memscan.similarity.reference import PixelReference, prepare
from pytest_memscan.splitting.chain import Chain
from pytest_memscan.statistics import proportion
from pytest_memscan.store import ImageStore

STEPS, BATCH = 50, 64
PLAIN_SEED = 3 * 10**9  # far from those of the scans
NUM_CUTS = 40
EVENTS = (0.01, 0.001, 0.0001)


def read_images(path: Path) -> NDArray[np.uint8]:
    """``(num, height, width, channels)``."""
    if path.is_file():
        return np.asarray(load_file(path)["images"])
    pictures = [np.asarray(Image.open(each)) for each in sorted(path.glob("*.png"))]
    stacked = np.stack(pictures)
    return stacked if stacked.ndim == 4 else stacked[..., None]


def load(model: Path) -> Any:
    pipeline = DDIMPipeline.from_pretrained(model, dtype=torch.float32)
    pipeline.set_progress_bar_config(disable=True)
    pipeline.unet.eval().requires_grad_(False)
    return pipeline


def measure_plain(arguments: argparse.Namespace) -> None:
    """Dissimilarity and nearest training image of ordinary images, a block at a time."""
    reference = prepare(read_images(arguments.images))
    chain = Chain(pipeline=load(arguments.model), num_steps=STEPS, batch_size=BATCH)
    closest, nearest, seconds = [], [], 0.0
    for start in range(0, arguments.number, 512):
        began = time.monotonic()
        seeds = range(PLAIN_SEED + start, PLAIN_SEED + min(start + 512, arguments.number))
        images = chain.run(seeds, lambda _: None).images
        seconds += time.monotonic() - began
        pixels = images.clamp(0, 1).mul(255).round().to(torch.uint8).permute(0, 2, 3, 1).numpy()
        near = reference.nearest(pixels)
        closest.append(near.dissimilarities[:, 0])
        nearest.append(near.train_ids[:, 0])
        np.savez(
            arguments.out,
            closest=np.concatenate(closest),
            nearest=np.concatenate(nearest),
            seconds=seconds,
        )


def cuts_of(reference: PixelReference) -> NDArray[np.float64]:
    return np.geomspace(0.05, reference.levels[0].cut, NUM_CUTS)


def run_scans(arguments: argparse.Namespace) -> None:
    """Totals of every scan at all cuts, with their bounds; kept after each."""
    pixels = read_images(arguments.images)
    reference, pipeline = prepare(pixels), load(arguments.model)
    cuts = cuts_of(reference)
    rows: dict[str, list[Any]] = {name: [] for name in ("rates", "copied", "calls", "seconds")}
    rows |= {"hits": []}
    for number in range(arguments.number):
        began = time.monotonic()
        with tempfile.TemporaryDirectory() as folder:
            store = ImageStore(Path(folder), spec={})
            scan = Splitting(
                load_pipeline=lambda _: pipeline,
                store=store,
                num_images=arguments.budget,
                seed=(number + 1) * 10**6,
                batch_size=BATCH,
                steps=STEPS,
                dtype="float32",
                reach=1_000_000,
                reference=reference,
                pixels=pixels,
            )
            unknown = Coverage(planned=0, generated=0, valid=0)
            result = scan.scan(coverage=unknown, provenance={})
            ends = scan.ends
            store.close()
        rates = [
            combined(
                [float(each.rates(cut, len(pixels)).sum()) for each in ends],
                num_trials=result.num_steered,
            )
            for cut in cuts
        ]
        reached = [
            {int(row) for each in ends for row in each.nearest[each.dissimilarities <= cut]}
            for cut in cuts
        ]
        rows["rates"].append([(each.value, each.lower, each.upper) for each in rates])
        rows["copied"].append([len(each) for each in reached])
        rows["hits"].append([sum((e.dissimilarities <= c).sum() for e in ends) for c in cuts])
        rows["calls"].append(result.denoiser_calls)
        rows["seconds"].append(time.monotonic() - began)
        confirmed = float(result.calibration.confirmed_cut)
        np.savez(arguments.out, cuts=cuts, confirmed=confirmed, **rows)
        extractable = result.metrics["extractable_images"]
        print(f"scan {number}: {result.leak_rate} {extractable}", flush=True)


def efficiency(rates: NDArray[np.float64], calls: float) -> tuple[float, float]:
    """Plain sampling's variance times calls over that of the scans, and its lower 95 % bound."""
    from scipy import stats

    mean, variance = rates.mean(), rates.var(ddof=1)
    plain = mean * (1 - mean) / (calls / STEPS)
    freedom = len(rates) - 1
    return plain / variance, plain / variance * stats.chi2.ppf(0.05, freedom) / freedom


def table(arguments: argparse.Namespace) -> None:
    head = ("checkpoint", "event", "plain rate", "splitting", "bounds hold", "efficiency")
    print("| " + " | ".join((*head, "distinct: plain", "splitting", "hits of plain")) + " |")
    print("|---" * (len(head) + 3) + "|")
    for path in arguments.measured:
        plain = np.load(f"{path}.plain.npz")
        scans = np.load(f"{path}.scans.npz")
        closest, cuts = plain["closest"], scans["cuts"]
        mean = scans["rates"][:, :, 0].mean(axis=0)
        calls = float(scans["calls"].mean())
        chosen = {int(np.abs(np.log(np.maximum(mean, 1e-12) / each)).argmin()) for each in EVENTS}
        chosen.add(int(np.abs(cuts - float(scans["confirmed"])).argmin()))
        for index in sorted(chosen, reverse=True):
            hits = int((closest <= cuts[index]).sum())
            truth = proportion(hits, len(closest))
            rates = scans["rates"][:, index]
            error = rates[:, 0].std(ddof=1) / len(rates) ** 0.5
            # The truth is known to within its own bounds.
            lower = (rates[:, 1] <= truth.upper).mean()
            upper = (rates[:, 2] >= truth.lower).mean()
            ratio, least = efficiency(rates[:, 0], calls)
            copied = [[int(j)] if d <= cuts[index] else [] for j, d in zip(plain["nearest"], closest, strict=True)]
            distinct = expected_unique(copied, [round(calls / STEPS)])[0].expected
            print(
                f"| {path.name} | ratio <= {cuts[index]:.2f} | {100 * truth.value:.3g} % "
                f"[{100 * truth.lower:.2g}, {100 * truth.upper:.2g}] | {100 * mean[index]:.3g} % "
                f"+- {100 * error:.2g} | {lower:.0%}, {upper:.0%} | {ratio:.3g} (at least {least:.2g}) "
                f"| {distinct:.3g} | {scans['copied'][:, index].mean():.3g} | {hits} of {len(closest):,} |"
            )
        seconds = scans["seconds"].mean()
        print(f"  {path.name}: {len(scans['rates'])} scans, {calls / STEPS:.0f} images' worth, {seconds:.0f} s each")
    if arguments.plot:
        plot(arguments.measured, arguments.plot)


def plot(measured: list[Path], folder: Path) -> None:
    """Chance that an ordinary image comes so close, by similarity."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(1, len(measured), figsize=(5 * len(measured), 4), squeeze=False)
    for axis, path in zip(axes[0], measured, strict=True):
        plain, scans = np.load(f"{path}.plain.npz"), np.load(f"{path}.scans.npz")
        cuts, rates = scans["cuts"], scans["rates"][:, :, 0]
        known = [proportion(int((plain["closest"] <= cut).sum()), len(plain["closest"])) for cut in cuts]
        axis.fill_between(cuts, [each.lower for each in known], [each.upper for each in known], alpha=0.3, color="tab:gray", label=f"{len(plain['closest']):,} plain images, 95 % bounds")
        low, middle, high = (np.quantile(rates, share, axis=0) for share in (0.1, 0.5, 0.9))
        seen = middle > 0
        axis.plot(cuts[seen], middle[seen], color="tab:blue", label=f"splitting, median of {len(rates)} scans")
        axis.fill_between(cuts[seen], np.maximum(low[seen], 1e-12), high[seen], alpha=0.3, color="tab:blue", label=f"8 of 10 scans, each of {scans['calls'].mean() / STEPS:,.0f} images' worth")
        axis.axvline(float(scans["confirmed"]), color="tab:red", linewidth=1, label="confirmed copy")
        axis.set(title=path.name, xlabel="neighbour-normalised L2, at most", ylabel="chance for one ordinary image", yscale="log", ylim=(1e-8, 1))
        axis.legend(fontsize=7)
    figure.tight_layout()
    figure.savefig(folder / "splitting-rates.png", dpi=110)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, default=1)
    commands = parser.add_subparsers(dest="command", required=True)
    for name, number in (("plain", 50_000), ("scans", 20)):
        command = commands.add_parser(name)
        command.add_argument("model", type=Path)
        command.add_argument("images", type=Path)
        command.add_argument("out", type=Path)
        command.add_argument("--number", type=int, default=number)
        command.add_argument("--budget", type=int, default=2_000, help="images a scan")
    compare = commands.add_parser("table")
    compare.add_argument("measured", type=Path, nargs="+", help="paths without .plain.npz")
    compare.add_argument("--plot", type=Path)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    {"plain": measure_plain, "scans": run_scans, "table": table}[arguments.command](arguments)


if __name__ == "__main__":
    main()
