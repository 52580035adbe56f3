"""What the commands of the documentation are run on."""

from __future__ import annotations

import preloaded
import pytest

from .places import Places, build

__all__ = ["places", "preloaded"]


@pytest.fixture(scope="session")
def places(tmp_path_factory: pytest.TempPathFactory) -> Places:
    """Stand-ins for everything that the documentation names."""
    return build(tmp_path_factory.mktemp("places"))
