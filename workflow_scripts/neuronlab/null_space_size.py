"""The size k of W_U's null space, as the configuration gives it. Needs no model and no torch."""

from __future__ import annotations


class NullSpaceError(ValueError):
    """A null space that cannot be: k outside 1..d, or weights that are zero or not finite."""


def resolve_k(k: float, d: int, where: str = "null_space_k") -> int:
    """A configured size as a number of singular directions: whole numbers as they are, fractions as shares of d.

    A share is rounded to the nearest number, at least 1. Study B's 2.34 % is 48 of 2048 and 96 of 4096 (METHODS 0.3).

    Raises:
        NullSpaceError: for k of 0 or less, above d, or neither whole nor a fraction; the message names `where`.
    """
    if 0 < k < 1:
        return max(1, round(k * d))
    if k != int(k) or k < 1:
        raise NullSpaceError(f"{where}: {k} is neither a whole number of directions nor a share of d between 0 and 1")
    if k > d:
        raise NullSpaceError(f"{where}: k = {int(k)} is larger than the model's width d = {d}; give at most {d}")
    return int(k)
