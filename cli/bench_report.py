"""The report of a benchmark."""

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from lrq_deploy.export.latency import Benchmark, Distribution

__all__ = ["print_benchmark"]

_KIB = 1024.0


def print_benchmark(console: Console, found: Benchmark) -> None:
    """Print latencies, sizes and memory.

    Args:
        console: where to write; lines stay within its width.
        found: what was measured.
    """
    options = found.options
    threads = "1 thread" if options.threads == 1 else f"{options.threads} threads"
    console.print(
        f"{found.runtime}, {threads}, {found.cpu}, {options.runs} interleaved runs",
        highlight=False,
        markup=False,
    )
    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    table.add_column("batch", justify="right")
    table.add_column("graph")
    for heading in ("p50 ms", "p90 ms", "p99 ms"):
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_column("ratio", justify="right")
    table.add_column("images/s", justify="right")
    for batch in found.batches:
        table.add_row(str(batch.batch_size), "float", *_times(batch.float_graph), "", "")
        ratio, speed = f"{batch.ratio:.3f}", f"{batch.images_per_second:,.0f}"
        table.add_row("", "quantized", *_times(batch.quantized), ratio, speed)
    console.print(table)
    sizes = (found.float_bytes, found.quantized_bytes)
    console.print(_line("file", *sizes), highlight=False)
    if found.float_memory_bytes is not None and found.quantized_memory_bytes is not None:
        memory = (found.float_memory_bytes, found.quantized_memory_bytes)
        console.print(_line("peak memory", *memory), highlight=False)


def _times(found: Distribution) -> tuple[str, ...]:
    return tuple(f"{ms:.3f}" for ms in (found.p50_ms, found.p90_ms, found.p99_ms))


def _line(what: str, before: int, after: int) -> str:
    ratio = f", {before / after:.1f} x smaller" if after else ""
    return f"{what}: float {_size(before)}, quantized {_size(after)}{ratio}"


def _size(count: int) -> str:
    if count < _KIB * _KIB:
        return f"{count / _KIB:.1f} KiB"
    return f"{count / _KIB / _KIB:.2f} MiB"
