"""The fused kernel for GPUs compiled ahead for two of them, which needs none: types, registers, nothing spilled."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

triton = pytest.importorskip("triton", reason="Triton, which compiles the fused kernel, is not installed")

ROOT = Path(__file__).parents[2]
REGISTERS = 128  # per thread: two programs of 8 warps on a multiprocessor
# The launches of an ablation (four variants, total and unigram ranked; rows aligned or not), of doses (all ranked), of
# one neuron and one variant. In a process of its own, because the interpreter takes the compiler's place in the others.
COMPILE = """
import sys
from pathlib import Path
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from neuronlab.kernels import triton_kernel as kernel

folder = Path(sys.argv[1])
numbers = dict.fromkeys(("tokens", "neurons", "vocab", "token_stride", "row_stride"), "i32")
outputs = {"targets": "*i64", "s_out": "*fp64", "h_out": "*fp64", "rank_out": "*i32", "top_out": "*i32"}
signature = dict.fromkeys(("z", "U", "g", "p", "lp", "A", "B", "C", "K"), "*fp32") | outputs | numbers
names = kernel._sums.arg_names
LAUNCHES = ((4, 8, 9, 8, 0), (4, 8, 9, 8, 1), (4, 0, 15, 8, 0), (1, 0, 1, 1, 0))
for arch in (80, 90):
    for variants, frozen, ranked, rows, aligned in LAUNCHES:
        sizes = {"ROWS": rows, "IDS": kernel.TILE // rows, "CHUNK": kernel.CHUNK}
        constants = {"VARIANTS": variants, "FROZEN": frozen, "RANKED": ranked} | sizes
        kinds = signature | dict.fromkeys(constants, "constexpr")
        hints = ("z", "U", "g", "p", "lp", *(("vocab", "row_stride") if aligned else ()))
        attributes = {(names.index(name),): [["tt.divisibility", 16]] for name in hints}
        source = ASTSource(kernel._sums, kinds, constants, attributes)
        options = {"num_warps": kernel.WARPS, "maxnreg": kernel.REGISTERS}
        made = triton.compile(source, target=GPUTarget("cuda", arch, 32), options=options)
        name = "_".join(map(str, (f"sm.{arch}" + "a" * (arch == 90), variants, frozen, ranked, rows, aligned)))
        (folder / f"{name}.ptx").write_text(made.asm["ptx"])
"""


def test_the_compiler_takes_it_and_spills_nothing(tmp_path: Path) -> None:
    environment = os.environ | {
        "TRITON_INTERPRET": "0",
        "TRITON_CACHE_DIR": str(tmp_path / "cache"),
        "PYTHONPATH": os.pathsep.join([str(ROOT / "workflow_scripts"), os.environ.get("PYTHONPATH", "")]),
    }
    assembler = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "ptxas"
    if not assembler.is_file():
        pytest.skip("this build of Triton has no assembler for NVIDIA GPUs")
    done = subprocess.run(
        [sys.executable, "-c", COMPILE, str(tmp_path)], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    made = sorted(tmp_path.glob("*.ptx"))
    assert len(made) == 8
    for file in made:
        architecture = file.stem.split("_")[0].replace(".", "_")
        command = [assembler, "-v", f"--gpu-name={architecture}", file, "-o", tmp_path / "cubin"]
        report = subprocess.run(command, capture_output=True, text=True, check=True).stderr
        assert int(re.search(r"Used (\d+) registers", report).group(1)) <= REGISTERS
        assert "0 bytes spill stores, 0 bytes spill loads" in report, f"{file.stem}: {report}"
        assert "fma.rn.f32" in file.read_text()
