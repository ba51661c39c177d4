"""Engines of the comparison: each quantizes with its own tools, keeps the result in the cache folder, and runs from float
input to float output with preallocated buffers."""

import contextlib
import ctypes
import importlib.util
import os
import subprocess
import sysconfig
from pathlib import Path

import numpy as np

CALIBRATION = 8


class Ort:
    """ONNX Runtime: static quantization to QDQ, u8 activations, s8 weights per channel (the VNNI kernels' types)."""

    @staticmethod
    def prepare(case):
        out = case.file("ort.onnx")
        if out.exists():
            return
        from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static

        class Reader(CalibrationDataReader):
            rows = iter(case.samples()[:CALIBRATION])

            def get_next(self):
                row = next(self.rows, None)
                return None if row is None else {"input": row[None]}

        quantize_static(
            str(case.onnx), str(out), Reader(), quant_format=QuantFormat.QDQ, per_channel=True,
            activation_type=QuantType.QUInt8, weight_type=QuantType.QInt8,
        )

    def __init__(self, case, threads):
        import onnxruntime as ort

        self.version = ort.__version__
        options = ort.SessionOptions()
        options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_ALL
        self.session = ort.InferenceSession(str(case.file("ort.onnx")), options, providers=["CPUExecutionProvider"])
        binding = self.session.io_binding()
        self.x = ort.OrtValue.ortvalue_from_numpy(case.input())
        binding.bind_ortvalue_input("input", self.x)
        self.y = ort.OrtValue.ortvalue_from_shape_and_type(self.session.get_outputs()[0].shape, np.float32)
        binding.bind_ortvalue_output("output", self.y)
        self.binding = binding
        session, bound = self.session._sess, binding._iobinding
        self.run = lambda: session.run_with_iobinding(bound, None)

    def output(self):
        return self.y.numpy()


class OpenVino:
    """OpenVINO: NNCF post-training quantization (mixed preset for networks with negative activations is its default)."""

    @staticmethod
    def prepare(case):
        out = case.file("openvino.xml")
        if out.exists():
            return
        import nncf
        import openvino as ov

        data = nncf.Dataset([row[None] for row in case.samples()[:CALIBRATION]])
        model = ov.Core().read_model(str(case.onnx))
        quantized = nncf.quantize(model, data, subset_size=CALIBRATION)
        ov.save_model(quantized, str(out), compress_to_fp16=False)

    def __init__(self, case, threads):
        import openvino as ov

        self.version = ov.__version__.split("-")[0]
        config = {
            "INFERENCE_NUM_THREADS": threads,
            "NUM_STREAMS": "1",
            "PERFORMANCE_HINT": "LATENCY",
            "INFERENCE_PRECISION_HINT": "f32",
        }
        compiled = ov.Core().compile_model(str(case.file("openvino.xml")), "CPU", config)
        self.request = compiled.create_infer_request()
        self.x = ov.Tensor(case.input(), shared_memory=True)
        self.request.set_input_tensor(self.x)
        # The bound method of the C++ class: the Python wrapper converts results to numpy on each call.
        base = next(c for c in type(self.request).__mro__ if c.__module__.endswith("_pyopenvino"))
        if hasattr(base, "infer"):
            request, infer = self.request, base.infer
            with contextlib.suppress(TypeError):
                infer(request, {}, True, True)
                self.run = lambda: infer(request, {}, True, True)
                return
        self.run = lambda: (self.request.start_async(), self.request.wait())

    def output(self):
        return self.request.get_output_tensor(0).data


class LiteRt:
    """LiteRT with its XNNPACK delegate, on a model in the format of TensorFlow's converter (litert.py)."""

    @staticmethod
    def prepare(case):
        out = case.file("litert.tflite")
        if not out.exists():
            import litert

            litert.write(case.onnx, out, case.samples()[:CALIBRATION])

    def __init__(self, case, threads):
        from ai_edge_litert import interpreter
        from importlib.metadata import version

        self.version = version("ai-edge-litert")
        self.interpreter = interpreter.Interpreter(str(case.file("litert.tflite")), num_threads=threads)
        self.interpreter.allocate_tensors()
        x = case.input()
        x = np.ascontiguousarray(x.transpose(0, 2, 3, 1)) if x.ndim == 4 else x
        self.interpreter.set_tensor(self.interpreter.get_input_details()[0]["index"], x)
        inner = self.interpreter._interpreter
        self.run = inner.Invoke

    def output(self):
        y = self.interpreter.get_tensor(self.interpreter.get_output_details()[0]["index"])
        return y.transpose(0, 3, 1, 2) if y.ndim == 4 else y


class Goshawk:
    """A library compiled by goshawk, called through its C interface."""

    bits = "w8a8"

    @classmethod
    def prepare(cls, case):
        library = case.folder(cls.bits) / "libnet.so"
        if library.exists() and library.stat().st_mtime > os.path.getmtime(case.goshawk):
            return
        ranges = case.file(f"{cls.bits}.ranges")
        base = [case.goshawk]
        if not ranges.exists():
            subprocess.run(
                [*base, "calibrate", case.onnx, "--calib", case.calib, "--method", "min-max",
                 "--uniform", cls.bits, "--save-ranges", ranges],
                check=True, capture_output=True,
            )
        subprocess.run(
            [*base, "compile", case.onnx, "--ranges", ranges, "--uniform", cls.bits, "--name", "net",
             "-o", library, "--target-cpu", case.cpu],
            check=True, capture_output=True,
        )

    def __init__(self, case, threads):
        version = subprocess.run([case.goshawk, "--version"], check=True, capture_output=True, text=True).stdout
        self.version = version.split()[-1]
        self.library = ctypes.CDLL(str(case.folder(self.bits) / "libnet.so"))
        info = self.library.net_info
        info.restype = ctypes.POINTER(ctypes.c_uint64)
        # goshawk_model_info: struct_size and abi_version (32 bits each), then arena_bytes.
        arena = aligned(info()[1])
        self.x, self.y = case.input(), np.zeros(case.output_shape(), np.float32)
        pointers = [(ctypes.c_void_p * 1)(a.ctypes.data) for a in (self.x, self.y)]
        self.keep = (arena, pointers)
        run = ctypes.cast(self.library.net_run_f32, ctypes.c_void_p).value
        caller = self.caller(case.folder(self.bits))
        caller.prepare(run, *(ctypes.addressof(p) for p in pointers), arena.ctypes.data, threads)
        self.run = caller.run
        if self.run() != 0:
            raise RuntimeError("net_run_f32 failed")

    @staticmethod
    def caller(folder):
        """A compiled binding, as the other engines have: ctypes would add 0.7 µs to each run. Its pool is that of the
        generated header, as a C program uses it."""
        module = folder / "caller.so"
        subprocess.run(
            ["cc", "-O2", "-shared", "-fPIC", "-pthread", "-I", folder, "-I", sysconfig.get_paths()["include"],
             Path(__file__).with_name("caller.c"), "-o", module],
            check=True, capture_output=True,
        )
        spec = importlib.util.spec_from_file_location("caller", module)
        return importlib.util.module_from_spec(spec)

    def output(self):
        return self.y


class Goshawk67(Goshawk):
    bits = "w6a7"


class Goshawk48(Goshawk):
    bits = "w4a8"


class Goshawk44(Goshawk):
    bits = "w4a4"


def aligned(size):
    raw = np.zeros(size + 64, np.uint8)
    start = -raw.ctypes.data % 64
    return raw[start : start + size]


ENGINES = {
    "goshawk w8a8": Goshawk,
    "goshawk w6a7": Goshawk67,
    "goshawk w4a8": Goshawk48,
    "goshawk w4a4": Goshawk44,
    "OpenVINO": OpenVino,
    "LiteRT": LiteRt,
    "ONNX Runtime": Ort,
}
