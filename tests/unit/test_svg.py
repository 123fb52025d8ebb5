"""Smaller pictures: the same to be seen, for a fraction of the bytes."""

from __future__ import annotations

import re
import struct
import zlib
from collections import Counter
from xml.etree import ElementTree

import altair as alt
import numpy as np
import polars as pl
import pytest
import vl_convert
from hypothesis import given
from hypothesis import strategies as st
from jaxtyping import UInt8
from neuronlab.figures import theme
from neuronlab.figures.svg import COORDINATES, NAMESPACE, compact
from neuronlab.figures.svg_paths import apart, line_path, relative


def drawn(chart: alt.TopLevelMixin) -> str:
    """What the renderer writes."""
    return vl_convert.vegalite_to_svg(chart.to_dict())


def pixels(svg: str) -> UInt8[np.ndarray, "height width 4"]:
    """The picture as the renderer paints it (red, green, blue, alpha)."""
    png = vl_convert.svg_to_png(svg, scale=2)
    width, height, depth, colours = struct.unpack(">IIBB", png[16:26])
    assert (depth, colours) == (8, 6)
    data, place = b"", 8
    while place < len(png):
        size, kind = struct.unpack(">I4s", png[place : place + 8])
        data += png[place + 8 : place + 8 + size] if kind == b"IDAT" else b""
        place += size + 12
    rows = np.frombuffer(zlib.decompress(data), np.uint8).reshape(height, -1)
    assert set(rows[:, 0]) == {1}  # every pixel is stored as its difference from the one to its left
    return rows[:, 1:].reshape(height, width, 4).cumsum(1, dtype=np.uint8)


def texts(svg: str) -> Counter[str]:
    return Counter("".join(e.itertext()) for e in ElementTree.fromstring(svg).iter(f"{{{NAMESPACE}}}text"))


def frame(rows: int = 300) -> pl.DataFrame:
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(2, rows))
    kind = np.array(["one", "two & <three>"])[(x > 0.2).astype(int)]
    return pl.DataFrame({"x": x, "y": y, "kind": kind, "low": y - 0.3, "high": y + 0.4, "row": np.arange(rows) % 3})


def charts() -> dict[str, alt.TopLevelMixin]:
    """Marks and layouts as the figures use them."""
    data, few = frame(), frame(40).sort("x")
    base = alt.Chart(data)
    points = base.mark_circle(size=30, opacity=0.4).encode(x="x", y="y", color="kind")
    rings = base.mark_point(size=40, filled=False, strokeWidth=1.4, opacity=0.6).encode(x="x", y="y", shape="kind")
    both = base.mark_circle(size=80, stroke="white", strokeWidth=0.8, opacity=0.5).encode(x="x", y="y")
    line = alt.Chart(few).mark_line(clip=True, strokeDash=[4, 3]).encode(x="x", y="y", detail="kind")
    band = alt.Chart(few).mark_area(opacity=0.3).encode(x="x", y="low", y2="high")
    heat = base.mark_rect().encode(x=alt.X("x").bin(maxbins=12), y=alt.Y("y").bin(maxbins=9), color="mean(high)")
    words = alt.Chart(few).mark_text(angle=30, fontWeight="bold").encode(x="x", y="y", text="kind")
    rules = alt.Chart(few).mark_rule(opacity=0.5, strokeWidth=2).encode(x="x", y="low", y2="high")
    ticks = alt.Chart(few).mark_tick(opacity=0.7).encode(x="x")
    return {
        "points": points,
        "dots": base.mark_circle(size=30, opacity=0.4).encode(x="x", y="y"),
        "layers": alt.layer(both, rings, words),
        "line and band": band + line,
        "heat": heat,
        "rules and ticks": rules & ticks,
        "facets": points.properties(width=90, height=80).facet(column="row:N"),
    }


@pytest.mark.parametrize("name", charts())
def test_a_smaller_picture_looks_the_same(name: str) -> None:
    before = drawn(theme.finish(charts()[name], "A title", ["about the model", "one fact"]))
    after = compact(before)
    left, right = pixels(before).astype(int), pixels(after).astype(int)
    assert left.shape == right.shape
    difference = np.abs(left - right).max(-1)
    # Edges move by less than a hundredth of a pixel: a few of their pixels change by a shade.
    assert difference.max() <= 64
    assert (difference > 16).mean() < 2e-3
    assert (left < 250).any()  # there is something to be seen
    assert len(after) < len(before) / 2
    assert texts(after) == texts(before)
    assert compact(after) == after


def test_numbers_have_two_decimals_and_marks_no_labels() -> None:
    after = compact(drawn(charts()["dots"]), label="points, 300 of them")
    root = ElementTree.fromstring(after)
    assert root.get("aria-label") == "points, 300 of them"
    places = Counter(
        len(decimals)
        for element in root.iter()
        for name in (*COORDINATES, "transform")
        for decimals in re.findall(r"\.(\d+)", element.get(name, ""))
    )
    assert max(places) == 2
    dots = "".join(path.attrib["d"] for path in root.iter(f"{{{NAMESPACE}}}path") if "h0" in path.attrib["d"])
    assert dots.count("h0") == 300
    assert not [e for e in root.iter() if e is not root and {"aria-label", "role", "class"} & e.attrib.keys()]


def test_opacity_of_neighbours_still_adds_up() -> None:
    """Two see-through marks on one spot are darker than one: style that moves to their group must not flatten them."""
    data = pl.DataFrame({"x": [1, 1, 1, 1, 2], "y": [1, 1, 1, 1, 1]})
    after = compact(drawn(alt.Chart(data).mark_circle(size=900, opacity=0.3).encode(x="x:O", y="y:O")))
    image = pixels(after)
    darkness, middle = 255 - image[..., 0].astype(int), image.shape[1] // 2  # of red, in a picture of blue dots
    alone = np.bincount(darkness[:, middle:].flatten())[40:].argmax() + 40
    assert (darkness[:, :middle] > 1.5 * alone).sum() > 1000
    assert "stroke-opacity" in after


PLACES = st.tuples(st.integers(-99_999, 99_999), st.integers(-99_999, 99_999))


def followed(d: str) -> list[tuple[int, int]]:
    """The points of a path of M, l, h and v, in hundredths."""
    found, x, y = [], 0, 0
    for command, numbers in re.findall(r"([Mlhv])([^Mlhv]*)", d):
        values = [round(float(number) * 100) for number in re.findall(r"-?(?:\d+\.?\d*|\.\d+)", numbers)]
        if command in "hv":
            values = [values[0], 0] if command == "h" else [0, values[0]]
        for dx, dy in zip(values[::2], values[1::2], strict=True):
            x, y = (dx, dy) if command == "M" else (x + dx, y + dy)
            found.append((x, y))
    return found


@given(st.lists(PLACES, min_size=2, max_size=30))
def test_steps_lead_where_the_line_led(places: list[tuple[int, int]]) -> None:
    d = "".join(f"{'L' if i else 'M'}{x / 100 + 0.0012},{y / 100 + 0.0012}" for i, (x, y) in enumerate(places))
    assert followed(relative(d)) == places
    assert len(relative(d)) <= len(d)
    (x0, y0), (x1, y1) = places[:2]
    assert (
        followed(line_path((str(x0 / 100), str(y0 / 100)), (str((x1 - x0) / 100), str((y1 - y0) / 100)))) == places[:2]
    )


def test_a_path_of_curves_keeps_its_form() -> None:
    curve = "M1,2C3.456,4,5,6,7,8Z"
    assert relative(curve) == "M1,2C3.46,4,5,6,7,8Z"
    assert relative("M1,2h3.001v4h-3Z") == "M1,2h3v4h-3Z"


@given(st.lists(st.tuples(st.floats(0, 60), st.floats(0, 60)), max_size=80), st.floats(0.5, 20))
def test_places_of_a_layer_are_apart(places: list[tuple[float, float]], distance: float) -> None:
    layers = apart(places, distance)
    assert Counter(place for layer in layers for place in layer) == Counter(places)
    for layer in layers:
        points = np.array(layer)
        gaps = np.linalg.norm(points[:, None] - points, axis=-1)[np.triu_indices(len(points), 1)]
        assert (gaps >= distance * (1 - 1e-9)).all()
