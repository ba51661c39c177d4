"""Writes an int8 .tflite of a float ONNX network, so that LiteRT can take part without TensorFlow.

What TensorFlow's converter would make: NHWC, int8 activations with one scale each, int8 weights per output channel, int32
biases, activations fused, float input and output (https://ai.google.dev/edge/litert/models/quantization_spec). Ranges are
the extremes on the calibration set. Padding that TFLite cannot name becomes SAME: the same work, so the latency is right
while results differ slightly from the ONNX network; only latency is measured here.
"""

import numpy as np
import onnx
import onnxruntime
from ai_edge_litert import schema_py_generated as schema
from onnx import numpy_helper
import flatbuffers

FLOAT32, INT32, INT8 = 0, 2, 9
OPS = schema.BuiltinOperator
OPTIONS = schema.BuiltinOptions
VERSIONS = {OPS.CONV_2D: 3, OPS.DEPTHWISE_CONV_2D: 3, OPS.FULLY_CONNECTED: 4, OPS.DEQUANTIZE: 2, OPS.QUANTIZE: 1}


def ranges(model, samples):
    """Smallest and largest value of every tensor."""
    model = onnx.ModelProto.FromString(model.SerializeToString())
    names = [n.output[0] for n in model.graph.node]
    del model.graph.output[:]
    model.graph.output.extend(onnx.helper.make_empty_tensor_value_info(n) for n in names)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    found = {"input": (float(samples.min()), float(samples.max()))}
    for sample in samples:
        for name, value in zip(names, session.run(names, {"input": sample[None]})):
            low, high = found.get(name, (0.0, 0.0))
            found[name] = (min(low, float(value.min())), max(high, float(value.max())))
    return found


class Writer:
    def __init__(self, model, samples):
        self.graph = model.graph
        self.ranges = ranges(model, samples)
        self.constants = {c.name: numpy_helper.to_array(c) for c in self.graph.initializer}
        shaped = onnx.shape_inference.infer_shapes(model).graph
        self.shapes = {
            v.name: [d.dim_value for d in v.type.tensor_type.shape.dim]
            for v in [*shaped.value_info, *shaped.input, *shaped.output]
        }
        self.users = {}
        for node in self.graph.node:
            for name in node.input:
                self.users.setdefault(name, []).append(node)
        self.tensors, self.buffers, self.operators, self.codes = [], [buffer(b"")], [], []
        self.grids, self.index = {}, {}
        self.share_grids()

    def share_grids(self):
        """Pools, concatenation and reshapes keep the grid: all their tensors share one range."""
        parent = {}

        def root(name):
            while parent.get(name, name) != name:
                name = parent[name]
            return name

        for node in self.graph.node:
            if node.op_type in ("MaxPool", "AveragePool", "Concat", "Flatten"):
                for name in node.input:
                    parent[root(name)] = root(node.output[0])
        # An activation that is fused has the range behind it.
        for node in self.graph.node:
            fused = self.activation(node)
            if fused is not None:
                parent[root(node.output[0])] = root(fused.output[0])
                self.ranges[node.output[0]] = self.ranges[fused.output[0]]
        merged = {}
        for name, (low, high) in self.ranges.items():
            a, b = merged.get(root(name), (0.0, 0.0))
            merged[root(name)] = (min(a, low), max(b, high))
        for name in self.ranges:
            low, high = merged[root(name)]
            scale = max(high - low, 1e-6) / 255
            self.grids[name] = (scale, int(np.clip(round(-128 - low / scale), -128, 127)))

    def activation(self, node):
        """The Relu or Clip that is the only reader of a convolution, linear layer or sum."""
        users = self.users.get(node.output[0], [])
        ok = node.op_type in ("Conv", "Gemm", "Add") and len(users) == 1 and users[0].op_type in ("Relu", "Clip")
        return users[0] if ok else None

    def tensor(self, name, shape, dtype, scale=None, zero=None, data=None, axis=0):
        if name in self.index:
            return self.index[name]
        t = schema.TensorT()
        t.name, t.shape, t.type, t.buffer = name, [int(d) for d in shape], dtype, 0
        if data is not None:
            t.buffer = len(self.buffers)
            self.buffers.append(buffer(np.ascontiguousarray(data).tobytes()))
        if scale is not None:
            q = schema.QuantizationParametersT()
            q.scale = np.atleast_1d(np.asarray(scale, np.float32))
            q.zeroPoint = np.broadcast_to(np.asarray(zero, np.int64), q.scale.shape).copy()
            q.quantizedDimension = axis
            t.quantization = q
        self.index[name] = len(self.tensors)
        self.tensors.append(t)
        return self.index[name]

    def value(self, name):
        shape = self.shapes[name]
        if len(shape) == 4:
            shape = [shape[i] for i in (0, 2, 3, 1)]
        return self.tensor(name, shape, INT8, *self.grids[name])

    def op(self, code, inputs, outputs, options=None, kind=OPTIONS.NONE):
        if code not in self.codes:
            self.codes.append(code)
        o = schema.OperatorT()
        o.opcodeIndex, o.inputs, o.outputs = self.codes.index(code), inputs, outputs
        o.builtinOptions, o.builtinOptionsType = options, kind
        self.operators.append(o)

    def weights(self, node, w, axis):
        """Weights and bias, quantized per output channel, which runs along `axis`."""
        others = tuple(i for i in range(w.ndim) if i != axis)
        scale = np.maximum(np.abs(w).max(others), 1e-8) / 127
        shape = [1] * w.ndim
        shape[axis] = -1
        q = np.clip(np.round(w / scale.reshape(shape)), -127, 127).astype(np.int8)
        name = node.name
        weights = self.tensor(f"{name}_w", q.shape, INT8, scale, 0, q, axis)
        bias_scale = scale * self.grids[node.input[0]][0]
        b = np.round(self.constants[node.input[2]] / bias_scale).astype(np.int32)
        return weights, self.tensor(f"{name}_b", b.shape, INT32, bias_scale, 0, b)

    def window(self, node, o):
        a = {x.name: onnx.helper.get_attribute_value(x) for x in node.attribute}
        o.strideH, o.strideW = a["strides"]
        pads = a.get("pads", [0] * 4)
        o.padding = 0 if any(pads) else 1
        for axis in (2, 3):
            size, stride = self.shapes[node.input[0]][axis], a["strides"][axis - 2]
            kernel = a["kernel_shape"][axis - 2]
            made = -(-size // stride) if any(pads) else (size - kernel) // stride + 1
            if made != self.shapes[node.output[0]][axis]:
                raise ValueError(f"{node.name}: TFLite has no such padding")
        return a

    def emit(self, node):
        fused = self.activation(node)
        act = {None: 0, "Relu": 1, "Clip": 3}[fused.op_type if fused else None]
        out = self.value((fused or node).output[0])
        x = self.value(node.input[0]) if node.op_type != "Flatten" else None
        if node.op_type == "Conv":
            w = self.constants[node.input[1]]
            depthwise = w.shape[1] == 1 and self.shapes[node.input[0]][1] == w.shape[0] > 1
            o = schema.DepthwiseConv2DOptionsT() if depthwise else schema.Conv2DOptionsT()
            self.window(node, o)
            o.fusedActivationFunction = act
            o.dilationHFactor = o.dilationWFactor = 1
            if depthwise:
                o.depthMultiplier = 1
                operands = [x, *self.weights(node, w.transpose(1, 2, 3, 0), 3)]
                self.op(OPS.DEPTHWISE_CONV_2D, operands, [out], o, OPTIONS.DepthwiseConv2DOptions)
            else:
                operands = [x, *self.weights(node, w.transpose(0, 2, 3, 1), 0)]
                self.op(OPS.CONV_2D, operands, [out], o, OPTIONS.Conv2DOptions)
        elif node.op_type == "Gemm":
            o = schema.FullyConnectedOptionsT()
            o.fusedActivationFunction = act
            operands = [x, *self.weights(node, self.constants[node.input[1]], 0)]
            self.op(OPS.FULLY_CONNECTED, operands, [out], o, OPTIONS.FullyConnectedOptions)
        elif node.op_type == "Add":
            o = schema.AddOptionsT()
            o.fusedActivationFunction = act
            self.op(OPS.ADD, [x, self.value(node.input[1])], [out], o, OPTIONS.AddOptions)
        elif node.op_type in ("MaxPool", "AveragePool"):
            o = schema.Pool2DOptionsT()
            a = self.window(node, o)
            o.filterHeight, o.filterWidth = a["kernel_shape"]
            code = OPS.MAX_POOL_2D if node.op_type == "MaxPool" else OPS.AVERAGE_POOL_2D
            self.op(code, [x], [out], o, OPTIONS.Pool2DOptions)
        elif node.op_type == "Concat":
            o = schema.ConcatenationOptionsT()
            o.axis = 3
            self.op(OPS.CONCATENATION, [self.value(n) for n in node.input], [out], o, OPTIONS.ConcatenationOptions)
        elif node.op_type == "GlobalAveragePool":
            flat = self.users.get(node.output[0], [])
            flat = flat[0] if flat and flat[0].op_type == "Flatten" else None
            o = schema.ReducerOptionsT()
            o.keepDims = flat is None
            if flat is not None:
                out = self.value(flat.output[0])
            axes = self.tensor("axes", [2], INT32, data=np.array([1, 2], np.int32))
            self.op(OPS.MEAN, [x, axes], [out], o, OPTIONS.ReducerOptions)
        else:
            raise ValueError(f"{node.op_type} is not written")

    def bytes(self):
        shape = self.shapes["input"]
        nhwc = [shape[i] for i in (0, 2, 3, 1)] if len(shape) == 4 else shape
        source = self.tensor("float_input", nhwc, FLOAT32)
        self.op(OPS.QUANTIZE, [source], [self.value("input")])
        fused = {self.activation(n).output[0] for n in self.graph.node if self.activation(n) is not None}
        for node in self.graph.node:
            if node.output[0] not in fused and node.op_type != "Flatten":
                self.emit(node)
        last = self.value("output")
        sink = self.tensor("float_output", self.tensors[last].shape, FLOAT32)
        self.op(OPS.DEQUANTIZE, [last], [sink])
        graph = schema.SubGraphT()
        graph.tensors, graph.operators, graph.name = self.tensors, self.operators, "main"
        graph.inputs, graph.outputs = [source], [sink]
        model = schema.ModelT()
        model.version, model.subgraphs, model.buffers = 3, [graph], self.buffers
        model.description = "int8"
        model.operatorCodes = []
        for code in self.codes:
            c = schema.OperatorCodeT()
            c.builtinCode, c.deprecatedBuiltinCode, c.version = code, code, VERSIONS.get(code, 2)
            model.operatorCodes.append(c)
        builder = flatbuffers.Builder(1 << 20)
        builder.Finish(model.Pack(builder), file_identifier=b"TFL3")
        return bytes(builder.Output())


def buffer(data):
    b = schema.BufferT()
    b.data = np.frombuffer(data, np.uint8) if data else None
    return b


def write(path, out, samples):
    out.write_bytes(Writer(onnx.load(path), samples).bytes())
