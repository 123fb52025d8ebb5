"""How long a repeated stretch is where the configuration leaves it open."""

from __future__ import annotations

LENGTH = 100  # tokens of a copy in study A (METHODS A4, A6)
SHORTEST = 4  # less is no repetition worth the name


def repeat_length(
    length: int | None,
    *,
    n_ctx: int | None,
    repetitions: int = 2,
    between: int = 0,
    available: int | None = None,
) -> int:
    """Tokens of a copy: `length` where one is given, else 100, or as many as fit.

    Args:
        n_ctx: the model's context, which holds a BOS, all copies and what stands between them.
        repetitions: copies per sequence.
        between: tokens between two copies.
        available: tokens of the text that can be repeated.
    """
    if length is not None:
        return length
    room = LENGTH if n_ctx is None else (n_ctx - 1 - between * (repetitions - 1)) // repetitions
    return max(SHORTEST, min(LENGTH, room, available if available is not None else LENGTH))
