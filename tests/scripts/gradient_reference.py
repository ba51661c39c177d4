#!/usr/bin/env python3
"""Gradients and Hessian-vector products by PyTorch's double backward, to compare goshawk's engine with.

    gradient_reference.py reference resnet20_cifar10.onnx > tests/data/gradient_resnet20.json
    gradient_reference.py speed [threads ...]

Needs torch and numpy; `reference` also needs onnx. goshawk itself and its tests need none of them: the figures are stored.

Inputs, labels and probes come from the integer hash of passes/src/gradient/random.rs, so that both sides make them:
sample i is 4u - 2 with uniform numbers of seed 1 and stream i, its label i mod 10, the probe of layer l random signs of seed
2 and stream l. Of each layer's gradient and product the file keeps the norm and eight projections onto random signs (seed 3,
stream 8l + j), whose differences estimate the norm of the difference.
"""
import json
import sys
import time

import numpy as np
import torch
import torch.nn.functional as F

PROJECTIONS = 8
SAMPLES = 16


def mix(x):
    z = x + np.uint64(0x9E3779B97F4A7C15)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))


def numbers(seed, stream, count):
    base = mix(mix(np.array([seed], np.uint64)) + np.uint64(stream))
    return mix(base + np.arange(count, dtype=np.uint64))


def signs(seed, stream, count):
    return 1.0 - 2.0 * (numbers(seed, stream, count) >> np.uint64(63)).astype(np.float64)


def uniform(seed, stream, count):
    return (numbers(seed, stream, count) >> np.uint64(11)).astype(np.float64) / 2.0**53


def inputs(shape):
    count = int(np.prod(shape))
    rows = [(4 * uniform(1, i, count) - 2).astype(np.float32).reshape(shape) for i in range(SAMPLES)]
    return torch.from_numpy(np.stack(rows)).double(), torch.arange(SAMPLES) % 10


def evaluate(graph, values, x):
    """Runs the ONNX operators of a CIFAR ResNet; `values` are its constants, weights among them."""
    values = dict(values)
    values[graph.input[0].name] = x
    for node in graph.node:
        a = {v.name: v for v in node.attribute}
        ints = lambda name: list(a[name].ints)
        v = [values.get(n) for n in node.input]
        if node.op_type == "Conv":
            pads = ints("pads")
            assert pads[:2] == pads[2:] and a["group"].i == 1
            y = F.conv2d(v[0], v[1], v[2], ints("strides"), pads[:2], ints("dilations"))
        elif node.op_type == "Relu":
            y = F.relu(v[0])
        elif node.op_type == "Add":
            y = v[0] + v[1]
        elif node.op_type == "AveragePool":
            assert not any(ints("pads"))
            y = F.avg_pool2d(v[0], ints("kernel_shape"), ints("strides"))
        elif node.op_type == "Gemm":
            assert a["transB"].i == 1 and a["alpha"].f == a["beta"].f == 1
            y = v[0] @ v[1].T + v[2]
        elif node.op_type == "Reshape":
            y = v[0].reshape(v[0].shape[0], -1)
        elif node.op_type == "Slice":
            y = v[0]
            for start, end, axis, step in zip(*(t.long().tolist() for t in v[1:5])):
                y = y[(slice(None),) * axis + (slice(start, min(end, y.shape[axis]), step),)]
        elif node.op_type == "Pad":
            p = v[1].long().tolist()
            rank = len(p) // 2
            y = F.pad(v[0], [n for d in reversed(range(rank)) for n in (p[d], p[d + rank])])
        elif node.op_type == "Constant":
            continue
        else:
            raise SystemExit(f"{node.op_type} is not part of a CIFAR ResNet")
        values[node.output[0]] = y
    return values[graph.output[0].name]


def reference(path):
    import onnx
    from onnx import numpy_helper

    graph = onnx.load(path).graph

    def constant(t):
        array = np.atleast_1d(numpy_helper.to_array(t))
        return torch.from_numpy(array.astype(np.float64) if array.dtype == np.float32 else array.copy())

    values = {t.name: constant(t) for t in graph.initializer}
    values |= {n.output[0]: constant(n.attribute[0].t) for n in graph.node if n.op_type == "Constant"}
    layers = [n for n in graph.node if n.op_type in ("Conv", "Gemm")]
    weights = [values[n.input[1]].requires_grad_() for n in layers]
    shape = [d.dim_value for d in graph.input[0].type.tensor_type.shape.dim][1:]
    x, labels = inputs(shape)
    loss = F.cross_entropy(evaluate(graph, values, x), labels)
    gradient = torch.autograd.grad(loss, weights, create_graph=True)
    probe = [torch.from_numpy(signs(2, l, w.numel())).view_as(w) for l, w in enumerate(weights)]
    product = torch.autograd.grad(sum((g * v).sum() for g, v in zip(gradient, probe)), weights)

    def summary(l, t):
        t = t.detach().numpy().ravel()
        project = [float(signs(3, PROJECTIONS * l + j, t.size) @ t) for j in range(PROJECTIONS)]
        return {"norm": float(np.linalg.norm(t)), "projections": project}

    rows = [
        {"shape": list(w.shape), "gradient": summary(l, g), "product": summary(l, h)}
        for l, (w, g, h) in enumerate(zip(weights, gradient, product))
    ]
    note = f"PyTorch {torch.__version__}, float64, written by tests/scripts/gradient_reference.py"
    text = json.dumps({"source": note, "samples": SAMPLES, "loss": loss.item(), "layers": rows})
    print(text.replace('{"shape"', '\n{"shape"'))


def convolution(w, b, stride=1, groups=1):
    return lambda x: F.conv2d(x, w, b, stride, w.shape[2] // 2, 1, groups)


class Network:
    """The networks of passes/examples/gradient_speed.rs."""

    def __init__(self):
        self.weights = []

    def conv(self, c, out, k, stride=1, groups=1):
        w = torch.randn(out, c // groups, k, k) * (2 / (c // groups * k * k)) ** 0.5
        self.weights.append(w.requires_grad_())
        return convolution(w, torch.zeros(out), stride, groups)

    def linear(self, c, out):
        w = (torch.randn(out, c) * (1 / c) ** 0.5).requires_grad_()
        self.weights.append(w)
        return lambda x: F.linear(x.mean((2, 3)), w)

    def resnet(self, first, pool, stages, classes):
        stem = self.conv(3, stages[0][0], *first)
        blocks, c = [], stages[0][0]
        for out, stride in stages:
            short = self.conv(c, out, 1, stride) if stride > 1 or c != out else None
            blocks.append((self.conv(c, out, 3, stride), self.conv(out, out, 3), short))
            c = out
        head = self.linear(c, classes)

        def run(x):
            x = pool(F.relu(stem(x)))
            for a, b, short in blocks:
                x = F.relu(b(F.relu(a(x))) + (short(x) if short else x))
            return head(x)

        return run

    def mobilenetv2(self):
        table = [(1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1)]
        stem, c, blocks = self.conv(3, 32, 3, 2), 32, []
        for expansion, out, repetitions, stride in table:
            for i in range(repetitions):
                wide = c * expansion
                expand = self.conv(c, wide, 1) if expansion > 1 else None
                depthwise = self.conv(wide, wide, 3, stride if i == 0 else 1, wide)
                blocks.append((expand, depthwise, self.conv(wide, out, 1), i > 0 and c == out))
                c = out
        last, head = self.conv(c, 1280, 1), self.linear(1280, 1000)

        def run(x):
            x = F.relu6(stem(x))
            for expand, depthwise, project, residual in blocks:
                y = F.relu6(expand(x)) if expand else x
                y = project(F.relu6(depthwise(y)))
                x = x + y if residual else y
            return head(F.relu6(last(x)))

        return run


def speed(threads, names):
    for name in names:
        for n in threads:
            torch.set_num_threads(n)
            net = Network()
            if name == "resnet20":
                stages = [(16, 1)] * 3 + [(32, 2), (32, 1), (32, 1), (64, 2), (64, 1), (64, 1)]
                run, x = net.resnet((3, 1), lambda x: x, stages, 10), torch.randn(128, 3, 32, 32)
            elif name == "resnet18":
                stages = [(64, 1), (64, 1), (128, 2), (128, 1), (256, 2), (256, 1), (512, 2), (512, 1)]
                pool = lambda x: F.max_pool2d(x, 3, 2, 1)
                run, x = net.resnet((7, 2), pool, stages, 1000), torch.randn(8, 3, 224, 224)
            else:
                run, x = net.mobilenetv2(), torch.randn(8, 3, 224, 224)
            labels = torch.arange(len(x)) % 10
            probe = [torch.sign(torch.randn_like(w)) for w in net.weights]
            best = [(9e9, 9e9)] * 3
            for _ in range(3):
                marks = [(time.perf_counter(), time.process_time())]
                torch.autograd.grad(F.cross_entropy(run(x), labels), net.weights)
                marks.append((time.perf_counter(), time.process_time()))
                loss = F.cross_entropy(run(x), labels)
                gradient = torch.autograd.grad(loss, net.weights, create_graph=True)
                marks.append((time.perf_counter(), time.process_time()))
                total = sum((g * v).sum() for g, v in zip(gradient, probe))
                torch.autograd.grad(total, net.weights, retain_graph=True)
                marks.append((time.perf_counter(), time.process_time()))
                for i in range(3):
                    used = (marks[i + 1][0] - marks[i][0], marks[i + 1][1] - marks[i][1])
                    best[i] = (min(best[i][0], used[0]), min(best[i][1], used[1]))
            text = ", ".join(f"{what} {w:.3f} s ({c:.2f})" for what, (w, c) in zip(("forward+backward", "kept", "product"), best))
            print(f"{name} batch {len(x)}, {n} threads: {text}", flush=True)


if __name__ == "__main__":
    np.seterr(over="ignore")
    if sys.argv[1:2] == ["reference"] and len(sys.argv) == 3:
        reference(sys.argv[2])
    elif sys.argv[1:2] == ["speed"]:
        known = ["resnet20", "resnet18", "mobilenetv2"]
        counts = [int(a) for a in sys.argv[2:] if a.isdigit()]
        speed(counts or [1, 2], [a for a in sys.argv[2:] if a in known] or known)
    else:
        sys.exit(__doc__)
