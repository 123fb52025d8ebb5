"""The default length of a repetition fits the context and the text."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from neuronlab.repeat_length import SHORTEST, repeat_length


def test_a_configured_length_is_taken_as_it_is():
    assert repeat_length(7, n_ctx=5) == 7


def test_without_limits_it_is_the_studies_length():
    assert repeat_length(None, n_ctx=None) == repeat_length(None, n_ctx=1024) == 100


@given(
    n_ctx=st.integers(20, 400), repetitions=st.integers(2, 3), between=st.integers(0, 3), available=st.integers(4, 300)
)
def test_it_is_the_longest_that_fits(n_ctx, repetitions, between, available):
    def fits(length: int) -> bool:
        return 1 + repetitions * length + (repetitions - 1) * between <= n_ctx and length <= min(available, 100)

    length = repeat_length(None, n_ctx=n_ctx, repetitions=repetitions, between=between, available=available)
    assert fits(length) or length == SHORTEST
    assert not fits(length + 1)
