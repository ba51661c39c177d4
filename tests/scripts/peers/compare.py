"""Latency of goshawk and its peers, float input to float output, batch 1, in interleaved rounds in one process.

  python3 -m venv ~/.cache/goshawk-peers/venv
  ~/.cache/goshawk-peers/venv/bin/pip install -r tests/scripts/peers/requirements.txt
  cargo build --release -p goshawk-compiler
  ~/.cache/goshawk-peers/venv/bin/python tests/scripts/peers/compare.py --threads 1,2 --out peers

writes peers.json and peers.md. Models are generated (networks.py) and kept, with each engine's quantized form, in --cache.
Each network and number of threads has a process of its own, pinned to as many CPUs. Engines take turns in blocks; the
first runs of a block, which suffer from the caches and the waiting threads of the engine before, do not count. The order
changes with every round. Not compared, since slower than all of these in every measurement we know: ncnn, TVM and IREE
(they run quantized ONNX mostly in float).
"""

import argparse
import json
import os
import pathlib
import random
import statistics
import subprocess
import sys
import time

import numpy as np

import engines
import networks

# A block of one engine takes about this long, and at least so many runs count.
BLOCK_SECONDS, BLOCK_RUNS = 0.05, 4
# Unmeasured share of a block.
WARM = 0.25


class Case:
    """A network with its files."""

    def __init__(self, name, args):
        self.name, self.cache = name, pathlib.Path(args.cache)
        self.goshawk, self.cpu = os.path.abspath(args.goshawk), args.target_cpu
        self.onnx, self.calib = self.cache / f"{name}.onnx", self.cache / f"{name}_calib.npy"

    def file(self, ending):
        return self.cache / f"{self.name}.{ending}"

    def folder(self, bits):
        """Where goshawk's library for these bits lies, with its header."""
        folder = self.cache / f"{self.name}.{bits}.{self.cpu}"
        folder.mkdir(exist_ok=True)
        return folder

    def samples(self):
        return np.load(self.calib)

    def input(self):
        return np.ascontiguousarray(self.samples()[:1])

    def output_shape(self):
        import onnx

        output = onnx.load(self.onnx, load_external_data=False).graph.output[0]
        return [d.dim_value for d in output.type.tensor_type.shape.dim]


def measure(args, name, threads):
    """Every engine on one network, in this process."""
    cpus = [int(c) for c in args.cpus.split(",")][:threads]
    os.sched_setaffinity(0, cpus)
    case, sessions, result = Case(name, args), {}, {}
    for label in args.engines.split(","):
        try:
            sessions[label] = engines.ENGINES[label](case, threads)
        except Exception as e:  # one engine that fails must not end the comparison
            result[label] = {"skipped": f"{type(e).__name__}: {e}"}
    peaks = [probe(args)]
    counts = {}
    for label, s in sessions.items():
        for _ in range(3):
            s.run()
        start = time.perf_counter()
        s.run()
        one = max(time.perf_counter() - start, 1e-6)
        counts[label] = max(BLOCK_RUNS, int(BLOCK_SECONDS / one))
    times = {label: [] for label in sessions}
    order, rng = list(sessions), random.Random(0)
    end = time.time() + args.seconds * len(order)
    rounds = 0
    while time.time() < end or rounds < 3:
        rng.shuffle(order)
        for label in order:
            run, count = sessions[label].run, counts[label]
            for _ in range(max(1, int(WARM * count))):
                run()
            samples = []
            for _ in range(count):
                start = time.perf_counter_ns()
                run()
                samples.append(time.perf_counter_ns() - start)
            times[label] += samples
        rounds += 1
        if rounds % 8 == 0:
            peaks.append(probe(args))
    peaks.append(probe(args))
    reference = sessions.get("ONNX Runtime")
    expected = np.ravel(reference.output()) if reference else None
    for label, s in sessions.items():
        t = sorted(times[label])
        pick = lambda q: t[min(len(t) - 1, int(q * len(t)))] / 1e3
        like = None if expected is None else float(np.corrcoef(np.ravel(s.output()), expected)[0, 1])
        result[label] = {
            "version": s.version, "runs": len(t), "min_us": t[0] / 1e3, "median_us": statistics.median(t) / 1e3,
            "p25_us": pick(0.25), "p95_us": pick(0.95), "p99_us": pick(0.99), "correlation": like,
        }
    peaks = [p for p in peaks if p]
    best = {}
    for p in peaks:
        for c in p["compute"]:
            best[c["name"]] = max(best.get(c["name"], 0.0), c["gmacs"])
    return {"network": name, "threads": threads, "rounds": rounds, "peaks": best, "engines": result}


def probe(args):
    """The machine's peak, measured by goshawk on the same CPU."""
    done = subprocess.run([args.goshawk, "peak", "--json"], capture_output=True, text=True)
    return json.loads(done.stdout)["peaks"] if done.returncode == 0 else None


def idle():
    """Cores that are busy now."""
    def busy():
        fields = [int(f) for f in open("/proc/stat").readline().split()[1:]]
        return fields[0] + fields[1] + fields[2], time.time()

    (a, t0), _ = busy(), time.sleep(0.5)
    b, t1 = busy()
    return (b - a) / os.sysconf("SC_CLK_TCK") / (t1 - t0)


def markdown(report, args):
    lines = []
    for threads in report["threads"]:
        rows = [r for r in report["results"] if r["threads"] == threads]
        labels = [e for e in args.engines.split(",") if any("median_us" in r["engines"].get(e, {}) for r in rows)]
        peers = [e for e in labels if not e.startswith("goshawk")]
        lines += [f"\n{threads} thread{'s' if threads > 1 else ''}, {args.statistic} in ms:\n"]
        lines += ["| network (MACs) | floor | " + " | ".join(labels) + " | w8a8 ÷ floor | best peer ÷ w8a8 | best peer ÷ best |"]
        lines += ["|---" * (len(labels) + 5) + "|"]
        for r in rows:
            ms = {e: v[f"{args.statistic}_us"] / 1e3 for e, v in r["engines"].items() if "median_us" in v}
            macs = report["macs"][r["network"]]
            floor = macs / (max(r["peaks"].values()) * threads * 1e6) if r["peaks"] else float("nan")
            best = min((ms[p] for p in peers if p in ms), default=float("nan"))
            own = ms.get("goshawk w8a8", float("nan"))
            ours = min((v for e, v in ms.items() if e.startswith("goshawk")), default=float("nan"))
            cells = [f"{r['network']} ({macs / 1e6:.1f} M)", number(floor)]
            cells += [number(ms[e]) if e in ms else "–" for e in labels]
            cells += [f"{own / floor:.2f}", f"{best / own:.2f}", f"{best / ours:.2f}"]
            lines.append("| " + " | ".join(cells) + " |")
    versions = {}
    for r in report["results"]:
        for e, v in r["engines"].items():
            if "version" in v:
                versions[e] = v["version"]
            else:
                lines.append(f"\n{e} on {r['network']} with {r['threads']} threads: skipped, {v['skipped']}")
    peaks = report["results"][0]["peaks"] if report["results"] else {}
    lines.append("\nVersions: " + ", ".join(f"{e} {v}" for e, v in versions.items()) + ".")
    lines.append("Peaks: " + ", ".join(f"{n} {g:.0f} GMAC/s" for n, g in peaks.items()) + f". {report['cpu']}.")
    if report["disturbed"]:
        lines.append(f"Other processes were busy before {len(report['disturbed'])} measurements: {report['disturbed']}.")
    return "\n".join(lines) + "\n"


def number(ms):
    return f"{ms:.4f}" if ms < 0.1 else f"{ms:.3f}" if ms < 1 else f"{ms:.2f}"


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--goshawk", default="target/release/goshawk")
    p.add_argument("--cache", default=os.path.expanduser("~/.cache/goshawk-peers/models"))
    p.add_argument("--networks", default=",".join(networks.NETWORKS))
    p.add_argument("--engines", default=",".join(engines.ENGINES))
    p.add_argument("--threads", default="1,2")
    p.add_argument("--cpus", default="0,1", help="CPUs to stay on, one for each thread")
    p.add_argument("--target-cpu", default="native", help="what goshawk compiles for")
    p.add_argument("--seconds", type=float, default=3.0, help="of each engine on each network")
    p.add_argument("--statistic", default="median", choices=["median", "min", "p25"])
    p.add_argument("--out", default="peers")
    p.add_argument("--prepare", action="store_true", help="only generate and quantize")
    p.add_argument("--child", nargs=2, help=argparse.SUPPRESS)
    args = p.parse_args()
    if args.child:
        print(json.dumps(measure(args, args.child[0], int(args.child[1]))))
        return
    cache = pathlib.Path(args.cache)
    cache.mkdir(parents=True, exist_ok=True)
    names, threads = args.networks.split(","), [int(t) for t in args.threads.split(",")]
    for given, known in [(names, networks.NETWORKS), (args.engines.split(","), engines.ENGINES)]:
        if unknown := [name for name in given if name not in known]:
            p.error(f"unknown: {', '.join(unknown)}; there are {', '.join(known)}")
    cpu = next((l.split(":")[1].strip() for l in open("/proc/cpuinfo") if l.startswith("model name")), "")
    report = {"cpu": cpu, "threads": threads, "macs": {}, "results": [], "disturbed": []}
    for name in names:
        report["macs"][name] = networks.generate(name, cache)
        for label in args.engines.split(","):
            print(f"preparing {name} for {label}", file=sys.stderr, flush=True)
            try:
                engines.ENGINES[label].prepare(Case(name, args))
            except subprocess.CalledProcessError as e:
                print(f"  failed: {e.stderr.decode()}", file=sys.stderr)
            except Exception as e:  # reported as skipped when it cannot run
                print(f"  failed: {e}", file=sys.stderr)
    for name in [] if args.prepare else names:
        for t in threads:
            if (busy := idle()) > 0.1:
                report["disturbed"].append([name, t, round(busy, 2)])
            command = [sys.executable, *sys.argv, "--child", name, str(t)]
            done = subprocess.run(command, capture_output=True, text=True)
            if done.returncode != 0:
                sys.exit(f"{name} with {t} threads failed:\n{done.stderr}")
            result = json.loads(done.stdout.splitlines()[-1])
            report["results"].append(result)
            ms = {e: v.get(f"{args.statistic}_us") for e, v in result["engines"].items()}
            print(name, t, {e: v and round(v / 1e3, 4) for e, v in ms.items()}, file=sys.stderr, flush=True)
    if not args.prepare:
        out = pathlib.Path(args.out)
        out.with_suffix(".json").write_text(json.dumps(report, indent=1) + "\n")
        out.with_suffix(".md").write_text(markdown(report, args))
        print(out.with_suffix(".md").read_text())


if __name__ == "__main__":
    main()
