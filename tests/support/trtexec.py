"""A ``trtexec`` for machines without a GPU: it takes the same options and answers in its form."""

import os
import sys
from pathlib import Path

__all__ = ["fake_trtexec"]

_PROGRAM = """#!{python}
import json, os, sys
from pathlib import Path

KNOWN = {{
    "onnx", "saveEngine", "stronglyTyped", "noTF32", "minShapes", "optShapes", "maxShapes",
    "memPoolSize", "profilingVerbosity", "exportLayerInfo", "skipInference", "loadEngine",
    "shapes", "loadInputs", "exportOutput", "warmUp", "duration", "useCudaGraph",
    "noDataTransfers", "useSpinWait", "exportTimes",
}}
given = dict(word.removeprefix("--").partition("=")[::2] for word in sys.argv[1:])
with open(os.environ["TRTEXEC_CALLS"], "a") as calls:
    calls.write(json.dumps(sys.argv[1:]) + "\\n")
if set(given) - KNOWN:
    sys.exit(f"[E] Unknown option: {{sorted(set(given) - KNOWN)}}")
if os.environ.get("TRTEXEC_FAILS", "never") in given:
    print("[E] Error[10]: no luck", file=sys.stderr)
    sys.exit("&&&& FAILED TensorRT.trtexec")
if "onnx" in given:
    engine = {{"shapes": [given[f"{{name}}Shapes"] for name in ("min", "max")]}}
    Path(given["saveEngine"]).write_bytes(Path(given["onnx"]).read_bytes())
    Path(given["exportLayerInfo"]).write_text("{{}}")
    Path("profile.json").write_text(json.dumps(engine))
    sys.exit(0)

def dimensions(spec):
    name, _, shape = spec.partition(":")
    assert name == "input"
    return [int(n) for n in shape.split("x")]

shape = dimensions(given["shapes"])
low, high = (dimensions(spec) for spec in json.loads(Path("profile.json").read_text())["shapes"])
if not all(a <= b <= c for a, b, c in zip(low, shape, high, strict=True)):
    sys.exit("[E] the shape is not in the profile")
if "exportTimes" in given:
    Path(given["exportTimes"]).write_text("[]")
    print("[I] Throughput: 1000 qps")
    print("[I] GPU Compute Time: min = 0.9 ms, max = 1.1 ms, mean = 1 ms, median = 1 ms")
if "exportOutput" in given:
    import numpy as np
    import onnxruntime
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(
        Path(given["loadEngine"]).read_bytes(), options, providers=["CPUExecutionProvider"]
    )
    name, _, file = given["loadInputs"].partition(":")
    data = Path(file).read_bytes()
    if len(data) != 4 * int(np.prod(shape)):
        sys.exit(f"[E] Unexpected file size for input file: {{file}}")
    images = np.frombuffer(data, "<f4").reshape(shape)
    logits = session.run(["logits"], {{name: images}})[0]
    values = ", ".join(f"{{value:.6g}}" for value in logits.ravel().tolist())
    size = "x".join(str(n) for n in logits.shape)
    Path(given["exportOutput"]).write_text(
        '[\\n  {{ "name" : "logits"\\n  , "dimensions" : "' + size + '"\\n  , "values" : [ '
        + values + " ]\\n  }}\\n]\\n"
    )
"""


def fake_trtexec(folder: Path) -> dict[str, str]:
    """Write the program into ``folder``; returns the environment in which it is found.

    ``TRTEXEC_CALLS`` names the file to which it adds its arguments, one JSON array a call. A call
    with the option that ``TRTEXEC_FAILS`` names fails.
    """
    folder.mkdir(parents=True, exist_ok=True)
    program = folder / "trtexec"
    program.write_text(_PROGRAM.format(python=sys.executable))
    program.chmod(0o755)
    calls = folder / "calls"
    calls.touch()
    path = f"{folder}{os.pathsep}{os.environ['PATH']}"
    return {**os.environ, "PATH": path, "TRTEXEC_CALLS": str(calls), "OMP_NUM_THREADS": "1"}
