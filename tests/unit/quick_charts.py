"""Making and drawing charts in a fraction of the time, with the same outcome.

Altair copies a chart whenever it is put into another one, and builds every object in it anew, with all the settings
that it could have; and drawing takes a tenth of a second or more. Here copies take over what is there, and a picture
that was drawn already is not drawn again.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
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


@contextmanager
def quick_charts() -> Iterator[None]:
    """What the functions were is in their `__wrapped__`."""
    import vl_convert
    from altair.utils import schemapi

    quick = {
        (schemapi, "_deep_copy"): _copying(schemapi._deep_copy, schemapi.SchemaBase),
        (vl_convert, "vegalite_to_svg"): _remembering(vl_convert.vegalite_to_svg),
        (vl_convert, "svg_to_png"): _remembering(vl_convert.svg_to_png),
    }
    before = {place: getattr(*place) for place in quick}
    for (module, name), function in quick.items():
        setattr(module, name, function)
    yield
    for (module, name), function in before.items():
        setattr(module, name, function)
