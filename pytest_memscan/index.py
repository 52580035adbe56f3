"""Describe training images once, and pass the descriptors on instead of the images.

::

python -m pytest_memscan.index ./images --descriptor sscd --size 64x64 --output faces.index
pytest --memscan MODEL --memscan-train-data index:faces.index --memscan-descriptor sscd
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from pytest_memscan.data.listing import check_source
from pytest_memscan.data.sources import parse_source
from pytest_memscan.errors import MemscanError, OptionError, shown_path
from pytest_memscan.similarity.descriptors.presets import PIXELS, check_descriptor, load_descriptor
from pytest_memscan.similarity.descriptors.weights import default_cache_dir


def main(arguments: Sequence[str] | None = None) -> int:
    """Make an index; 0 when it was made, 2 when it could not be."""
    options = _parser().parse_args(arguments)
    try:
        made = _make(options)
    except MemscanError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(made)
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m pytest_memscan.index",
        description="Describe training images for --memscan-train-data index:FOLDER.",
    )
    parser.add_argument("images", help="what --memscan-train-data takes: folder, shards, hub:...")
    parser.add_argument("--descriptor", required=True, help="as --memscan-descriptor")
    parser.add_argument(
        "--size", required=True, metavar="WIDTHxHEIGHT", help="of the images the checkpoint makes"
    )
    parser.add_argument("--grey", action="store_true", help="the checkpoint makes grey images")
    parser.add_argument("--output", required=True, metavar="FOLDER", help="must not exist yet")
    parser.add_argument("--device", default="cpu", help="cpu (default), cuda or cuda:N")
    parser.add_argument("--offline", action="store_true", help="never use the network")
    parser.add_argument("--cache-dir", metavar="DIR", help="keeps what an interrupted run made")
    return parser


def _make(options: argparse.Namespace) -> str:
    from pytest_memscan.data.conversion import ImageShape
    from pytest_memscan.data.images import load_images
    from pytest_memscan.similarity.index import copy_index
    from pytest_memscan.similarity.index_build import build_index, index_folder

    size = re.fullmatch(r"([1-9]\d{0,4})x([1-9]\d{0,4})", options.size)
    if size is None:
        raise OptionError(f"--size: {options.size!r} is not a size; write WIDTHxHEIGHT, as 64x64")
    shape = ImageShape(width=int(size[1]), height=int(size[2]), channels=1 if options.grey else 3)
    cache_dir = default_cache_dir()
    if options.cache_dir:
        cache_dir = Path(options.cache_dir).expanduser()
    output = Path(options.output).expanduser().absolute()
    if output.exists():
        raise OptionError(f"--output {shown_path(output)} exists already; choose another name")
    if options.descriptor == PIXELS:
        raise OptionError("--descriptor pixels: pixels are compared as they are, without an index")
    check_descriptor(options.descriptor, cache_dir=cache_dir)
    source = parse_source(options.images, Path.cwd())
    check_source(source)
    with _counted("read") as report:
        train = load_images(
            source, shape, cache_dir=cache_dir / "train", offline=options.offline, progress=report
        )
    descriptor = load_descriptor(
        options.descriptor, device=options.device, offline=options.offline, cache_dir=cache_dir
    )
    folder = index_folder(cache_dir / "index", train.pixels, descriptor, train.fingerprint)
    with _counted("described") as report:
        build_index(
            train.pixels,
            descriptor,
            fingerprint=train.fingerprint,
            folder=folder,
            source=train.coverage,
            progress=report,
        )
    train.require_unchanged()
    copy_index(folder, output)
    return f"{shown_path(output)}: {len(train.names)} images described by {descriptor.name}"


@contextmanager
def _counted(verb: str) -> Iterator[Callable[[int, int | None], None]]:
    """A bar on a terminal, nothing in a log."""
    from rich.console import Console
    from rich.progress import Progress

    console = Console(stderr=True)
    with Progress(console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task(f"images {verb}", total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)


if __name__ == "__main__":
    sys.exit(main())
