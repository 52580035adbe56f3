"""Prompts that a checkpoint cannot have memorised, made from those that it may have memorised.

They calibrate what counts as suspicious. Both makers are deterministic: `random.Random` with an
integer seed draws the same numbers on every platform.
"""

from __future__ import annotations

import math
import random
import string
import unicodedata
from collections.abc import Collection, Iterator, Sequence

KEY_LENGTH = 12  # 36^12: nobody trained on that very string by chance
_KEY_CHARACTERS = string.ascii_lowercase + string.digits
_CLASSES = (string.ascii_lowercase, string.ascii_uppercase, string.digits)
_DRAWS_PER_STRING = 100
_DRAWS_PER_PROMPT = 50
_MOST_ENUMERATED = 100_000  # pairs of prompts
_MOST_CUT = 10_000  # prompts; enough for any number of negatives that is ever tried


def random_strings(
    count: int, *, seed: int, like: Sequence[str] = (), exclude: Collection[str] = ()
) -> tuple[str, ...]:
    """Key strings that were never used.

    Args:
        count: How many.
        seed: Of the draws.
        like: Keys that were planted, one after the other the pattern of a string: a lower or upper
            case letter (a to z) or digit is replaced by a random one of its class, everything else
            is kept. Planted at random themselves, they cannot be told from these strings by
            anything but training. Without any, `KEY_LENGTH` lower case letters and digits.
        exclude: Strings to leave out besides ``like``.

    Returns:
        Strings that differ from each other and from all of these in more than capitals; fewer than
        `count` where the patterns have hardly any others.

    Raises:
        ValueError: A negative count.

    Example:
        >>> [len(each) for each in random_strings(2, seed=0)]
        [12, 12]
        >>> (made,) = random_strings(1, seed=0, like=["KEY-7a"])
        >>> made[3], made[:3].isupper(), made[4].isdigit(), made[5].islower()
        ('-', True, True, True)
    """
    if count < 0:
        raise ValueError(f"count must not be negative, got {count}")
    rng = random.Random(seed)  # noqa: S311 - reproducible, not secret
    used = {each.casefold() for each in (*like, *exclude)}
    patterns = [_choices(key) for key in like] or [[_KEY_CHARACTERS] * KEY_LENGTH]
    made: list[str] = []
    while patterns and len(made) < count:
        exhausted = []
        for pattern in patterns[: count - len(made)]:
            text = _draw(rng, pattern, used)
            if text is None:
                exhausted.append(pattern)
            else:
                used.add(text.casefold())
                made.append(text)
        patterns = [each for each in patterns if each not in exhausted]
    return tuple(made)


def recombined(prompts: Sequence[str], count: int, *, seed: int) -> tuple[str, ...]:
    """The first part of one prompt with the second part of another.

    Each prompt is cut once, between two words in its middle third; words are joined with single
    blanks. So the words are those of the prompts, and their combination is new: no result equals a
    prompt, in capitals and white space or without, and none comes twice.

    Args:
        prompts: Different prompts; those of one word cannot be cut and are left out.
        count: How many to make.
        seed: Of cuts and draws.

    Returns:
        Fewer than `count` where the cuts have no more combinations: with up to 316 prompts every
        one is tried, with more ``50 * count`` random ones.

    Raises:
        ValueError: A negative count.

    Example:
        >>> sorted(recombined(["red cat", "blue dog"], 5, seed=0))
        ['blue cat', 'red dog']
    """
    if count < 0:
        raise ValueError(f"count must not be negative, got {count}")
    rng = random.Random(seed)  # noqa: S311 - reproducible, not secret
    known = {_same(prompt) for prompt in prompts}
    halves = _cut(rng, prompts)
    made: dict[str, str] = {}
    for first, second in _pairs(rng, len(halves), count):
        if len(made) == count:
            break
        text = f"{halves[first][0]} {halves[second][1]}"
        if first != second and _same(text) not in known:
            made.setdefault(_same(text), text)
    return tuple(made.values())


def _choices(key: str) -> list[str]:
    """What may stand at each position of a string like this one."""
    return [next((each for each in _CLASSES if letter in each), letter) for letter in key]


def _draw(rng: random.Random, pattern: list[str], used: set[str]) -> str | None:
    """A new string of a pattern; None where none was found."""
    if math.prod(map(len, pattern)) == 1:
        return None
    for _ in range(_DRAWS_PER_STRING):
        text = "".join(rng.choice(letters) for letters in pattern)
        if text.casefold() not in used:
            return text
    return None


def _cut(rng: random.Random, prompts: Sequence[str]) -> list[tuple[str, str]]:
    """Both parts of each prompt of two words or more."""
    texts = rng.sample(prompts, _MOST_CUT) if len(prompts) > _MOST_CUT else prompts
    halves = []
    for text in texts:
        words = text.split()
        if len(words) > 1:
            at = rng.randint(math.ceil(len(words) / 3), 2 * len(words) // 3)
            halves.append((" ".join(words[:at]), " ".join(words[at:])))
    return halves


def _pairs(rng: random.Random, size: int, count: int) -> Iterator[tuple[int, int]]:
    """Pairs of positions in random order: each once where they are few, else random ones."""
    if size * size <= _MOST_ENUMERATED:
        for index in rng.sample(range(size * size), size * size):
            yield divmod(index, size)
        return
    for _ in range(_DRAWS_PER_PROMPT * count):
        yield rng.randrange(size), rng.randrange(size)


def _same(prompt: str) -> str:
    """Equal for prompts that differ in capitals and white space only: CLIP ignores both."""
    return " ".join(unicodedata.normalize("NFC", prompt).casefold().split())
