#!/usr/bin/env python3
"""Trains goshawk's example network on Fashion-MNIST and writes it as ONNX.

The network is small but has what a compiler for quantized CNNs must deal with: BatchNormalization that is
not folded yet, a residual block, a depthwise-separable step to half the resolution, an inverted residual with
a linear bottleneck (signed activations), two branches that meet in a Concat, ReLU, ReLU6 and HardSwish, a global
average pool, a fully connected head, and a batch dimension that is symbolic (`N`).

`network` is written once against a small set of operators. `Trace` executes them with JAX, `Export` writes them
as ONNX nodes, so that what is trained and what is exported cannot differ.

    train_fashion.py train --data DIR --params params.npz    # about 15 minutes of one CPU core
    train_fashion.py export --data DIR --params params.npz   # ONNX and data beside this script, then the
                                                             # accuracy that ONNX Runtime measures

DIR holds the four idx.gz files of Fashion-MNIST, see README.md.
"""
import argparse
import gzip
import math
import os
import sys
import time
from pathlib import Path

import numpy as np

HERE = Path(__file__).resolve().parent
BN_EPSILON = 1e-5
BN_MOMENTUM = 0.95
SEED = 20


# ---------------------------------------------------------------------------------------------- the network


def network(b, x):
    """[N,1,28,28] in 0..1 → logits [N,10], for a backend `b` of `Trace` or `Export`."""
    x = b.relu("stem.relu", b.conv_bn("stem", x, 32, kernel=5, stride=2))

    y = b.relu("res.relu1", b.conv_bn("res.conv1", x, 32, kernel=3))
    y = b.conv_bn("res.conv2", y, 32, kernel=3)
    x = b.relu("res.relu2", b.add("res.add", x, y))

    x = b.relu6("down.relu6", b.depthwise_bn("down.dw", x, stride=2))
    x = b.conv_bn("down.pw", x, 64, kernel=1)

    y = b.hard_swish("inv.hswish1", b.conv_bn("inv.expand", x, 128, kernel=1))
    y = b.hard_swish("inv.hswish2", b.depthwise_bn("inv.dw", y, stride=1))
    y = b.conv_bn("inv.project", y, 64, kernel=1)
    x = b.add("inv.add", x, y)

    narrow = b.relu("cat.relu1", b.conv_bn("cat.conv1", x, 32, kernel=1))
    wide = b.relu("cat.relu3", b.conv_bn("cat.conv3", x, 32, kernel=3))
    x = b.concat("cat.concat", narrow, wide)

    x = b.hard_swish("head.hswish", b.conv_bn("head.conv", x, 128, kernel=1))
    return b.linear("logits", b.global_pool("head.pool", x), 10)


class Backend:
    """Parameter shapes, shared by all backends. Convolution weights are [O, I/groups, k, k] as in ONNX."""

    def conv_bn(self, name, x, out, kernel, stride=1):
        w = self.param(f"{name}.weight", (out, self.channels(x), kernel, kernel), "he")
        return self.batch_norm(f"{name}.bn", self.conv(name, x, w, kernel, stride, groups=1), out)

    def depthwise_bn(self, name, x, stride):
        c = self.channels(x)
        w = self.param(f"{name}.weight", (c, 1, 3, 3), "he")
        return self.batch_norm(f"{name}.bn", self.conv(name, x, w, 3, stride, groups=c), c)

    def linear(self, name, x, out):
        w = self.param(f"{name}.weight", (out, self.channels(x)), "linear")
        return self.gemm(name, x, w, self.param(f"{name}.bias", (out,), "zero"))

    def batch_norm(self, name, x, c):
        stats = [self.param(f"{name}.{part}", (c,), init) for part, init in
                 (("gamma", "one"), ("beta", "zero"), ("mean", "zero"), ("var", "one"))]
        return self.normalize(name, x, *stats)


class Trace(Backend):
    """Executes the network with JAX, NHWC inside. Creates the parameters that `params` lacks."""

    def __init__(self, params, train, rng=None):
        self.params, self.train, self.rng = params, train, rng
        self.running = {}

    def channels(self, x):
        return x.shape[-1]

    def param(self, name, shape, init):
        if name not in self.params:
            fan_in = max(1, math.prod(shape[1:]))
            std = {"he": math.sqrt(2 / fan_in), "linear": math.sqrt(1 / fan_in)}.get(init)
            value = {"zero": np.zeros, "one": np.ones}[init](shape) if std is None else self.rng.normal(0, std, shape)
            self.params[name] = value.astype(np.float32)
        return self.params[name]

    def conv(self, _name, x, w, kernel, stride, groups):
        from jax import lax, numpy as jnp

        p = kernel // 2
        if kernel == 1:
            return x[:, ::stride, ::stride] @ w[:, :, 0, 0].T
        if groups == 1:
            layout = ("NHWC", "OIHW", "NHWC")
            return lax.conv_general_dilated(x, w, (stride, stride), ((p, p), (p, p)), dimension_numbers=layout)
        # XLA's grouped convolution is five to ten times slower on a CPU than the sum over the taps.
        h = x.shape[1]
        x = jnp.pad(x, ((0, 0), (p, p), (p, p), (0, 0)))
        taps = [(i, j) for i in range(kernel) for j in range(kernel)]
        return sum(x[:, i:i + h:stride, j:j + h:stride] * w[:, 0, i, j] for i, j in taps)

    def normalize(self, name, x, gamma, beta, mean, var):
        from jax import lax, numpy as jnp

        if self.train:
            mean = jnp.mean(x, axis=(0, 1, 2))
            var = jnp.mean(jnp.square(x), axis=(0, 1, 2)) - jnp.square(mean)
            self.running[f"{name}.mean"], self.running[f"{name}.var"] = mean, var
        scale = gamma * lax.rsqrt(var + BN_EPSILON)
        return x * scale + (beta - mean * scale)

    def relu(self, _name, x):
        from jax import numpy as jnp
        return jnp.maximum(x, 0)

    def relu6(self, _name, x):
        from jax import numpy as jnp
        return jnp.clip(x, 0, 6)

    def hard_swish(self, _name, x):
        from jax import numpy as jnp
        return x * jnp.clip(x / 6 + 0.5, 0, 1)

    def add(self, _name, a, b):
        return a + b

    def concat(self, _name, a, b):
        from jax import numpy as jnp
        return jnp.concatenate([a, b], axis=-1)

    def global_pool(self, _name, x):
        from jax import numpy as jnp
        return jnp.mean(x, axis=(1, 2))

    def gemm(self, _name, x, w, bias):
        return x @ w.T + bias


class Export(Backend):
    """Writes the network as ONNX nodes, opset 17. Values are (name, channels); a node's name is its result's."""

    def __init__(self, params):
        self.params, self.nodes, self.initializers = params, [], []

    def channels(self, x):
        return x[1]

    def param(self, name, shape, _init):
        from onnx import numpy_helper

        value = np.ascontiguousarray(self.params[name], dtype=np.float32)
        assert value.shape == shape, (name, value.shape, shape)
        self.initializers.append(numpy_helper.from_array(value, name))
        return name, shape[0]

    def node(self, kind, name, inputs, channels, **attributes):
        from onnx import helper

        self.nodes.append(helper.make_node(kind, [i[0] for i in inputs], [name], name=name, **attributes))
        return name, channels

    def constant(self, name, value):
        from onnx import numpy_helper

        self.initializers.append(numpy_helper.from_array(np.array(value, dtype=np.float32), name))
        return name, 0

    def conv(self, name, x, w, kernel, stride, groups):
        return self.node("Conv", name, [x, w], w[1], kernel_shape=[kernel] * 2, strides=[stride] * 2,
                         pads=[kernel // 2] * 4, group=groups)

    def normalize(self, name, x, gamma, beta, mean, var):
        return self.node("BatchNormalization", name, [x, gamma, beta, mean, var], x[1], epsilon=BN_EPSILON)

    def relu(self, name, x):
        return self.node("Relu", name, [x], x[1])

    def relu6(self, name, x):
        return self.node("Clip", name, [x, self.constant(f"{name}.min", 0), self.constant(f"{name}.max", 6)], x[1])

    def hard_swish(self, name, x):
        return self.node("HardSwish", name, [x], x[1])

    def add(self, name, a, b):
        return self.node("Add", name, [a, b], a[1])

    def concat(self, name, a, b):
        return self.node("Concat", name, [a, b], a[1] + b[1], axis=1)

    def global_pool(self, name, x):
        x = self.node("GlobalAveragePool", name, [x], x[1])
        return self.node("Flatten", f"{name}.flat", [x], x[1], axis=1)

    def gemm(self, name, x, w, bias):
        return self.node("Gemm", name, [x, w, bias], w[1], transB=1)


# ------------------------------------------------------------------------------------------------------- data


def load_idx(folder, part):
    """Images u8 [N,28,28] and labels u8 [N] of `part`, which is "train" or "t10k"."""

    def read(name, offset):
        with gzip.open(Path(folder) / name, "rb") as f:
            return np.frombuffer(f.read(), np.uint8, offset=offset)

    images = read(f"{part}-images-idx3-ubyte.gz", 16).reshape(-1, 28, 28)
    labels = read(f"{part}-labels-idx1-ubyte.gz", 8)
    assert len(images) == len(labels)
    return images, labels


def save_idx(path, array):
    """Two zero bytes, element type (8 = u8), rank, the dimensions as big-endian u32, the elements."""
    path.write_bytes(bytes([0, 0, 8, array.ndim]) + np.array(array.shape, ">u4").tobytes() + array.tobytes())


def augment(images, rng):
    """Mirrors half of the images and shifts each by up to 2 pixels: u8 [N,28,28] → the same."""
    n = len(images)
    images = np.where(rng.random(n)[:, None, None] < 0.5, images, images[:, :, ::-1])
    padded = np.pad(images, ((0, 0), (2, 2), (2, 2)))
    dy, dx = rng.integers(0, 5, (2, n))
    rows = dy[:, None] + np.arange(28)
    cols = dx[:, None] + np.arange(28)
    return padded[np.arange(n)[:, None, None], rows[:, :, None], cols[:, None, :]]


def as_input(images):
    """The one preprocessing step of this network: x / 255."""
    return images.astype(np.float32)[..., None] / np.float32(255)


# --------------------------------------------------------------------------------------------------- training


def is_statistic(name):
    return name.endswith((".bn.mean", ".bn.var"))


def train(args):
    flags = "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1"
    os.environ.setdefault("XLA_FLAGS", flags)
    os.environ["JAX_PLATFORMS"] = "cpu"
    import jax
    from jax import numpy as jnp

    images, labels = load_idx(args.data, "train")
    rng = np.random.default_rng(SEED)
    params = dict(np.load(args.init)) if args.init else {}
    network(Trace(params, train=True, rng=rng), jnp.zeros((2, 28, 28, 1)))
    stats = {k: v for k, v in params.items() if is_statistic(k)}
    params = {k: v for k, v in params.items() if not is_statistic(k)}
    momentum = {k: np.zeros_like(v) for k, v in params.items()}
    print(f"{sum(v.size for v in params.values())} parameters", flush=True)

    steps = len(images) // args.batch
    total, warmup = args.epochs * steps, 0 if args.init else steps
    decay = {k: args.weight_decay if v.ndim > 1 else 0.0 for k, v in params.items()}

    def loss_of(params, x, y):
        trace = Trace(dict(params) | stats_template, train=True)
        logits = network(trace, x)
        smooth = 0.9 * jax.nn.one_hot(y, 10) + 0.01
        return -jnp.mean(jnp.sum(smooth * jax.nn.log_softmax(logits), axis=1)), (logits, trace.running)

    stats_template = stats  # training uses the batch statistics; these only complete the dictionary

    @jax.jit
    def step(params, momentum, stats, x, y, rate):
        (loss, (logits, running)), grads = jax.value_and_grad(loss_of, has_aux=True)(params, x, y)
        # SGD with Nesterov momentum 0.9 and weight decay on the weights alone.
        grads = {k: g + decay[k] * params[k] for k, g in grads.items()}
        momentum = {k: 0.9 * momentum[k] + g for k, g in grads.items()}
        params = {k: p - rate * (grads[k] + 0.9 * momentum[k]) for k, p in params.items()}
        stats = {k: BN_MOMENTUM * s + (1 - BN_MOMENTUM) * running[k] for k, s in stats.items()}
        return params, momentum, stats, loss, jnp.mean(jnp.argmax(logits, 1) == y)

    done, start = 0, time.time()
    for epoch in range(args.epochs):
        order, seen = rng.permutation(len(images)), []
        for i in range(steps):
            batch = order[i * args.batch:(i + 1) * args.batch]
            x, y = as_input(augment(images[batch], rng)), labels[batch].astype(np.int32)
            ramp = (done + 1) / warmup if done < warmup else 0.5 + 0.5 * math.cos(
                math.pi * (done - warmup) / (total - warmup))
            params, momentum, stats, loss, right = step(params, momentum, stats, x, y, np.float32(args.rate * ramp))
            seen.append((loss, right))
            done += 1
            if done % 100 == 0:
                spent = time.time() - start
                print(f"step {done}/{total}  loss {float(loss):.3f}  {spent:.0f} s, "
                      f"about {spent / done * (total - done):.0f} s to go", flush=True)
        loss, right = np.array(seen).mean(axis=0)
        print(f"epoch {epoch + 1}/{args.epochs}  loss {loss:.4f}  augmented training accuracy {100 * right:.2f} %",
              flush=True)
        np.savez(args.params, **{k: np.asarray(v) for k, v in sorted((params | stats).items())})
        if epoch + 1 == args.stop_after:
            break


# ----------------------------------------------------------------------------------------------------- export


def export(args):
    import onnx
    from onnx import TensorProto, helper

    with np.load(args.params) as f:
        params = dict(f)
    backend = Export(params)
    output, _ = network(backend, ("image", 1))
    graph = helper.make_graph(
        backend.nodes, "fashion",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["N", 1, 28, 28])],
        [helper.make_tensor_value_info(output, TensorProto.FLOAT, ["N", 10])],
        backend.initializers)
    model = helper.make_model(graph, producer_name="train_fashion.py", ir_version=8,
                              opset_imports=[helper.make_opsetid("", 17)])
    onnx.checker.check_model(model, full_check=True)
    path = HERE / "fashion.onnx"
    path.write_bytes(model.SerializeToString(deterministic=True))
    count = sum(math.prod(t.dims) for t in backend.initializers)
    print(f"{path.name}: {path.stat().st_size} bytes, {count} numbers in {len(backend.initializers)} initializers")

    # The first 256 training images calibrate, the first 1,000 test images are the demo's test set. That one is in
    # the idx format, which twenty lines of C can read.
    images, _ = load_idx(args.data, "train")
    np.savez_compressed(HERE / "fashion_calib.npz", image=images[:256, None])
    images, labels = load_idx(args.data, "t10k")
    save_idx(HERE / "fashion_test.idx", images[:1000])
    save_idx(HERE / "fashion_test_labels.idx", labels[:1000])

    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    right = np.concatenate([
        session.run(None, {"image": as_input(images[i:i + 500]).transpose(0, 3, 1, 2)})[0].argmax(1) == labels[i:i + 500]
        for i in range(0, len(images), 500)])
    print(f"ONNX Runtime, float: {100 * right.mean():.2f} % of {len(right)} test images, "
          f"{100 * right[:1000].mean():.2f} % of the first 1000")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("command", choices=["train", "export"])
    parser.add_argument("--data", required=True, help="folder with the four idx.gz files")
    parser.add_argument("--params", default="params.npz", help="trained parameters (default: %(default)s)")
    parser.add_argument("--init", help="parameters to start from, without warm-up")
    parser.add_argument("--epochs", type=int, default=8, help="length of the cosine schedule (default: %(default)s)")
    parser.add_argument("--stop-after", type=int, help="stop after so many epochs of it")
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--rate", type=float, default=0.1, help="peak learning rate")
    parser.add_argument("--weight-decay", type=float, default=5e-4)
    args = parser.parse_args()
    {"train": train, "export": export}[args.command](args)


if __name__ == "__main__":
    sys.exit(main())
