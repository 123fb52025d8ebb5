"""The same PDF for the same picture.

The renderer lists resources and embeds fonts in random order, so equal pictures give unequal files. Here a
document's objects are put into the order in which they are first referred to from its root, and numbered anew.
"""

from __future__ import annotations

import re

REFERENCE = re.compile(rb"\b(\d+) 0 R\b")
RESOURCES = re.compile(rb"(?:[ ]+/[A-Za-z]+\d+ \d+ 0 R\n){2,}")


def settled_pdf(pdf: bytes) -> bytes:
    """`pdf` with its objects in canonical order; what it shows is unchanged.

    Raises:
        ValueError: if the document is not of the plain form that the renderer writes (one cross-reference
            table, no object streams): another renderer needs another treatment.
    """
    objects, trailer, head = _parse(pdf)
    # Names within a dictionary (/xo12) are given in drawing order and are stable; their order in it is not.
    objects = {
        number: (RESOURCES.sub(lambda found: b"".join(sorted(found[0].splitlines(keepends=True))), body), stream)
        for number, (body, stream) in objects.items()
    }
    order: dict[int, int] = {}
    waiting = [int(number) for number in reversed(REFERENCE.findall(trailer))]
    while waiting:
        number = waiting.pop()
        if number in order or number not in objects:
            continue
        order[number] = len(order) + 1
        waiting.extend(int(found) for found in reversed(REFERENCE.findall(objects[number][0])))

    def renumbered(text: bytes) -> bytes:
        return REFERENCE.sub(lambda found: b"%d 0 R" % order[int(found[1])], text)

    parts, offsets, position = [head], [], len(head)
    for number, new in order.items():
        body, stream = objects[number]
        offsets.append(position)
        parts.append(b"%d 0 obj" % new + renumbered(body) + stream + b"\n\n")
        position += len(parts[-1])
    table = b"".join(b"%010d 00000 n \n" % offset for offset in offsets)
    size = re.sub(rb"/Size \d+", b"/Size %d" % (len(order) + 1), renumbered(trailer))
    parts.append(
        b"xref\n0 %d\n0000000000 65535 f \n%s%sstartxref\n%d\n%%%%EOF\n" % (len(order) + 1, table, size, position)
    )
    return b"".join(parts)


def _parse(pdf: bytes) -> tuple[dict[int, tuple[bytes, bytes]], bytes, bytes]:
    """Objects as (dictionary, stream with its end) by number; the trailer; what precedes the first object."""
    end = re.search(rb"startxref\s+(\d+)\s+%%EOF\s*$", pdf)
    if not end:
        raise ValueError("the PDF has no cross-reference table: vl-convert-python changed how it writes PDF")
    start = int(end[1])
    table = re.match(rb"xref\s+0 (\d+)\s+", pdf[start:])
    if not table:
        raise ValueError("the PDF has several cross-reference tables: vl-convert-python changed how it writes PDF")
    entries = re.findall(rb"(\d{10}) \d{5} ([nf])", pdf[start : start + table.end() + 20 * int(table[1])])
    places = sorted(int(offset) for offset, kind in entries if kind == b"n")
    objects = {}
    for place, following in zip(places, [*places[1:], start], strict=True):
        header = re.match(rb"\s*(\d+) 0 obj", pdf[place:following])
        if not header:
            raise ValueError(f"the PDF has no object at {place}: vl-convert-python changed how it writes PDF")
        whole = pdf[place + header.end() : following].rstrip()
        cut = whole.find(b"stream\n")
        objects[int(header[1])] = (whole, b"") if cut < 0 else (whole[:cut], whole[cut:])
    trailer = pdf[pdf.index(b"trailer", start) : end.start()]
    return objects, trailer, pdf[: places[0]]
