"""What can go wrong, as sentences for the person at the terminal.

::

    MemscanError            the scan could not be done; the verdict is ``error`` (exit 1)
    ├── OptionError         an option or the policy file is wrong; nothing was started (exit 4)
    ├── CheckpointError     the checkpoint cannot be found, trusted or loaded
    ├── TrainDataError      the training or held-out images cannot be used
    ├── PromptError         no prompt, or a list of them that cannot be read
    ├── DescriptorError     the descriptor's weights are missing, damaged or of another network
    └── StoreError          the folder of generated images is busy or damaged

Every message names the option or file, says what was found, and what to do about it.
"""

from __future__ import annotations

from pathlib import Path


class MemscanError(Exception):
    """The scan could not be done. The message is shown without a traceback."""


class OptionError(MemscanError):
    """An option or a policy value is wrong; found before anything was started."""


class CheckpointError(MemscanError):
    """The checkpoint cannot be found, trusted or loaded."""


class TrainDataError(MemscanError):
    """The training or held-out images cannot be used."""


class PromptError(MemscanError):
    """A list of prompts cannot be read, or holds none that can be used."""


class DescriptorError(MemscanError):
    """The descriptor's weights are missing, damaged, or not of the network they should be."""


class StoreError(MemscanError):
    """The folder that keeps the generated images is busy or damaged."""


def shown_path(path: Path) -> str:
    """A path as a message or report may show it: where somebody keeps their data is private.

    Returns:
        Relative to the working directory when below it, else only the last part.
    """
    try:
        return path.relative_to(Path.cwd()).as_posix() or "."
    except (ValueError, OSError):
        return f".../{path.name}"


def is_special(path: Path) -> bool:
    """Whether a file written there would replace a device or a pipe, for everybody.

    ``/dev/stdout`` may lead to an ordinary file, and would itself be replaced.
    """
    is_ordinary = not path.exists() or path.is_file() or path.is_dir()
    return path.parent == Path("/dev") or not is_ordinary
