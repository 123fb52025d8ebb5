"""Float32 building blocks that LLVM turns into vector code: fused multiply-add, powers of two, 2^r - 1.

`np.exp` inside a numba loop is a call per element; these few instructions run on 8 or 16 numbers at once.
Everything is in base 2, so that the reduction to |r| <= 1/2 is exact:
2^y - 1 = 2^k (2^r - 1) + (2^k - 1), k = round(y), r = y - k.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from llvmlite import ir
from numba import njit, types
from numba.extending import intrinsic

from neuronlab.kernels.polynomial import EXP2M1_RATIO

LOG2_E = math.log2(math.e)
LN_2 = math.log(2.0)

P0, P1, P2, P3, P4, P5 = EXP2M1_RATIO


@intrinsic
def fma(typing: Any, a: Any, b: Any, c: Any) -> Any:
    """a * b + c with one rounding, written out so that a number never depends on how a loop was compiled."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.fma(*args)

    return a(a, b, c), generate


@intrinsic
def power_of_two(typing: Any, k: Any) -> Any:
    """2^k as a float32 from an int32 in [-126, 127], by writing the exponent."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        integer = ir.IntType(32)
        exponent = builder.add(args[0], ir.Constant(integer, 127))
        return builder.bitcast(builder.shl(exponent, ir.Constant(integer, 23)), ir.FloatType())

    return types.float32(types.int32), generate


@njit(inline="always")
def exp2m1_ratio(r: np.float32) -> np.float32:
    """(2^r - 1) / r for |r| <= 1/2."""
    return fma(fma(fma(fma(fma(P5, r, P4), r, P3), r, P2), r, P1), r, P0)


@njit(inline="always")
def exp2m1(y: np.float32) -> np.float32:
    """2^y - 1 for |y| <= 126, to 2e-7 of its value."""
    k = np.rint(y)
    r = y - k
    scale = power_of_two(np.int32(k))
    return fma(scale, r * exp2m1_ratio(r), scale - np.float32(1))


@intrinsic
def bits(typing: Any, x: Any) -> Any:
    """The bit pattern of a float32 as an int32."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.bitcast(args[0], ir.IntType(32))

    return types.int32(types.float32), generate


@njit(inline="always")
def ordered(x: np.float32) -> np.int32:
    """An int32 that orders as the float does, -0 just below 0: integer maxima become vector code, float ones do not."""
    pattern = bits(x)
    return np.int32(pattern ^ ((pattern >> np.int32(31)) & np.int32(0x7FFFFFFF)))
