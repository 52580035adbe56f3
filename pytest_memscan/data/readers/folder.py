"""One file an image, in a folder with all its subfolders."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from operator import itemgetter
from pathlib import Path

from pytest_memscan.data.conversion import UnusableImageError, read_file
from pytest_memscan.data.listing import walk_folder
from pytest_memscan.data.readers.captions import Caption, read_captions
from pytest_memscan.data.records import Reading, Record
from pytest_memscan.data.sources import UNREAD_SUFFIXES, DataSource


def open_folder(source: DataSource) -> Reading:
    """Every image in name order, then every image that captions name and nobody finds.

    Raises:
        TrainDataError: No image, or captions that cannot be read.
    """
    folder = source.local
    found = walk_folder(folder)
    captions = read_captions(folder, found.captions, with_labels=True)
    names = {path.relative_to(folder).as_posix(): path for path in found.images}
    absent = {name: each for name, each in captions.items() if name not in names}
    return Reading(
        records=_records(names, captions, absent, labels=_labels(names, captions)),
        total=len(names) + len(absent),
        origin=source.label,
    )


def _labels(names: Iterable[str], captions: Mapping[str, Caption]) -> dict[str, str | None]:
    """Class labels from metadata where it has any, else from the first subfolder of each image."""
    if any(caption.label is not None for caption in captions.values()):
        return {name: caption.label for name, caption in captions.items()}
    firsts = {name: name.partition("/")[0] for name in names}
    # Beside images in no subfolder, subfolders are some other order than one by class.
    return dict(firsts) if all(first != name for name, first in firsts.items()) else {}


def _records(
    files: Mapping[str, Path],
    captions: Mapping[str, Caption],
    absent: Mapping[str, Caption],
    labels: Mapping[str, str | None],
) -> Iterator[Record]:
    for name, path in files.items():
        content, problem = _read(path)
        text = captions[name].text if name in captions else None
        yield Record(
            name=name, content=content, caption=text, label=labels.get(name), problem=problem
        )
    for name, caption in sorted(absent.items(), key=itemgetter(0)):
        problem = f"named in {caption.named_in} but absent"
        yield Record(name=name, content=b"", caption=caption.text, problem=problem)


def _read(path: Path) -> tuple[bytes, str | None]:
    suffix = path.suffix.lower()
    try:
        content = read_file(path)
    except UnusableImageError as reason:
        return b"", str(reason)
    return content, f"{suffix} files are not read" if suffix in UNREAD_SUFFIXES else None
