"""Neurons that regulate a language model's confidence: the library behind the workflow's rules."""

import gc

# The libraries that a job imports make a million objects that stay to its end. At Python's own thresholds a fifth of
# the time of importing them goes into looking for garbage among them.
gc.set_threshold(50_000, 20, 50)
