"""Every figure of docs/performance.md by one command: latency against the peers, then what goshawk alone must show.

  ~/.cache/goshawk-peers/venv/bin/python tests/scripts/peers/report.py --out performance

writes performance.md, performance.json and the peers' tables (compare.py, whose options it takes). Needs goshawk's release
build, the virtual environment of compare.py, and a machine that does nothing else for some ten minutes.
"""

import argparse
import json
import os
import pathlib
import subprocess
import sys

import networks

HERE = pathlib.Path(__file__).parent


class Tool:
    """Runs goshawk on the generated networks."""

    def __init__(self, args):
        self.goshawk, self.cache, self.cpu = args.goshawk, pathlib.Path(args.cache), args.cpus.split(",")[0]
        self.commands = []

    def run(self, *words):
        command = [str(w) for w in (self.goshawk, *words)]
        shown = " ".join(["goshawk", *command[1:]]).replace(str(self.cache) + "/", "")
        self.commands.append(shown)
        print(shown, file=sys.stderr, flush=True)
        done = subprocess.run([*command, "--json"], capture_output=True, text=True)
        if done.returncode != 0:
            sys.exit(f"{shown}\n{done.stderr}")
        return json.loads(done.stdout)

    def model(self, name):
        networks.generate(name, self.cache)
        return self.cache / f"{name}.onnx"

    def ranges(self, name, bits="w8a8"):
        path = self.cache / f"{name}.{bits}.ranges"
        if not path.exists():
            calib = self.cache / f"{name}_calib.npy"
            self.run("calibrate", self.model(name), "--calib", calib, "--method", "min-max", "--uniform", bits,
                     "--save-ranges", path)
        return path

    def bench(self, name, *words):
        common = ["--ranges", self.ranges(name), "--pin", self.cpu, "--runs", "60"]
        found = self.run("bench", self.model(name), *common, *words)
        return {(l["name"], l["threads"]): l for l in found["latencies"]}, found


def profiles(tool):
    """Whole runs against the floor, and where the time goes beyond it."""
    lines = ["| network | MACs | floor ms | whole run ms | ÷ floor | layers that cost most beyond it |", "|---" * 6 + "|"]
    for name in networks.NETWORKS:
        found = tool.run("profile", tool.model(name), "--ranges", tool.ranges(name), "--pin", tool.cpu, "--runs", "60",
                         "--target-cpu", "native")
        p = found["profiles"][0]
        rest = []
        for layer in p["layers"]:
            compute = layer["macs"] / p["peak"]["gmacs"] / 1e3
            rest.append((layer["us"] - compute, layer))
        rest.sort(key=lambda r: -r[0])
        worst = ", ".join(f"{l['name']} ({l['op']}) {us:.0f} us" for us, l in rest[:3])
        lines.append(
            f"| {name} | {p['macs'] / 1e6:.1f} M | {p['macs_floor_us'] / 1e3:.3f} | {p['whole_us'] / 1e3:.3f} "
            f"| {p['whole_us'] / p['macs_floor_us']:.2f} | {worst} |"
        )
    return lines


def bits(tool):
    """W8A8, W4A8 and W4A4 on AVX2, and on the machine's best level."""
    lines = []
    for cpu in ("x86-64-v3", "native"):
        lines += [f"\n`--target-cpu {cpu}`:\n", "| network | w8a8 ms | w4a8 ms | w4a4 ms | w8a8 ÷ w4a8 | w4a8 ÷ w4a4 |"]
        lines += ["|---" * 6 + "|"]
        for name in ("resnet50", "resnet18", "mobilenet_v2"):
            found, _ = tool.bench(name, "--uniform", "w8a8,w4a8,w4a4", "--target-cpu", cpu)
            a, b, c = (found[(s, 1)]["median_us"] / 1e3 for s in ("w8a8", "w4a8", "w4a4"))
            lines.append(f"| {name} | {a:.2f} | {b:.2f} | {c:.2f} | {a / b:.2f} | {b / c:.2f} |")
    return lines


def classifier(tool):
    """A fully connected layer of 2048 → 1000 with its weights in memory."""
    node = "output"
    path = tool.cache / "fc2048.toml"
    path.write_text(f"[layers]\n{node} = {{ weights = 4, activations = 8 }}\n")
    found, _ = tool.bench("fc2048", "--uniform", "w8a8", "--bits", path, "--cold", "--integer")
    a, b = found[("w8a8", 1)]["median_us"], found[(str(path), 1)]["median_us"]
    return [f"INT8 {a:.1f} us, INT4 {b:.1f} us: {a / b:.2f} ×."]


def threads(tool):
    lines = ["| network | 1 thread ms | 2 threads ms | speedup |", "|---" * 4 + "|"]
    for name in networks.NETWORKS:
        found = tool.run("bench", tool.model(name), "--ranges", tool.ranges(name), "--runs", "60",
                         "--run-threads", "1,2")
        one, two = (l["median_us"] / 1e3 for l in found["latencies"])
        lines.append(f"| {name} | {one:.3f} | {two:.3f} | {one / two:.2f} |")
    return lines


def sizes(tool):
    """Time to compile, code without weights, arena and its lower bound."""
    lines = ["| network | compile s | code KB | library MB | arena KiB | lower bound KiB | ÷ |", "|---" * 7 + "|"]
    for name in networks.NETWORKS:
        out = tool.cache / f"{name}.size" / "libnet.so"
        out.parent.mkdir(exist_ok=True)
        report = tool.run("compile", tool.model(name), "--ranges", tool.ranges(name), "-o", out)
        sections = subprocess.run(["size", "-A", "-d", out], capture_output=True, text=True, check=True).stdout
        text = sum(int(l.split()[1]) for l in sections.splitlines() if l.startswith(".text"))
        bound = json.loads((out.parent / "net.json").read_text())["arena"]["lower_bound"]
        lines.append(
            f"| {name} | {report['seconds']:.2f} | {text / 1e3:.0f} | {out.stat().st_size / 1e6:.1f} "
            f"| {report['arena_bytes'] / 1024:.0f} | {bound / 1024:.0f} | {report['arena_bytes'] / max(bound, 1):.2f} |"
        )
    return lines


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--goshawk", default="target/release/goshawk")
    p.add_argument("--cache", default=os.path.expanduser("~/.cache/goshawk-peers/models"))
    p.add_argument("--cpus", default="0,1")
    p.add_argument("--out", default="performance")
    p.add_argument("--only", default="peers,profiles,bits,classifier,threads,sizes")
    args, rest = p.parse_known_args()
    pathlib.Path(args.cache).mkdir(parents=True, exist_ok=True)
    tool, text = Tool(args), []
    wanted = args.only.split(",")
    if "peers" in wanted:
        out = f"{args.out}_peers"
        command = [sys.executable, HERE / "compare.py", "--goshawk", args.goshawk, "--cache", args.cache,
                   "--cpus", args.cpus, "--out", out, *rest]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        text += ["## Against the peers\n", pathlib.Path(f"{out}.md").read_text()]
    parts = {"profiles": (profiles, "Against the peak"), "bits": (bits, "Fewer bits"),
             "classifier": (classifier, "Fully connected 2048 → 1000 from memory"),
             "threads": (threads, "Threads"), "sizes": (sizes, "Compile time and size")}
    for key, (function, title) in parts.items():
        if key in wanted:
            first = len(tool.commands)
            text += [f"## {title}\n", *function(tool), ""]
            commands = dict.fromkeys(c for c in tool.commands[first:] if not c.startswith("goshawk calibrate"))
            text += ["Commands: " + "; ".join(f"`{c}`" for c in list(commands)[:3]) + (" …" if len(commands) > 3 else ""), ""]
    pathlib.Path(args.out).with_suffix(".md").write_text("\n".join(text))
    print("\n".join(text))


if __name__ == "__main__":
    main()
