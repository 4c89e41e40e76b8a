"""`make asm`: the machine code of a kernel, and refusals."""

import os
import re
import subprocess
import sys

import pytest

from scripts import asm
from tests.conventions import ROOT

ASSEMBLY = """entry:
\tmovabsq\t$memset, %rbp
.LBB0_1:
\tmovl\t(%rdi), %eax
.LBB0_2:
\tvpaddq\t%ymm1, %ymm0, %ymm0
\tpause
\tcmpq\t%r8, %rsi
\tjne\t.LBB0_2
\tcallq\t*%rbp
\tjmp\t.LBB0_1
.LBB0_4:
\tdecq\t%rax
\tjne\t.LBB0_4
\tcallq\t_ZN7kernels5parse5parseB3v24@PLT
\tcallq\t*8(%rax)
\tcallq\tNRT_incref
\tvmovdqu\t%ymm0, (%rdi)
\tretq
"""


def test_loops_vectors_and_calls_are_counted():
    name, instructions, vectors, loops, on_vectors, calls = asm.Made("f", "", ASSEMBLY).row()
    assert (name, instructions, vectors, loops, on_vectors) == ("f", 15, 1, 2, 1)
    assert calls == "memset, kernels.parse.parse, an address, NRT_incref"


def make_asm(kernel, tmp_path, **environment):
    program = "import sys, pathlib; from scripts import asm;"
    program += "sys.exit(asm.main(sys.argv[2:], pathlib.Path(sys.argv[1])))"
    return subprocess.run(
        [sys.executable, "-c", program, tmp_path / "asm", *kernel],
        cwd=ROOT,
        env=os.environ | environment,
        capture_output=True,
        text=True,
        check=False,
    )


def rows(done):
    lines = [line.split() for line in done.stdout.splitlines()]
    return {line[0]: line[1:] for line in lines if line[0].startswith("kernels.")}


@pytest.mark.compiled
def test_a_function(tmp_path):
    done = make_asm(["ones_sum"], tmp_path)
    assert done.returncode == 0, done.stderr
    ((name, line),) = rows(done).items()
    instructions, vectors, loops, on_vectors, calls = line
    assert name == "kernels.checksum.internet.ones_sum" and calls == "nothing"
    assert int(instructions) > 20 and int(vectors) > 5 and int(loops) >= int(on_vectors) >= 1
    llvm, assembly = ((tmp_path / "asm" / f"ones_sum.{ending}").read_text() for ending in ("ll", "s"))
    assert llvm.startswith("; kernels.checksum.internet.ones_sum\ndefine ") and " x i64>" in llvm
    assert assembly.startswith("# kernels.checksum.internet.ones_sum\n") and "\tret" in assembly


@pytest.mark.compiled
def test_a_module(tmp_path):
    done = make_asm(["bucket"], tmp_path)
    assert done.returncode == 0, done.stderr
    made = rows(done)
    assert {
        "kernels.meter.bucket.meter_rx",
        "kernels.meter.bucket.meter_tx",
        "kernels.meter.bucket.paid_time",
    } <= set(made)
    assert {line[-1] for line in made.values()} == {"nothing"}, "a kernel calls nothing"
    llvm, assembly = ((tmp_path / "asm" / f"bucket.{ending}").read_text() for ending in ("ll", "s"))
    assert llvm.count("\ndefine ") == assembly.count("# kernels.meter.bucket.") == len(made)


@pytest.mark.compiled
def test_with_bounds_checked_it_is_another_file(tmp_path):
    done = make_asm(["admit"], tmp_path, NUMBA_BOUNDSCHECK="1")
    assert done.returncode == 0, done.stderr
    assert "kernels.switch.forward.admit" in rows(done)
    assert sorted(path.name for path in (tmp_path / "asm").iterdir()) == [
        "admit.checked.ll",
        "admit.checked.s",
    ]


@pytest.mark.compiled
@pytest.mark.parametrize("name", ["chksum", "../checksum", "jit", "layout", "make_asm"])
def test_a_wrong_name_is_refused_with_those_there_are(name):
    text = f"KERNEL={name}: no such module or function of kernels/; modules: acl.filter, acl.match, "
    with pytest.raises(ValueError, match=re.escape(text)) as caught:
        asm.chosen(name)
    assert "; functions: admit, " in str(caught.value) and " layout" not in str(caught.value)


@pytest.mark.compiled
@pytest.mark.parametrize("kernel", [["chksum"], [""]])
def test_a_refusal_writes_nothing(kernel, tmp_path):
    done = make_asm(kernel, tmp_path)
    assert done.returncode == 2 and done.stderr.startswith("asm: ") and "acl.filter, acl.match" in done.stderr
    assert "Traceback" not in done.stderr and not (tmp_path / "asm").exists()
