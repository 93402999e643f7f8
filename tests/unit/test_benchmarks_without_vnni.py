"""``benchmarks/without_vnni.py``: what CPUs say of themselves, the table, and a real emulator."""

import argparse
import platform
import shutil
import sys
from pathlib import Path
from types import ModuleType

import pytest
from support.benchmark_scripts import benchmark_script

from lrq_deploy.errors import OptionError
from lrq_deploy.export.parity.bounds import Bound
from lrq_deploy.export.parity.compare import Parity

pytestmark = pytest.mark.unit

EQUAL = Parity(100, 1.0, 1.0, 1.0, 0.0, 0.0)
X86_LINUX = sys.platform == "linux" and platform.machine() == "x86_64"


@pytest.fixture
def runner(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    return benchmark_script("graph_runner", monkeypatch)


@pytest.fixture
def emulated_cpu(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    return benchmark_script("emulated_cpu", monkeypatch)


@pytest.fixture
def without_vnni(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    return benchmark_script("without_vnni", monkeypatch)


def test_features_are_read_from_their_bits(runner: ModuleType) -> None:
    leaves = {
        (0, 0): [7, 0, 0, 0],
        (1, 0): [0, 0, 1 << 12, 0],
        (7, 0): [0, 1 << 5 | 1 << 16, 1 << 11, 0],
        # Without sub-leaves the CPU answers with whatever it likes.
        (7, 1): [1 << 4, 0, 0, 0],
        (0x80000000, 0): [0, 0, 0, 0],
    }
    said = runner.describe(lambda leaf, subleaf: leaves[leaf, subleaf])
    assert said == {"name": "", "features": ["fma", "avx2", "avx512f", "avx512_vnni"]}


@pytest.mark.skipif(not X86_LINUX, reason="CPUID is an instruction of x86")
def test_this_cpu_says_what_the_kernel_says_of_it(runner: ModuleType) -> None:
    said = runner.describe(runner.cpuid())
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    flags = next(line for line in lines if line.startswith("flags")).split()
    model = next(line for line in lines if line.startswith("model name"))
    assert said["name"] == model.partition(":")[2].strip()
    # The kernel may hide a feature that the instruction shows, never the other way.
    assert {flag for flag in flags if flag in runner.FEATURES} <= set(said["features"])


def test_a_missing_emulator_is_named_with_the_remedy(emulated_cpu: ModuleType) -> None:
    with pytest.raises(OptionError, match=r"no program no-such-qemu; run apt-get install"):
        emulated_cpu.find_emulator("no-such-qemu")


def test_a_cpu_that_shows_nothing_is_refused(emulated_cpu: ModuleType) -> None:
    exact = emulated_cpu.PROBE_SUM
    for features, probe in ((("avx2", "avx_vnni"), exact - 1), (("avx2",), exact)):
        cpu = emulated_cpu.Cpu((), "some CPU", features, probe)
        with pytest.raises(OptionError, match="some CPU, CPUID: avx2"):
            emulated_cpu.check_emulated(cpu, "model")
    emulated_cpu.check_emulated(emulated_cpu.Cpu((), "", ("avx2",), exact - 1), "model")


@pytest.mark.skipif(not X86_LINUX, reason="CPUID is an instruction of x86")
def test_this_machine_adds_the_probe_up(emulated_cpu: ModuleType) -> None:
    cpu = emulated_cpu.look(())
    if emulated_cpu.VNNI.isdisjoint(cpu.features):
        pytest.skip("this CPU has no VNNI; its kernels may saturate")
    assert cpu.probe == emulated_cpu.PROBE_SUM == 2_072_640


def test_an_emulated_cpu_without_vnni_saturates(emulated_cpu: ModuleType) -> None:
    emulator = shutil.which("qemu-x86_64")
    if emulator is None or not X86_LINUX:
        pytest.skip("needs qemu-x86_64 (apt-get install qemu-user) on x86 Linux")
    cpu = emulated_cpu.look((emulator, "-cpu", "Haswell-noTSX"))
    if "avx2" not in cpu.features:
        pytest.skip(f"this emulator has no AVX2: {cpu.describe()}")
    emulated_cpu.check_emulated(cpu, "Haswell-noTSX")
    # Pairs stop at 32,767 instead of 2 * 255 * 127.
    assert cpu.probe == emulated_cpu.PROBE_TERMS // 2 * 32_767


def test_a_row_states_both_cpus_and_the_exact_student(without_vnni: ModuleType) -> None:
    moved = Parity(1000, 0.9, 0.1, 0.05, 2.5, 0.1)
    static = without_vnni.Row("net", "quantize_static", moved, None, Bound(), 10.0, (0.88, 0.8))
    assert static.markdown() == (
        "| net | quantize_static | 1000 | 90.00 | 5.00 | 25 % | - | - | 88.00 | 80.00 |"
    )
    ours = without_vnni.Row("net", "w4a4", EQUAL, EQUAL, Bound(), 10.0, None)
    assert ours.markdown() == "| net | w4a4 | 100 | 100.00 | 100.00 | 0 | 100.00 | 100.00 | - | - |"
    assert ours.markdown().count("|") == without_vnni.HEADER.splitlines()[1].count("|")


def test_only_our_graphs_have_a_bound(without_vnni: ModuleType) -> None:
    worse = Parity(1000, 0.998, 0.98, 0.98, 1.0, 0.1)
    narrow = without_vnni.Graph("w4a4-ort", Path("model.onnx")).bound
    wide = without_vnni.Graph("w8a8", Path("model.onnx")).bound
    assert (narrow.same_rows, wide.same_rows, wide.same_top1) == (0.99, 0.0, 0.999)
    row = without_vnni.Row
    assert not row("net", "w8a8", EQUAL, worse, wide, 10.0, None).holds
    assert row("net", "quantize_static", worse, None, wide, 10.0, None).holds


def test_the_command_stops_where_a_bound_is_missed(
    without_vnni: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    worse = Parity(1000, 0.5, 0.5, 0.5, 1.0, 0.1)
    row = without_vnni.Row("net", "w8a8", worse, worse, Bound(), 10.0, None)
    monkeypatch.setattr(without_vnni, "_options", argparse.Namespace)
    monkeypatch.setattr(without_vnni, "run", lambda _: iter([row]))
    with pytest.raises(SystemExit, match=r"missed: net w8a8: top-1 >= 99.9 %"):
        without_vnni.main()
