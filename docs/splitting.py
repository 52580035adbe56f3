"""Compare splitting with plain sampling of the same stochastic sampler.

    python docs/small_checkpoints.py digits OUT/digits
    python docs/splitting.py plain OUT/digits/model OUT/digits/images OUT/digits.plain.npz
    python docs/splitting.py scans OUT/digits/model OUT/digits/images OUT/digits.scans.npz
    python docs/splitting.py table OUT/digits OUT/photos OUT/partial --plot docs/results

``plain`` draws many ordinary images (DDIM with eta 1) and measures each. ``scans`` runs independent
scans that differ in their seed alone. ``table`` prints, for the similarity that scans work towards
and those that ordinary images reach in about 1 %, 0.1 % and 0.01 % of the cases: the rate from
both, how often the bounds of a scan hold, the efficiency (variance times denoiser calls of plain
sampling over that of a scan, and of its last island alone), and how many different training images
are copied at equal denoiser calls. For the built-in checkpoints the model is a folder of
``fixtures`` and the images its ``train_images.safetensors``.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from dataclasses import astuple, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import DDIMPipeline
from numpy.typing import NDArray
from PIL import Image
from safetensors.numpy import load_file

from pytest_memscan.rarefaction import expected_unique
from pytest_memscan.results import Coverage
from pytest_memscan.scans.evidence import Cut
from pytest_memscan.scans.splitting import Splitting
from pytest_memscan.scans.splitting_rates import rate_of
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
    names = ("totals", "trajectories", "copied", "calls", "seconds")
    rows: dict[str, list[Any]] = {name: [] for name in names}
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
            if arguments.cut is not None:
                vars(scan)["cut"] = at_cut(scan.cut, arguments.cut)
            unknown = Coverage(planned=0, generated=0, valid=0)
            result = scan.scan(coverage=unknown, provenance={})
            ends = scan.ends
            store.close()
        totals = [[each.rates(cut, len(pixels)).sum() for each in ends] for cut in cuts]
        reached = [
            {int(row) for each in ends for row in each.nearest[each.dissimilarities <= cut]}
            for cut in cuts
        ]
        rows["totals"].append(totals)
        rows["trajectories"].append([len(each.log_weights) for each in ends])
        rows["copied"].append([len(each) for each in reached])
        rows["calls"].append(result.denoiser_calls)
        rows["seconds"].append(time.monotonic() - began)
        confirmed = float(result.calibration.confirmed_cut)
        np.savez(arguments.out, cuts=cuts, confirmed=confirmed, **rows)
        extractable = result.metrics["extractable_images"]
        print(f"scan {number}: {result.leak_rate} {extractable}", flush=True)


def at_cut(cut: Cut, dissimilarity: float) -> Cut:
    """As if a match were a copy from another similarity on."""
    calibration = replace(cut.calibration, confirmed_cut=dissimilarity)
    return replace(cut, dissimilarity=dissimilarity, calibration=calibration)


def rates_of(scans: Any) -> NDArray[np.float64]:
    """Value and bounds ``(num_scans, num_cuts, 3)`` from what each island said."""
    return np.array(
        [
            [astuple(rate_of(totals.tolist(), sizes.tolist()))[:3] for totals in scan]
            for scan, sizes in zip(scans["totals"], scans["trajectories"], strict=True)
        ]
    )


def efficiency(rates: NDArray[np.float64], calls: float) -> tuple[float, float]:
    """Plain sampling's variance times calls over that of the scans, and its lower 95 % bound."""
    from scipy import stats

    mean, variance = rates.mean(), rates.var(ddof=1)
    plain = mean * (1 - mean) / (calls / STEPS)
    freedom = len(rates) - 1
    return plain / variance, plain / variance * stats.chi2.ppf(0.05, freedom) / freedom


HEAD = (
    "checkpoint",
    "event",
    "plain rate",
    "splitting",
    "bounds hold",
    "efficiency",
    "of the last island",
    "distinct: plain",
    "splitting",
    "hits of plain",
)


def table(arguments: argparse.Namespace) -> None:
    print("| " + " | ".join(HEAD) + " |")
    print("|---" * len(HEAD) + "|")
    for path in arguments.measured:
        plain, scans = np.load(f"{path}.plain.npz"), np.load(f"{path}.scans.npz")
        cuts = scans["cuts"]
        rates = rates_of(scans)
        mean = np.maximum(rates[:, :, 0].mean(axis=0), 1e-12)
        chosen = {int(np.abs(np.log(mean / each)).argmin()) for each in EVENTS}
        chosen.add(int(np.abs(cuts - float(scans["confirmed"])).argmin()))
        for index in sorted(chosen, reverse=True):
            print(f"| {path.name} | " + " | ".join(row(plain, scans, rates, index)) + " |")
        images, seconds = scans["calls"].mean() / STEPS, scans["seconds"].mean()
        print(f"  {len(rates)} scans of {images:.0f} images' worth, {seconds:.0f} s each")
    if arguments.plot:
        plot(arguments.measured, arguments.plot)


def row(plain: Any, scans: Any, all_rates: NDArray[np.float64], index: int) -> list[str]:
    """What is told of one event."""
    cut, closest, rates = scans["cuts"][index], plain["closest"], all_rates[:, index]
    calls = float(scans["calls"].mean())
    truth = proportion(int((closest <= cut).sum()), len(closest))
    error = rates[:, 0].std(ddof=1) / len(rates) ** 0.5
    ratio, least = efficiency(rates[:, 0], calls)
    last, _ = efficiency(scans["totals"][:, index, -1], STEPS * scans["trajectories"][0, -1])
    copied = [
        [int(train_id)] if distance <= cut else []
        for train_id, distance in zip(plain["nearest"], closest, strict=True)
    ]
    distinct = expected_unique(copied, [round(calls / STEPS)])[0].expected
    # The truth is known to within its own bounds only.
    lower, upper = (rates[:, 1] <= truth.upper).mean(), (rates[:, 2] >= truth.lower).mean()
    bounds = f"[{100 * truth.lower:.2g}, {100 * truth.upper:.2g}]"
    return [
        f"ratio <= {cut:.2f}",
        f"{100 * truth.value:.3g} % {bounds}",
        f"{100 * rates[:, 0].mean():.3g} % +- {100 * error:.2g}",
        f"{lower:.0%}, {upper:.0%}",
        f"{ratio:.3g} (at least {least:.2g})",
        f"{last:.3g}",
        f"{distinct:.3g}",
        f"{scans['copied'][:, index].mean():.3g}",
        f"{(closest <= cut).sum()} of {len(closest):,}",
    ]


def plot(measured: list[Path], folder: Path) -> None:
    """Chance that an ordinary image comes so close, by similarity."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(1, len(measured), figsize=(5 * len(measured), 4), squeeze=False)
    for axis, path in zip(axes[0], measured, strict=True):
        plain, scans = np.load(f"{path}.plain.npz"), np.load(f"{path}.scans.npz")
        cuts, rates, closest = scans["cuts"], rates_of(scans)[:, :, 0], plain["closest"]
        known = [proportion(int((closest <= cut).sum()), len(closest)) for cut in cuts]
        axis.fill_between(
            cuts,
            [each.lower for each in known],
            [each.upper for each in known],
            alpha=0.3,
            color="tab:gray",
            label=f"{len(closest):,} plain images, 95 % bounds",
        )
        low, middle, high = (np.quantile(rates, share, axis=0) for share in (0.1, 0.5, 0.9))
        seen, images = middle > 0, scans["calls"].mean() / STEPS
        label = f"splitting, median of {len(rates)} scans"
        axis.plot(cuts[seen], middle[seen], color="tab:blue", label=label)
        label = f"8 of 10 scans, each of {images:,.0f} images' worth"
        lowest = np.maximum(low[seen], 1e-12)
        axis.fill_between(cuts[seen], lowest, high[seen], alpha=0.3, color="tab:blue", label=label)
        confirmed = float(scans["confirmed"])
        axis.axvline(confirmed, color="tab:red", linewidth=1, label="steered towards")
        axis.set(title=path.name, xlabel="neighbour-normalised L2, at most", yscale="log")
        axis.set(ylabel="chance for one ordinary image", ylim=(1e-8, 1))
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
        command.add_argument("--budget", type=int, default=1_000, help="images a scan")
        command.add_argument("--cut", type=float, help="ratio that scans work towards")
    compare = commands.add_parser("table")
    compare.add_argument("measured", type=Path, nargs="+", help="paths without .plain.npz")
    compare.add_argument("--plot", type=Path)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    {"plain": measure_plain, "scans": run_scans, "table": table}[arguments.command](arguments)


if __name__ == "__main__":
    main()
