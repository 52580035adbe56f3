"""Fixtures that users request to write their own assertions about a checkpoint."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, TypeVar

import pytest

from pytest_memscan.errors import MemscanError
from pytest_memscan.fixture_results import (
    CarliniResult,
    FinetuneResult,
    PromptsResult,
    SideResult,
    SplittingResult,
)

if TYPE_CHECKING:
    from pytest_memscan.checkpoints.resolve import ResolvedCheckpoint
    from pytest_memscan.data.images import ImageSet
    from pytest_memscan.data.prompts import PromptSet
    from pytest_memscan.results import (
        CheckOutcome,
        Duplicates,
        KeyScan,
        Repeats,
    )
    from pytest_memscan.session import Session

T = TypeVar("T")


class Memscan:
    """Scans of the checkpoint named by ``--memscan``; each runs once however often it is asked."""

    def __init__(self, session: Session) -> None:
        self._session = session

    def carlini(self) -> CarliniResult:
        """Plain sampling of an unconditional checkpoint, compared with its training images.

        Raises:
            MemscanError: The scan could not be done, or did not see everything it should have,
                so that no assertion about it would mean anything. Or the checkpoint is
                text-to-image: ask `prompts`.
        """
        __tracebackhide__ = True
        outcome = self._checked("carlini")
        if outcome.scan is None:
            raise MemscanError("memscan: the checkpoint is text-to-image; ask memscan.prompts()")
        return CarliniResult(outcome.scan)

    def prompts(self) -> PromptsResult:
        """Memorised prompts of a text-to-image checkpoint.

        Raises:
            MemscanError: As `carlini`, the other way round.
        """
        __tracebackhide__ = True
        outcome = self._checked("carlini")
        if outcome.prompt_scan is None:
            raise MemscanError("memscan: the checkpoint is unconditional; ask memscan.carlini()")
        return PromptsResult(outcome.prompt_scan)

    def splitting(self) -> SplittingResult:
        """Rare copies of an unconditional checkpoint, found by steering and priced without it.

        Raises:
            MemscanError: As `carlini`, or the weights say nothing, or not every training image
                was screened. Or it does not apply: it needs the training images themselves.
        """
        __tracebackhide__ = True
        outcome = self._checked("splitting")
        if outcome.splitting is None:
            raise MemscanError(f"memscan: {outcome.verdict}: {outcome.sentence}")
        return SplittingResult(outcome.splitting)

    def side(self) -> SideResult:
        """What surrogate conditions brought out of an unconditional checkpoint.

        Raises:
            MemscanError: As `carlini`. Or it was not asked for: it takes
                ``--memscan-scans side`` and training images.
        """
        __tracebackhide__ = True
        outcome = self._checked("side")
        if outcome.side is None:
            raise MemscanError(f"memscan: {outcome.verdict}: {outcome.sentence}")
        return SideResult(outcome.side)

    def extended_side(self) -> KeyScan:
        """Keys of a text-to-image checkpoint whose images hardly vary, planted ones among them.

        Raises:
            MemscanError: As `prompts`.
        """
        __tracebackhide__ = True
        outcome = self._checked("extended_side")
        if outcome.keys is None:
            raise MemscanError(f"memscan: {outcome.verdict}: {outcome.sentence}")
        return outcome.keys

    def finextract(self) -> FinetuneResult:
        """What comes out of a fine-tune, given the base named by ``--memscan-base``.

        Raises:
            MemscanError: As `carlini`, or no base is known.
        """
        __tracebackhide__ = True
        outcome = self._checked("finextract")
        if outcome.finetunes is None:
            raise MemscanError(f"memscan: {outcome.verdict}: {outcome.sentence}")
        return FinetuneResult(outcome.finetunes)

    def repeats(self) -> Repeats:
        """Near-identical generated images of an unconditional checkpoint without training images.

        Raises:
            MemscanError: As `carlini`.
        """
        __tracebackhide__ = True
        outcome = self._checked("repeats")
        if outcome.repeats is None:
            raise MemscanError(f"memscan: {outcome.verdict}: {outcome.sentence}")
        return outcome.repeats

    def duplicates(self) -> Duplicates:
        """What is more than once among the training images.

        Raises:
            MemscanError: They could not be read or compared.
        """
        __tracebackhide__ = True
        outcome = self._session.check("duplicates")
        if outcome.duplicates is None:
            raise MemscanError(f"memscan: {outcome.verdict}: {outcome.sentence}")
        return outcome.duplicates

    def _checked(self, name: str) -> CheckOutcome:
        """A check that was done, on everything it should have looked at."""
        __tracebackhide__ = True
        from pytest_memscan.gate import judge_coverages
        from pytest_memscan.results import Verdict

        outcome = self._session.check(name)
        if outcome.verdict is Verdict.ERROR:
            raise MemscanError(f"memscan: {outcome.verdict}: {outcome.sentence}")
        for verdict, sentence in judge_coverages(outcome):
            if verdict is not Verdict.PASS:
                raise MemscanError(f"memscan: {verdict}: {sentence}")
        return outcome


def _shortly(request: pytest.FixtureRequest, read: Callable[[Session], T]) -> T:
    """What ``read`` returns; its error without our own frames, which would only hide the test."""
    __tracebackhide__ = True
    session = _session(request)
    try:
        return read(session)
    except MemscanError as error:
        failure = type(error)(f"memscan: error: {error}")
    raise failure


def _session(request: pytest.FixtureRequest) -> Session:
    if request.config.option.memscan is None:
        pytest.skip("needs --memscan MODEL, the checkpoint to scan")
    from pytest_memscan.items import SESSION

    return request.config.stash[SESSION]


@pytest.fixture
def memscan(request: pytest.FixtureRequest) -> Memscan:
    """Scans of the checkpoint named by ``--memscan``; the test is skipped without one."""
    return Memscan(_session(request))


@pytest.fixture(scope="session")
def memscan_checkpoint(request: pytest.FixtureRequest) -> ResolvedCheckpoint:
    """The checkpoint on disk, vetted."""
    return _shortly(request, lambda session: session.inputs.checkpoint)


@pytest.fixture(scope="session")
def memscan_base(request: pytest.FixtureRequest) -> ResolvedCheckpoint | None:
    """The checkpoint it was fine-tuned from, vetted, where that is known."""
    return _shortly(request, lambda session: session.inputs.base)


@pytest.fixture(scope="session")
def memscan_train_data(request: pytest.FixtureRequest) -> ImageSet:
    """The training images at the checkpoint's size."""
    return _shortly(request, lambda session: session.inputs.train_data)


@pytest.fixture(scope="session")
def memscan_prompts(request: pytest.FixtureRequest) -> PromptSet:
    """The prompts of a text-to-image checkpoint."""
    return _shortly(request, lambda session: session.prompt_inputs.prompts)


@pytest.fixture(scope="session")
def memscan_result(
    request: pytest.FixtureRequest,
) -> CarliniResult | PromptsResult | FinetuneResult:
    """The result of the session's scan.

    `Memscan.finextract` where the base is known, else `Memscan.prompts` with prompts and
    `Memscan.carlini` without.
    """
    memscan = Memscan(_session(request))
    inputs = _shortly(request, lambda session: session.inputs)
    situation = _shortly(request, lambda session: session.inputs.situation)
    if situation.has_base:
        return memscan.finextract()
    return memscan.prompts() if inputs.kind == "text-to-image" else memscan.carlini()
