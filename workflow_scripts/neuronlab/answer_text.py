"""What a continuation says: where the answer ends, and whose object it is (METHODS B2, steps 1 and 5)."""

from __future__ import annotations

# An answer ends before the first of these; the last is the two characters that some models write for a line end.
DELIMITERS = ('"', ".", "\n", ",", "(", "[", "]", "<", "\\n")
CONTEXT, NEITHER, PARAMETRIC = "CK", "ND", "PK"


def split_answer(continuation: str) -> tuple[str, bool]:
    """The text before the first delimiter, stripped of white space, and whether there was a delimiter.

    Delimiters that open the continuation end an empty answer, as published; white space does not count as text.
    """
    places = [place for mark in DELIMITERS if (place := continuation.find(mark)) >= 0]
    end = min(places, default=len(continuation))
    return continuation[:end].strip(), bool(places)


def whole_characters(answer: str) -> str:
    """An answer up to the first character that its tokens do not finish or that is none (U+FFFD).

    What a tokenizer prints for such bytes would be encoded as other tokens than the model wrote, and all such bytes
    look the same: no object may hold it.
    """
    return answer.partition("\ufffd")[0].strip()


def same_words(answer: str, object_: str) -> bool:
    """Whether the answer begins with the words of an object, whatever the case; never for an empty object."""
    wanted = object_.casefold().split()
    return bool(wanted) and answer.casefold().split()[: len(wanted)] == wanted


def label_answer(answer: str, counter: str, parametric: str) -> str:
    """CK if the answer begins with the counter-object's words, else PK likewise, else ND (METHODS B2, step 5)."""
    if same_words(answer, counter):
        return CONTEXT
    return PARAMETRIC if same_words(answer, parametric) else NEITHER
