"""On PYTHONPATH, this makes one rule's script hold HUNGRY_MB more memory than it needs."""

import os
import sys

if any(argument.endswith(f".{os.environ['HUNGRY_RULE']}.py") for argument in sys.orig_argv):
    held = b"x" * (int(os.environ["HUNGRY_MB"]) * 2**20)
