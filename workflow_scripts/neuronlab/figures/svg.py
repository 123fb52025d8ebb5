"""The same picture in a fifth of the bytes: a report holds every figure, and mails have limits.

The renderer writes each point as a path with fifteen decimals and a label of its values for screen readers. Here

* coordinates are rounded to hundredths of a pixel;
* labels of single marks, roles and classes are left out: the tables hold the values, the html format shows them under
  the pointer. The whole picture has one label instead, its title and subtitle;
* what draws nothing is left out, equal clips stand once, and neighbours share what they have in common: a group holds
  their style, opaque lines become one path, and dots become few.
"""

from __future__ import annotations

import re
from itertools import groupby
from xml.etree import ElementTree
from xml.etree.ElementTree import Element

from neuronlab.figures.svg_paths import apart, dot_path, line_path, relative, rounded

NAMESPACE = "http://www.w3.org/2000/svg"
TAG = f"{{{NAMESPACE}}}"
PATH, GROUP, TEXT, CLIP = f"{TAG}path", f"{TAG}g", f"{TAG}text", f"{TAG}clipPath"
CIRCLE = f"{TAG}circle"
SHAPES = (PATH, CIRCLE, f"{TAG}line", f"{TAG}rect")
UNSEEN = ("class", "role", "pointer-events", "aria-label", "aria-roledescription", "aria-hidden")
COORDINATES = ("x", "y", "x2", "y2", "width", "height", "r", "cx", "cy", "stroke-width")
STROKES = ("stroke", "stroke-width", "stroke-dasharray", "stroke-linecap", "stroke-linejoin")
# What an element takes from the group around it.
INHERITED = (
    *STROKES,
    "stroke-opacity",
    "fill",
    "fill-opacity",
    "font-size",
    "font-weight",
    "font-style",
    "text-anchor",
)

TRANSLATION = re.compile(r"translate\([^)]*\)")
MOVED = re.compile(r"translate\(([^,()]+),([^,()]+)\)")
ROUND = re.compile(r"M([\d.]+),0A\1,\1,0,1,1,-\1,0A\1,\1,0,1,1,\1,0Z?")
COLOUR = re.compile(r"rgb\((\d+), (\d+), (\d+)\)")


def compact(svg: str, label: str = "") -> str:
    """A smaller picture that looks the same.

    Args:
        svg: what the renderer writes.
        label: what the picture is, for those who do not see it.

    Raises:
        ElementTree.ParseError: if `svg` is not XML.
    """
    root = ElementTree.fromstring(svg)
    clips = _equal_clips(root)
    for element in root.iter():
        if element is not root:
            _shorten(element, clips)
    _hoist_font(root)
    _prune(root, inked=False)
    _share(root)
    if label:
        root.attrib |= {"role": "img", "aria-label": label}
    ElementTree.register_namespace("", NAMESPACE)
    return ElementTree.tostring(root, encoding="unicode").replace(" />", "/>")


def _equal_clips(root: Element) -> dict[str, str]:
    """Take out clips that another one equals; a reference to each, and the one to use."""
    first: dict[bytes, str] = {}
    use: dict[str, str] = {}
    for parent in [element for element in root.iter() if any(child.tag == CLIP for child in element)]:
        for clip in parent.findall(CLIP):
            shape = b"".join(ElementTree.tostring(child) for child in clip)
            kept = first.setdefault(shape, clip.attrib["id"])
            use[f"url(#{clip.attrib['id']})"] = f"url(#{kept})"
            if kept != clip.attrib["id"]:
                parent.remove(clip)
    return use


def _shorten(element: Element, clips: dict[str, str]) -> None:
    """Attributes of one element, without what changes nothing to be seen."""
    attributes = element.attrib
    for name in UNSEEN:
        attributes.pop(name, None)
    for name in COORDINATES:
        if name in attributes:
            attributes[name] = rounded(attributes[name])
    if "transform" in attributes:
        moved = TRANSLATION.sub(lambda found: rounded(found[0]), attributes.pop("transform"))
        if moved != "translate(0,0)":
            attributes["transform"] = moved
    if "clip-path" in attributes:
        attributes["clip-path"] = clips.get(attributes["clip-path"], attributes["clip-path"])
    for name in ("fill", "stroke"):
        if name in attributes:
            attributes[name] = COLOUR.sub(_hexadecimal, attributes[name])
    if attributes.get("opacity") == "1":
        del attributes["opacity"]
    if element.tag in SHAPES:
        filled, drawn = attributes.get("fill", "none") != "none", attributes.get("stroke", "none") != "none"
        if not drawn:
            attributes.pop("stroke-width", None)
        if attributes.get("stroke-width") == "1":
            del attributes["stroke-width"]
        if "opacity" in attributes and filled != drawn:  # an opacity that a group may hold for its elements, one by one
            attributes["fill-opacity" if filled else "stroke-opacity"] = attributes.pop("opacity")
    _simplify(element)


def _simplify(element: Element) -> None:
    """Circles as circles, lines as paths, and both, like texts, at their place instead of moved to it."""
    attributes = element.attrib
    place = MOVED.fullmatch(attributes.get("transform", "translate(0,0)"))
    circle = ROUND.fullmatch(attributes.get("d", ""))
    if element.tag == PATH and circle and place:
        attributes.pop("transform", None)
        del attributes["d"]
        element.tag = CIRCLE
        element.attrib = {"cx": place[1], "cy": place[2], "r": rounded(circle[1])} | attributes
    elif element.tag == f"{TAG}line" and place and not {"x1", "y1"} & attributes.keys():
        attributes.pop("transform", None)
        element.tag = PATH
        end = attributes.pop("x2", "0"), attributes.pop("y2", "0")
        element.attrib = {"d": line_path((place[1], place[2]), end)} | attributes
    elif element.tag == TEXT and place and not len(element) and not {"x", "y"} & attributes.keys():
        attributes.pop("transform", None)
        element.attrib = {"x": place[1], "y": place[2]} | attributes
    elif element.tag == PATH and "d" in attributes:
        attributes["d"] = relative(attributes["d"])


def _hexadecimal(rgb: re.Match[str]) -> str:
    return "#" + "".join(f"{int(part):02x}" for part in rgb.groups())


def _hoist_font(root: Element) -> None:
    """The one font of all texts, on the root."""
    texts = list(root.iter(TEXT))
    families = {text.get("font-family") for text in texts}
    if len(families) == 1 and None not in families:
        root.set("font-family", texts[0].attrib["font-family"])
        for text in texts:
            del text.attrib["font-family"]


def _prune(parent: Element, inked: bool) -> None:
    """Take out shapes without ink and groups that say nothing; `inked`: a group around sets a fill or a stroke."""
    kept: list[Element] = []
    for child in parent:
        own = any(child.get(name, "none") != "none" for name in ("fill", "stroke"))
        if child.tag == GROUP:
            _prune(child, inked or own)
            if len(child):
                kept.extend([child] if child.attrib else list(child))
        elif child.tag not in SHAPES or ((own or inked) and child.get("d") != "" and child.get("display") != "none"):
            kept.append(child)
    parent[:] = _joined_groups(kept)


def _joined_groups(children: list[Element]) -> list[Element]:
    """Neighbouring groups of the same clip or place as one."""
    joined: list[Element] = []
    for child in children:
        placed = child.tag == GROUP and child.attrib.keys() <= {"transform", "clip-path"}
        if placed and joined and joined[-1].tag == GROUP and joined[-1].attrib == child.attrib:
            joined[-1].extend(child)
        else:
            joined.append(child)
    return joined


def _share(parent: Element) -> None:
    """Neighbours of one style: opaque lines as one path, others in a group that holds the style."""
    for child in parent:
        if child.tag == GROUP:
            _share(child)
    merged = [element for style, run in groupby(parent, key=_style) for element in _merged(style, list(run))]
    same = [element for _, run in groupby(merged, key=_style) for element in _grouped(list(run))]
    children = [element for _, run in groupby(same, key=_kind) for element in _grouped(list(run))]
    alone = len(children) == 1 and children[0].tag == parent.tag == GROUP
    if alone and parent.attrib.keys() <= {"transform", "clip-path"} and children[0].attrib.keys() <= set(INHERITED):
        parent.attrib |= children[0].attrib
        children = list(children[0])
    parent[:] = children


def _grouped(run: list[Element]) -> list[Element]:
    """What all of three or more elements say, on a group around them."""
    common = set.intersection(*(set(_style(element)) for element in run))
    if len(run) < 3 or not common:
        return run
    for element in run:
        for name, _ in common:
            del element.attrib[name]
    group = Element(GROUP, dict(sorted(common)))
    group.extend(run)
    return [group]


def _kind(element: Element) -> str:
    """Elements that may share a part of their style; a group stands alone."""
    return element.tag if element.tag in (*SHAPES, TEXT) else f"group {id(element)}"


def _style(element: Element) -> tuple[tuple[str, str], ...]:
    """What a group around this element could say for it; nothing for groups."""
    if element.tag not in SHAPES and element.tag != TEXT:
        return ()
    return tuple((name, element.attrib[name]) for name in INHERITED if name in element.attrib)


def _merged(style: tuple[tuple[str, str], ...], run: list[Element]) -> list[Element]:
    """Opaque lines without a fill as one path, dots as few; others as they are."""
    names = {name for name, _ in style}
    if len(run) < 2:
        return run
    opaque = names <= set(STROKES) and dict(style).get("stroke", "").startswith("#")
    # Where lines are transparent, their crossings would lose their depth.
    if opaque and all(element.tag == PATH and element.attrib.keys() == names | {"d"} for element in run):
        run[0].set("d", "".join(element.attrib["d"] for element in run))
        return run[:1]
    if names <= {"fill", "fill-opacity"} and all(
        element.tag == CIRCLE and element.attrib.keys() == names | {"cx", "cy", "r"} for element in run
    ):
        sizes = [(r, list(found)) for r, found in groupby(run, key=lambda element: element.attrib["r"])]
        return [dot for r, dots in sizes for dot in (_dots(r, dots) if len(dots) > 4 else dots)]
    return run


def _dots(r: str, dots: list[Element]) -> list[Element]:
    """Dots of one size and colour as lines of no length with round ends.

    Transparent dots that overlap come into different paths: within a path, what is covered twice is not darker.
    """
    fill, opacity = dots[0].attrib["fill"], dots[0].get("fill-opacity")
    places = [(float(dot.attrib["cx"]), float(dot.attrib["cy"])) for dot in dots]
    layers = apart(places, 2 * float(r)) if opacity else [places]
    drawn = {"fill": "none", "stroke": fill, "stroke-linecap": "round", "stroke-width": rounded(f"{2 * float(r):.3f}")}
    drawn |= {"stroke-opacity": opacity} if opacity else {}
    return [Element(PATH, {"d": dot_path(layer)} | drawn) for layer in layers]
