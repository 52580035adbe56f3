"""Static vetting of a checkpoint in any form, with the base that it needs; imports no torch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from pytest_memscan.checkpoints.adapter_files import Adapter, find_adapter, vet_adapter
from pytest_memscan.checkpoints.resolve import ResolvedCheckpoint
from pytest_memscan.checkpoints.single_file import vet_single_file
from pytest_memscan.checkpoints.verify import verify
from pytest_memscan.errors import CheckpointError
from pytest_memscan.results import Integrity


def verify_checkpoint(
    checkpoint: ResolvedCheckpoint, base: ResolvedCheckpoint | None = None
) -> Integrity:
    """What was found in the files that will be loaded, all of it well-formed and supported.

    Args:
        checkpoint: As resolved.
        base: Loaded with it; its files are listed as "base: ...".

    Raises:
        CheckpointError: As `verify.verify`.
    """
    own = _verify(checkpoint)
    if base is None:
        return own
    of_base = verify(base.folder)
    return replace(
        own,
        pipeline=of_base.pipeline if checkpoint.form == "pipeline" else own.pipeline,
        files=own.files | {f"base: {name}": digest for name, digest in of_base.files.items()},
        num_tensors=own.num_tensors + of_base.num_tensors,
        num_parameters=own.num_parameters + of_base.num_parameters,
    )


def adapter_of(checkpoint: ResolvedCheckpoint) -> Adapter:
    """The LoRA that a checkpoint was resolved to, vetted.

    Raises:
        CheckpointError: As `adapter_files.vet_adapter`, or the files have changed since.
    """
    files = find_adapter(checkpoint.folder)
    if files is None:
        raise CheckpointError(f"{checkpoint.label} changed: it was a LoRA a moment ago")
    return vet_adapter(files)


def joined(found: Sequence[Integrity]) -> Integrity:
    """What was found in the checkpoints of a set, at least one."""
    if len(found) == 1:
        return found[0]
    return Integrity(
        pipeline=f"{len(found)} fine-tunes",
        files={
            f"concept {number}: {name}": digest
            for number, each in enumerate(found, start=1)
            for name, digest in each.files.items()
        },
        num_tensors=sum(each.num_tensors for each in found),
        num_parameters=sum(each.num_parameters for each in found),
    )


def _verify(checkpoint: ResolvedCheckpoint) -> Integrity:
    if checkpoint.form == "pipeline":
        return verify(checkpoint.folder)
    if checkpoint.form == "single file":
        single = vet_single_file(checkpoint.folder)
        return Integrity(
            pipeline="single file",
            files=dict(single.files),
            num_tensors=single.num_tensors,
            num_parameters=single.num_parameters,
        )
    adapter = adapter_of(checkpoint)
    return Integrity(
        pipeline=f"LoRA, {adapter.description}",
        files=dict(adapter.files),
        num_tensors=adapter.num_tensors,
        num_parameters=adapter.num_parameters,
    )
