"""A device with ``trtexec`` alone, which builds, runs and times the engine by ``build.sh``."""

import shlex
from dataclasses import dataclass

from torch import Tensor

from lrq_deploy.errors import OptionError
from lrq_deploy.export.bundle.folder import Bundle
from lrq_deploy.export.device.check import CheckRuns
from lrq_deploy.export.device.folder import Contents, check_runs
from lrq_deploy.export.engine.from_bundle import graph_of, with_half_rest
from lrq_deploy.export.engine.options import (
    EngineOptions,
    batch_shape,
    check_batch,
    trtexec_arguments,
)
from lrq_deploy.student.frozen import QuantizedModel

__all__ = ["ENGINE_NAME", "SCRIPT_NAME", "TrtexecKit", "build_script"]

SCRIPT_NAME = "build.sh"
ENGINE_NAME = "model.engine"


@dataclass(frozen=True)
class TrtexecKit:
    """The graph for TensorRT and ``build.sh``; needs no TensorRT.

    Attributes:
        options: of the engine.
    """

    options: EngineOptions
    runtime: str = "tensorrt"

    def __post_init__(self) -> None:
        if self.options.kind != self.runtime:
            raise OptionError(
                "--for-device is for TensorRT, which builds on the device itself, and for ONNX "
                "Runtime",
                f"--engine {self.options.kind}",
                "pass --engine tensorrt or --engine onnxruntime, or leave --for-device out",
            )

    def graph(self, bundle: Bundle) -> str:
        """The bundle's file for TensorRT.

        Raises:
            BundleError: it has none.
        """
        return graph_of(bundle).name

    def runs(self, input_shape: tuple[int, ...]) -> CheckRuns:
        """``trtexec`` takes one batch a run, and only a full one.

        Raises:
            OptionError: the batch is too large for a runtime.
        """
        check_batch(self.options.batch.largest, input_shape)
        return check_runs(self.options.batch, input_shape)

    def contents(
        self, bundle: Bundle, model: QuantizedModel, runs: CheckRuns, images: Tensor
    ) -> Contents:
        """The graph and the script.

        Raises:
            ExportError: the graph in FP16 does not pass ``onnx.checker``.
        """
        path = graph_of(bundle)
        graph = path.read_bytes()
        files = {
            path.name: with_half_rest(graph) if self.options.fp16_rest else graph,
            SCRIPT_NAME: build_script(path.name, model.input_shape, self.options, runs),
        }
        about = {"fp16_rest": self.options.fp16_rest, "batch": [*self.options.batch.sizes()]}
        return Contents(files, about)


def build_script(
    graph: str, input_shape: tuple[int, ...], options: EngineOptions, runs: CheckRuns
) -> bytes:
    """A POSIX shell script that works in the folder it lies in.

    Args:
        graph: file name of the ONNX graph beside it.
        input_shape: ``(C, H, W)``.
        options: of the engine.
        runs: the check images beside it.
    """
    # No option came or went between 10.3 and 11, where some of them are the default.
    build = [*trtexec_arguments(graph, ENGINE_NAME, input_shape, options), "--skipInference"]
    layers = ["--profilingVerbosity=detailed", "--exportLayerInfo=layers.json"]
    usual = f"--shapes=input:{batch_shape(options.batch.usual, input_shape)}"
    timing = ["--useCudaGraph", "--noDataTransfers", "--useSpinWait", "--warmUp=500"]
    filled = {
        "@BUILD@": _lines([*build, *layers]),
        "@RUNS@": " ".join(str(run) for run in range(runs.count)),
        "@SHAPE@": shlex.quote(f"--shapes=input:{batch_shape(runs.size, input_shape)}"),
        "@TIME@": _lines([usual, *timing, "--duration=5", "--exportTimes=times.json"]),
        "@USUAL@": str(options.batch.usual),
        "@IMAGES@": str(runs.size * runs.count),
    }
    text = _SCRIPT
    for mark, words in filled.items():
        text = text.replace(mark, words)
    return text.encode()


def _lines(words: list[str]) -> str:
    return " \\\n    ".join(shlex.quote(word) for word in words)


_SCRIPT = """\
#!/bin/sh
# Written by lrq-deploy. Run it on the device: it builds model.engine there, runs the check images
# through it and times it. All it needs is trtexec of TensorRT 10.3 or newer.
set -eu
unset CDPATH

trtexec=${TRTEXEC:-$(command -v trtexec || echo /usr/src/tensorrt/bin/trtexec)}
if [ ! -f "$trtexec" ] || [ ! -x "$trtexec" ]; then
    echo "build.sh needs trtexec of TensorRT; $trtexec is no program." >&2
    echo "Install it (JetPack: sudo apt install libnvinfer-bin), or say where it is:" >&2
    echo "TRTEXEC=/path/to/trtexec sh build.sh" >&2
    exit 2
fi
case $trtexec in
    /*) ;;
    *) trtexec=$PWD/$trtexec ;;
esac
cd -- "$(dirname -- "$0")"

# step LOG TITLE ARGUMENT...
step() {
    log=$1
    echo "$2"
    shift 2
    if ! "$trtexec" "$@" >"$log" 2>&1; then
        tail -n 20 "$log" >&2
        echo "build.sh: trtexec failed; all that it said is in $log." >&2
        exit 1
    fi
}

# What an earlier run left must not be taken for what this one makes.
rm -f model.engine outputs.json outputs.part.json outputs.run.json times.json layers.json

step build.log "building model.engine for this GPU, minutes at most" \\
    @BUILD@
for run in @RUNS@; do
    step run.log "running the check images of images.$run.bin" \\
        --loadEngine=model.engine @SHAPE@ \\
        "--loadInputs=input:images.$run.bin" --exportOutput=outputs.run.json \\
        --warmUp=0 --duration=0
    cat outputs.run.json >>outputs.part.json
done
rm outputs.run.json
mv outputs.part.json outputs.json
step times.log "timing batches of @USUAL@ without copies" \\
    --loadEngine=model.engine @TIME@
grep -E 'Throughput: |GPU Compute Time: ' times.log || echo "see times.log"

echo "model.engine is built; outputs.json holds its logits of @IMAGES@ check images."
echo "Copy outputs.json into this folder where lrq-deploy is, and there run:"
echo "lrq-deploy validate BUNDLE --device-outputs FOLDER"
"""
