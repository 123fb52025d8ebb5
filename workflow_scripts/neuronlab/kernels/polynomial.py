"""Coefficients of the short polynomial that stands for the exponential in the compiled loops, on CPUs and GPUs.

(2^r - 1)/r on [-1/2, 1/2]: degree 5 through the Chebyshev nodes, relative error below 2e-8 before rounding.
"""

from __future__ import annotations

import math

import numpy as np

_nodes = np.cos(np.pi * (np.arange(6) + 0.5) / 6)
_chebyshev = np.polynomial.chebyshev.chebfit(_nodes, np.expm1(0.5 * _nodes * math.log(2.0)) / (0.5 * _nodes), 5)
_power = np.polynomial.chebyshev.cheb2poly(_chebyshev) / 0.5 ** np.arange(6)
EXP2M1_RATIO = tuple(np.float32(c) for c in _power)  # of r^0 to r^5
