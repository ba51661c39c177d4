"""The networks of the comparison, as float ONNX files: architectures from the papers, random weights, folded batch norm.

Full ImageNet weights are not freely available for all of them, and latency does not depend on their values as long as
activations look like those of trained networks. So every convolution is normalized per channel by what it yields on one
image, as batch normalization does, with random gain and offset; both are folded into weights and bias. The same seed
makes the same file.

  ResNet-18, ResNet-50   He et al., arXiv:1512.03385 (50: stride on the 3x3, "v1.5")
  MobileNetV2            Sandler et al., arXiv:1801.04381
  SqueezeNet 1.1         Iandola et al., arXiv:1602.07360
  InceptionV3            Szegedy et al., arXiv:1512.00567, 299x299 without auxiliary head
  ResNet-8, DS-CNN       Banbury et al., MLPerf Tiny, arXiv:2106.07597
  MLP                    784-512-256-10
"""

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

OPSET = 13


class Net:
    """Builds a graph and computes every value on one image as it goes."""

    def __init__(self, name, shape, seed):
        self.name, self.rng = name, np.random.default_rng(seed)
        self.nodes, self.constants, self.values, self.macs = [], [], {}, 0
        self.shape = shape
        self.values["input"] = image(self.rng, shape)

    def add(self, op, inputs, value, **attributes):
        name = f"{op.lower()}{len(self.nodes)}"
        self.nodes.append(helper.make_node(op, inputs, [name], name=name, **attributes))
        self.values[name] = value
        return name

    def constant(self, name, value):
        self.constants.append(numpy_helper.from_array(value.astype(np.float32), name))
        return name

    def act(self, x, kind):
        v = self.values[x]
        if kind == "relu":
            return self.add("Relu", [x], np.maximum(v, 0))
        if kind == "relu6":
            low, high = (self.scalar(n, c) for n, c in (("zero", 0.0), ("six", 6.0)))
            return self.add("Clip", [x, low, high], np.clip(v, 0, 6))
        return x

    def scalar(self, name, value):
        if not any(c.name == name for c in self.constants):
            self.constants.append(numpy_helper.from_array(np.array(value, np.float32), name))
        return name

    def conv(self, x, channels, kernel, stride=1, pad=None, groups=1, act="relu"):
        v = self.values[x]
        kh, kw = (kernel, kernel) if isinstance(kernel, int) else kernel
        sh, sw = (stride, stride)
        if pad is None:
            pad = (kh // 2, kw // 2)
        if isinstance(pad, int):
            pad = (pad, pad)
        pads = tuple(pad) * 2 if len(pad) == 2 else tuple(pad)  # top, left, bottom, right
        c = v.shape[1] // groups
        w = self.rng.standard_normal((channels, c, kh, kw)).astype(np.float32) / np.sqrt(c * kh * kw)
        y = convolve(v, w, (sh, sw), pads, groups)
        mean, std = y.mean((0, 2, 3)), y.std((0, 2, 3)) + 1e-3
        if y.shape[2] * y.shape[3] == 1:
            mean, std = np.zeros_like(mean), np.full_like(std, y.std() + 1e-3)
        gain = self.rng.uniform(0.6, 1.4, channels).astype(np.float32)
        bias = self.rng.normal(0.0, 0.3, channels).astype(np.float32) - mean * gain / std
        factor = (gain / std)[:, None, None, None]
        n = len(self.nodes)
        names = [x, self.constant(f"w{n}", w * factor), self.constant(f"b{n}", bias)]
        y = y * factor.reshape(1, -1, 1, 1) + bias.reshape(1, -1, 1, 1)
        self.macs += y.size * c * kh * kw
        out = self.add(
            "Conv", names, y, kernel_shape=[kh, kw], strides=[sh, sw], pads=list(pads), group=groups, dilations=[1, 1]
        )
        return self.act(out, act)

    def sum(self, a, b, act="relu"):
        return self.act(self.add("Add", [a, b], self.values[a] + self.values[b]), act)

    def concat(self, parts):
        return self.add("Concat", parts, np.concatenate([self.values[p] for p in parts], 1), axis=1)

    def pool(self, x, kind, kernel, stride, pad=0, ceil=False):
        v = self.values[x]
        fill = -np.inf if kind == "max" else 0.0
        extra = 0
        if ceil:
            size = v.shape[2] + 2 * pad - kernel
            extra = (-size) % stride
        p = np.pad(v, ((0, 0), (0, 0), (pad, pad + extra), (pad, pad + extra)), constant_values=fill)
        taps = windows(p, (kernel, kernel), (stride, stride))
        op, y = ("MaxPool", taps.max((4, 5))) if kind == "max" else ("AveragePool", taps.mean((4, 5)))
        more = {"count_include_pad": 1} if kind == "average" else {}
        return self.add(
            op, [x], y, kernel_shape=[kernel] * 2, strides=[stride] * 2, pads=[pad] * 4, ceil_mode=int(ceil), **more
        )

    def global_average(self, x):
        y = self.values[x].mean((2, 3), keepdims=True)
        pooled = self.add("GlobalAveragePool", [x], y)
        return self.add("Flatten", [pooled], y.reshape(1, -1), axis=1)

    def linear(self, x, channels, act=None):
        v = self.values[x]
        w = self.rng.standard_normal((channels, v.shape[1])).astype(np.float32) / np.sqrt(v.shape[1])
        y = v @ w.T
        w /= y.std() + 1e-3
        b = self.rng.normal(0.0, 0.1, channels).astype(np.float32)
        n = len(self.nodes)
        self.macs += w.size
        out = self.add(
            "Gemm", [x, self.constant(f"w{n}", w), self.constant(f"b{n}", b)], v @ w.T + b, transB=1
        )
        return self.act(out, act)

    def model(self, x):
        self.nodes[-1].output[0] = "output"
        out = self.values[x].shape
        graph = helper.make_graph(
            self.nodes,
            self.name,
            [helper.make_tensor_value_info("input", TensorProto.FLOAT, self.shape)],
            [helper.make_tensor_value_info("output", TensorProto.FLOAT, out)],
            self.constants,
        )
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)])
        model.ir_version = 8
        onnx.checker.check_model(model)
        return model


def image(rng, shape):
    """Noise with the 1/f spectrum of photos, mean 0 and deviation 1."""
    noise = rng.standard_normal(shape)
    if len(shape) == 4 and shape[2] > 1 and shape[3] > 1:
        fy, fx = np.fft.fftfreq(shape[2])[:, None], np.fft.fftfreq(shape[3])[None, :]
        spectrum = np.fft.fft2(noise) / np.maximum(np.hypot(fy, fx), 1.0 / max(shape[2:]))
        noise = np.fft.ifft2(spectrum).real
    noise -= noise.mean()
    return (noise / noise.std()).astype(np.float32)


def windows(padded, kernel, stride):
    taps = np.lib.stride_tricks.sliding_window_view(padded, kernel, axis=(2, 3))
    return taps[:, :, :: stride[0], :: stride[1]]


def convolve(x, w, stride, pads, groups):
    top, left, bottom, right = pads
    padded = np.pad(x, ((0, 0), (0, 0), (top, bottom), (left, right)))
    taps = windows(padded, w.shape[2:], stride)  # n c h w kh kw
    if groups == 1:
        y = np.tensordot(taps, w, ((1, 4, 5), (1, 2, 3)))
        return np.ascontiguousarray(np.moveaxis(y, 3, 1))
    assert groups == w.shape[0] == x.shape[1], "grouped convolutions are depthwise here"
    return np.einsum("nchwij,cij->nchw", taps, w[:, 0], optimize=True)


def resnet(name, seed, blocks, bottleneck):
    net = Net(name, [1, 3, 224, 224], seed)
    x = net.pool(net.conv("input", 64, 7, 2), "max", 3, 2, 1)
    for stage, count in enumerate(blocks):
        width = 64 << stage
        for block in range(count):
            stride = 2 if stage > 0 and block == 0 else 1
            out = 4 * width if bottleneck else width
            short = x
            if block == 0 and (stride != 1 or net.values[x].shape[1] != out):
                short = net.conv(x, out, 1, stride, act=None)
            if bottleneck:
                y = net.conv(net.conv(x, width, 1), width, 3, stride)
                y = net.conv(y, out, 1, act=None)
            else:
                y = net.conv(net.conv(x, width, 3, stride), width, 3, act=None)
            x = net.sum(y, short)
    return net, net.linear(net.global_average(x), 1000)


def mobilenet_v2(seed):
    net = Net("mobilenet_v2", [1, 3, 224, 224], seed)
    x = net.conv("input", 32, 3, 2, act="relu6")
    plan = [(1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1)]
    for expand, channels, count, first in plan:
        for block in range(count):
            stride = first if block == 0 else 1
            have = net.values[x].shape[1]
            y = net.conv(x, have * expand, 1, act="relu6") if expand > 1 else x
            y = net.conv(y, have * expand, 3, stride, groups=have * expand, act="relu6")
            y = net.conv(y, channels, 1, act=None)
            x = net.sum(x, y, act=None) if stride == 1 and have == channels else y
    x = net.conv(x, 1280, 1, act="relu6")
    return net, net.linear(net.global_average(x), 1000)


def squeezenet(seed):
    net = Net("squeezenet1_1", [1, 3, 224, 224], seed)

    def fire(x, squeeze, expand):
        s = net.conv(x, squeeze, 1)
        return net.concat([net.conv(s, expand, 1), net.conv(s, expand, 3)])

    x = net.pool(net.conv("input", 64, 3, 2, pad=0), "max", 3, 2, ceil=True)
    x = net.pool(fire(fire(x, 16, 64), 16, 64), "max", 3, 2, ceil=True)
    x = net.pool(fire(fire(x, 32, 128), 32, 128), "max", 3, 2, ceil=True)
    for squeeze, expand in ((48, 192), (48, 192), (64, 256), (64, 256)):
        x = fire(x, squeeze, expand)
    return net, net.global_average(net.conv(x, 1000, 1))


def inception_v3(seed):
    net = Net("inception_v3", [1, 3, 299, 299], seed)
    c = net.conv

    def a(x, pool):
        return net.concat([
            c(x, 64, 1),
            c(c(x, 48, 1), 64, 5),
            c(c(c(x, 64, 1), 96, 3), 96, 3),
            c(net.pool(x, "average", 3, 1, 1), pool, 1),
        ])

    def b(x):
        return net.concat([c(x, 384, 3, 2, pad=0), c(c(c(x, 64, 1), 96, 3), 96, 3, 2, pad=0), net.pool(x, "max", 3, 2)])

    def d7(x, n):
        y = c(c(x, n, 1), n, (1, 7))
        z = c(c(c(c(x, n, 1), n, (7, 1)), n, (1, 7)), n, (7, 1))
        return net.concat([
            c(x, 192, 1),
            c(y, 192, (7, 1)),
            c(z, 192, (1, 7)),
            c(net.pool(x, "average", 3, 1, 1), 192, 1),
        ])

    def e(x):
        y, z = c(x, 384, 1), c(c(x, 448, 1), 384, 3)
        return net.concat([
            c(x, 320, 1),
            net.concat([c(y, 384, (1, 3)), c(y, 384, (3, 1))]),
            net.concat([c(z, 384, (1, 3)), c(z, 384, (3, 1))]),
            c(net.pool(x, "average", 3, 1, 1), 192, 1),
        ])

    x = c(c(c("input", 32, 3, 2, pad=0), 32, 3, pad=0), 64, 3)
    x = c(c(net.pool(x, "max", 3, 2), 80, 1), 192, 3, pad=0)
    x = a(a(a(net.pool(x, "max", 3, 2), 32), 64), 64)
    x = b(x)
    for n in (128, 160, 160, 192):
        x = d7(x, n)
    long = c(c(c(c(x, 192, 1), 192, (1, 7)), 192, (7, 1)), 192, 3, 2, pad=0)
    x = net.concat([c(c(x, 192, 1), 320, 3, 2, pad=0), long, net.pool(x, "max", 3, 2)])
    return net, net.linear(net.global_average(e(e(x))), 1000)


def resnet8(seed):
    net = Net("resnet8", [1, 3, 32, 32], seed)
    x = net.conv("input", 16, 3)
    for width in (16, 32, 64):
        stride = 1 if width == 16 else 2
        pad = None if stride == 1 else (0, 0, 1, 1)
        y = net.conv(net.conv(x, width, 3, stride, pad=pad), width, 3, act=None)
        short = x if stride == 1 else net.conv(x, width, 1, stride, act=None)
        x = net.sum(short, y)
    return net, net.linear(net.global_average(x), 10)


def ds_cnn(seed):
    net = Net("ds_cnn", [1, 1, 49, 10], seed)
    x = net.conv("input", 64, (10, 4), 2, pad=(4, 1, 5, 1))
    for _ in range(4):
        x = net.conv(net.conv(x, 64, 3, groups=64), 64, 1)
    return net, net.linear(net.global_average(x), 12)


def mlp(seed):
    net = Net("mlp", [1, 784], seed)
    return net, net.linear(net.linear(net.linear("input", 512, "relu"), 256, "relu"), 10)


def classifier(seed):
    """A fully connected layer alone: as large as those of ImageNet networks, bound by memory."""
    net = Net("fc2048", [1, 2048], seed)
    return net, net.linear("input", 1000)


NETWORKS = {
    "resnet18": lambda: resnet("resnet18", 18, (2, 2, 2, 2), False),
    "resnet50": lambda: resnet("resnet50", 50, (3, 4, 6, 3), True),
    "mobilenet_v2": lambda: mobilenet_v2(2),
    "squeezenet1_1": lambda: squeezenet(11),
    "inception_v3": lambda: inception_v3(3),
    "resnet8": lambda: resnet8(8),
    "ds_cnn": lambda: ds_cnn(4),
    "mlp": lambda: mlp(5),
}
# Not compared with peers.
EXTRA = {"fc2048": lambda: classifier(6)}


def generate(name, folder, samples=8):
    """Writes NAME.onnx and NAME_calib.npy unless they exist; returns multiply-accumulates."""
    path, facts = folder / f"{name}.onnx", folder / f"{name}.macs"
    if not (path.exists() and facts.exists()):
        net, last = (NETWORKS | EXTRA)[name]()
        onnx.save(net.model(last), path)
        rng = np.random.default_rng(1)
        np.save(folder / f"{name}_calib.npy", np.concatenate([image(rng, net.shape) for _ in range(samples)]))
        facts.write_text(f"{net.macs}\n")
    return int(facts.read_text())


if __name__ == "__main__":
    import pathlib
    import sys

    folder = pathlib.Path(sys.argv[1])
    folder.mkdir(parents=True, exist_ok=True)
    for name in sys.argv[2:] or NETWORKS:
        print(name, f"{generate(name, folder) / 1e6:.1f} M multiply-accumulates", flush=True)
