"""Tables, the curve over the scale of guidance, and pictures, from scans of fine-tunes.

    python docs/finextract.py table REPORT.json ...          (reports of memscan::finextract)
    python docs/finextract.py curve OUT.png REPORT.json ...
    python docs/finextract.py picture OUT.png MODEL BASE [--guidance W] [--images 200] [--steps 25]

Needs the "docs" extra. ``table`` prints Markdown: a row for each method, with one-sided bounds of
95 %, over training images (one fine-tune) or concepts (a set). ``curve`` draws AS over the scale of
model guidance, for scans with several (``--memscan-model-guidance 1,1.5,2,3,5``). ``picture`` scans
a built-in fine-tune and draws its training images above what FineXtract extracts for each.
"""

from __future__ import annotations

import argparse
import re
import tempfile
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from PIL import Image

from pytest_memscan.config import resolve_config
from pytest_memscan.reports.json import from_json
from pytest_memscan.reports.pairs import load_finetunes
from pytest_memscan.results import Estimate, FinetuneScan, MethodScores
from pytest_memscan.session import Session

NAMES = {"direct": "direct", "cfg": "CFG", "finextract": "FineXtract"}
ZOOM = 3


def scan_of(report: Path) -> FinetuneScan:
    found = [check.finetunes for check in from_json(report.read_text(encoding="utf-8")).checks]
    return next(scan for scan in found if scan is not None)


def interval(estimate: Estimate, digits: int) -> str:
    number, low, high = (
        f"{value:.{digits}f}".replace("0.", ".", 1)
        for value in (estimate.value, estimate.lower, estimate.upper)
    )
    return f"{number} [{low}, {high}]"


def print_table(reports: list[Path]) -> None:
    print("| scan | method | AS | A-ESR 0.7 | A-ESR 0.6 | best of all: AS | copied |")
    print("|---|---|---|---|---|---|---|")
    for report in reports:
        scan = scan_of(report)
        num_train = sum(concept.num_train or 0 for concept in scan.concepts)
        for scores in scan.average:
            cells = (
                report.stem,
                f"{NAMES[scores.method]}, {scores.settings}",
                interval(scores.average_similarity, 3),
                interval(scores.esr_strict, 2),
                interval(scores.esr_loose, 2),
                f"{scores.best_similarity.value:.3f}",
                f"{scores.num_copied} of {num_train}",
            )
            print(f"| {' | '.join(cells)} |")
        for note in scan.notes:
            print(f"<!-- {report.stem}: {note} -->")


def scale_of(scores: MethodScores) -> tuple[float, float]:
    found = re.fullmatch(r"w'? ([\d.]+)(?:, k (-?[\d.]+))?", scores.settings)
    if found is None:
        raise SystemExit(f"no scale in {scores.settings!r}")
    return float(found[1]), float(found[2] or 0)


def draw_curve(out: Path, reports: list[Path]) -> None:
    figure, axes = plt.subplots(figsize=(7, 4), layout="constrained")
    for number, report in enumerate(reports):
        scan, colour = scan_of(report), f"C{number}"
        guided = [each for each in scan.average if each.method == "finextract"]
        # A scale of 1 is no guidance.
        direct = next(each for each in scan.average if each.method == "direct")
        scaled = {scale_of(each)[0]: each for each in guided if not scale_of(each)[1]}
        points = sorted(({1.0: direct} | scaled).items())
        axes.plot(
            [scale for scale, _ in points],
            [each.average_similarity.value for _, each in points],
            "o-",
            color=colour,
            label=f"{report.stem}: FineXtract",
        )
        for scores in scan.average:
            if scores.method != "finextract":
                style = {"direct": ":", "cfg": "--"}[scores.method]
                level = scores.average_similarity.value
                label = f"{report.stem}: {NAMES[scores.method]}"
                axes.axhline(level, ls=style, color=colour, label=label)
    axes.set(xlabel="scale of model guidance w'", ylabel="AS, extracted set")
    figure.legend(loc="outside lower center", fontsize="small", ncols=3)
    figure.savefig(out, dpi=110)


def draw_picture(out: Path, model: str, base: str, options: argparse.Namespace) -> None:
    with tempfile.TemporaryDirectory() as folder:
        given = {
            "model": model,
            "base": base,
            "model_guidance": options.guidance,
            "budget": f"{options.images}img",
            "steps": str(options.steps),
            "cache_dir": folder,
        }
        config = resolve_config(given, ini={}, rootdir=Path(folder), invocation_dir=Path.cwd())
        session = Session(config=config, session_id="picture")
        concept = session.finetunes.concepts[0]
        kept = {each.sample_id: each for each in load_finetunes(session.work_dir / "finetunes")}
    best: dict[int, tuple[float, int]] = {}
    for image in concept.extracted:
        if image.train_id is not None and image.similarity is not None:
            known = best.get(image.train_id, (-1.0, -1))
            best[image.train_id] = max(known, (image.similarity, image.sample_id))
    columns = [
        np.concatenate([picture.train, picture.generated])
        for _, (_, sample_id) in sorted(best.items())
        if (picture := kept[sample_id]).train is not None
    ]
    drawn = np.concatenate(columns, axis=1)
    Image.fromarray(np.kron(drawn, np.ones((ZOOM, ZOOM, 1), np.uint8))).save(out)
    print({train: round(similarity, 3) for train, (similarity, _) in sorted(best.items())})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    commands = parser.add_subparsers(dest="command", required=True)
    table = commands.add_parser("table")
    curve = commands.add_parser("curve")
    curve.add_argument("out", type=Path)
    for command in (table, curve):
        command.add_argument("reports", type=Path, nargs="+")
    picture = commands.add_parser("picture")
    picture.add_argument("out", type=Path)
    picture.add_argument("model")
    picture.add_argument("base")
    picture.add_argument("--guidance", default=None)
    picture.add_argument("--images", type=int, default=200)
    picture.add_argument("--steps", type=int, default=25)
    options = parser.parse_args()
    if options.command == "table":
        print_table(options.reports)
    elif options.command == "curve":
        draw_curve(options.out, options.reports)
    else:
        draw_picture(options.out, options.model, options.base, options)


if __name__ == "__main__":
    main()
