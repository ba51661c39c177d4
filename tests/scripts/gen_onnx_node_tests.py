#!/usr/bin/env python3
"""Writes the ONNX backend tests of the operators that goshawk imports, for tests/tests/onnx_backend.rs.

Usage: gen_onnx_node_tests.py [FOLDER]   (default: target/onnx-node-tests beside this repository's Cargo.toml)

Takes the node tests that the `onnx` package generates (without the `_expanded` forms, which test function bodies) and
the recorded `simple`, `pytorch-converted` and `pytorch-operator` models inside its wheel. One folder per case:
model.onnx, input_K.pb, output_K.pb and tolerance.txt (relative, absolute).
"""

import pathlib
import shutil
import sys

import onnx
from onnx import numpy_helper

OPERATORS = set(
    """
    Conv BatchNormalization Gemm MatMul Relu Clip LeakyRelu PRelu HardSwish HardSigmoid Sigmoid Tanh Gelu Mish Softplus
    Erf Exp Log Sqrt Abs Neg Reciprocal Elu Selu Celu Floor Ceil Round Softmax LogSoftmax Add Sub Mul Div Pow Min Max Sum
    Mean Mod Equal Less LessOrEqual Greater GreaterOrEqual And Or Not Where MaxPool AveragePool GlobalAveragePool
    GlobalMaxPool ReduceMean ReduceMax ReduceMin ReduceSum ReduceProd Reshape Flatten Squeeze Unsqueeze Expand Shape Size
    Transpose Concat DepthToSpace SpaceToDepth Tile Slice Split Gather Pad Resize Upsample Identity Dropout Cast CastLike
    Constant ConstantOfShape Range
    """.split()
)


def supported(model):
    return all(n.op_type in OPERATORS and n.domain in ("", "ai.onnx") for n in model.graph.node)


def tensor(value, name):
    """A TensorProto, or None for sequences, maps and absent values."""
    if isinstance(value, onnx.TensorProto):
        return value
    if value is None or isinstance(value, (list, dict)):
        return None
    return numpy_helper.from_array(value, name)


def write(folder, model, inputs, outputs, rtol, atol):
    folder.mkdir(parents=True)
    (folder / "model.onnx").write_bytes(model.SerializeToString())
    for kind, tensors in (("input", inputs), ("output", outputs)):
        for i, t in enumerate(tensors):
            (folder / f"{kind}_{i}.pb").write_bytes(t.SerializeToString())
    (folder / "tolerance.txt").write_text(f"{rtol} {atol}\n")


def node_cases():
    from onnx.backend.test.case.node import collect_testcases

    for case in collect_testcases(None):
        if case.name.endswith("_expanded") or "_expanded_ver" in case.name or not supported(case.model):
            continue
        inputs, outputs = case.data_sets[0]
        graph = case.model.graph
        inputs = [tensor(v, i.name) for v, i in zip(inputs, graph.input)]
        outputs = [tensor(v, o.name) for v, o in zip(outputs, graph.output)]
        if None not in inputs and None not in outputs:
            yield case.name, case.model, inputs, outputs, case.rtol, case.atol


def recorded_cases():
    data = pathlib.Path(onnx.__file__).parent / "backend" / "test" / "data"
    for kind in ("simple", "pytorch-converted", "pytorch-operator"):
        for folder in sorted((data / kind).glob("test_*")):
            model = onnx.load(folder / "model.onnx")
            first = folder / "test_data_set_0"
            if not supported(model) or not first.is_dir():
                continue

            def load(what):
                files = sorted(first.glob(f"{what}_*.pb"), key=lambda p: int(p.stem.split("_")[1]))
                return [onnx.TensorProto.FromString(p.read_bytes()) for p in files]

            # As onnx.backend.test.loader gives them to recorded models.
            yield f"{folder.name}_{kind.replace('-', '_')}", model, load("input"), load("output"), 1e-3, 1e-7


def main():
    root = pathlib.Path(__file__).resolve().parents[2]
    target = pathlib.Path(sys.argv[1]) if len(sys.argv) > 1 else root / "target" / "onnx-node-tests"
    stamp = target / "stamp.txt"
    version = f"onnx {onnx.__version__}, {len(OPERATORS)} operators\n"
    if stamp.is_file() and stamp.read_text() == version:
        print(f"{target}: up to date")
        return
    shutil.rmtree(target, ignore_errors=True)
    count = 0
    for name, *rest in [*node_cases(), *recorded_cases()]:
        write(target / name, *rest)
        count += 1
    stamp.write_text(version)
    print(f"{target}: {count} cases of {version.strip()}")


if __name__ == "__main__":
    main()
