"""Making and drawing charts in a fraction of the time, with the same outcome.

Altair copies a chart whenever it is put into another one, builds every object in it anew with all the settings that it
could have, lists its hundreds of classes for every encoding, and checks a whole chart against its grammar, which takes
longer than drawing it. Here copies take over what is there, and what was listed, checked or drawn already is not
listed, checked or drawn again.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache, wraps
from typing import Any


def _copying(slow: Callable[[Any, set[str]], Any], base: type) -> Callable[[Any, set[str]], Any]:
    """A function that returns what Altair's own does."""
    plain = (list, dict, base)

    @wraps(slow)
    def copy(obj: Any, by_ref: set[str]) -> Any:
        if isinstance(obj, base):
            kind = type(obj)
            if own := getattr(kind, "__deepcopy__", None):
                return own(obj, {})
            made = kind.__new__(kind)
            arguments = tuple(copy(a, by_ref) if isinstance(a, plain) else a for a in obj._args)
            object.__setattr__(made, "_args", arguments)
            object.__setattr__(made, "_kwds", copy(obj._kwds, by_ref))
            return made
        if isinstance(obj, list):
            return [copy(v, by_ref) if isinstance(v, plain) else v for v in obj]
        if isinstance(obj, dict):
            return {k: copy(v, by_ref) if isinstance(v, plain) and k not in by_ref else v for k, v in obj.items()}
        return obj

    return copy


def _remembering(draw: Callable[..., Any]) -> Callable[..., Any]:
    """The function, asked once for the same arguments."""
    drawn: dict[str, Any] = {}

    @wraps(draw)
    def remembered(*arguments: Any, **keywords: Any) -> Any:
        key = json.dumps([arguments, keywords])
        if key not in drawn:
            drawn[key] = draw(*arguments, **keywords)
        return drawn[key]

    return remembered


def _listing(slow: type) -> Callable[..., Any]:
    """Objects of the class, one for the same classes."""
    made = cache(lambda *classes: slow(classes))
    return lambda classes: made(*classes)


def _checking(slow: Callable[..., list]) -> Callable[..., list]:
    """The function, asked once for the same specification and the same grammar."""
    found: dict[tuple[str, int, int], tuple[list, Any, Any]] = {}

    @wraps(slow)
    def checked(spec: Any, schema: dict[str, Any], rootschema: dict[str, Any] | None = None) -> list:
        key = (json.dumps(spec, default=id), id(schema), id(rootschema))
        if key not in found:
            found[key] = (slow(spec, schema, rootschema=rootschema), schema, rootschema)  # alive, so that ids last
        return found[key][0]

    return checked


@contextmanager
def quick_charts() -> Iterator[None]:
    """What the functions were is in their `__wrapped__`."""
    import vl_convert
    from altair.utils import schemapi

    quick = {
        (schemapi, "_deep_copy"): _copying(schemapi._deep_copy, schemapi.SchemaBase),
        (schemapi, "_get_errors_from_spec"): _checking(schemapi._get_errors_from_spec),
        (schemapi, "_FromDict"): _listing(schemapi._FromDict),
        (vl_convert, "vegalite_to_svg"): _remembering(vl_convert.vegalite_to_svg),
        (vl_convert, "svg_to_png"): _remembering(vl_convert.svg_to_png),
    }
    before = {place: getattr(*place) for place in quick}
    for (module, name), function in quick.items():
        setattr(module, name, function)
    yield
    for (module, name), function in before.items():
        setattr(module, name, function)
