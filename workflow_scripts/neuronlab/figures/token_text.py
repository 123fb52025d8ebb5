"""Tokens as text in a picture: spelled so that all of a token can be seen, and about how wide that is."""

from __future__ import annotations

import unicodedata

LENGTH = 16  # characters shown of a token, at most
DOT, ELLIPSIS, EMPTY = "\N{MIDDLE DOT}", "\N{HORIZONTAL ELLIPSIS}", "\N{EMPTY SET}"
LEGEND = f"{DOT} stands for a space, \\n for a line end; long tokens are cut ({ELLIPSIS})"

NARROW, WIDE = frozenset("iljtfrI.,:;'|!()[]{}·/\\\"` -"), frozenset("mwMW@%…")


def shown(token: str, length: int = LENGTH) -> str:
    """A token as a figure shows it.

    Spaces are middle dots; what does not print (line ends, control characters, direction marks) is escaped; a long
    token is cut; one without any character is the sign of the empty set.
    """
    spelled = "".join(_letter(letter) for letter in token) or EMPTY
    return spelled if len(spelled) <= length else f"{spelled[: length - 1]}{ELLIPSIS}"


def _letter(letter: str) -> str:
    if letter == " ":
        return DOT
    if letter == "\\":  # doubled, so that the two characters of "\\n" are no line end
        return "\\\\"
    if unicodedata.combining(letter):  # it would sit on the character before it
        return f"\\u{ord(letter):04x}"
    return letter if letter.isprintable() else repr(letter)[1:-1]


def width(text: str, size: float) -> float:
    """About how many pixels `text` takes in the figures' font; rather too many than too few."""
    return size * sum(_em(letter) for letter in text)


def _em(letter: str) -> float:
    if letter in NARROW:
        return 0.34
    if letter in WIDE or unicodedata.east_asian_width(letter) in "WF":
        return 1.02
    return 0.72 if letter.isupper() else 0.58
