#!/bin/sh
# Builds goshawk, compiles the example network at INT8 and at mixed INT4/INT8, links each into the C program
# of example/main.c, runs both on 1,000 test images and prints accuracy, latency and size.
#
# Works from any directory; needs cargo and a C compiler; writes only below target/ (or $CARGO_TARGET_DIR).
#   usage: demo.sh [TARGET_CPU]     default: native
set -eu

cpu=${1:-native}
here=$(CDPATH= cd -- "$(dirname -- "$0")" && pwd)
root=$(dirname -- "$here")

command -v cargo >/dev/null 2>&1 || {
    echo "demo.sh: cargo is missing; install Rust with your package manager's rustup, then: rustup show (in $root)" >&2
    exit 2
}
cc=${CC:-}
[ -n "$cc" ] || for candidate in cc gcc clang; do
    command -v "$candidate" >/dev/null 2>&1 && { cc=$candidate; break; }
done
[ -n "$cc" ] || {
    echo "demo.sh: no C compiler; install one, for example: apt-get install gcc libc6-dev" >&2
    exit 2
}

target=${CARGO_TARGET_DIR:-$root/target}
case $target in /*) ;; *) target=$PWD/$target ;; esac
echo "Building goshawk (several minutes the first time) ..."
cargo build --quiet --release --locked --manifest-path "$root/Cargo.toml" --target-dir "$target" \
    -p goshawk-compiler --bin goshawk

out=$target/demo
table=$out/table.txt
mkdir -p "$out"
: >"$table"

# try NAME LABEL BIT-OPTIONS...
try() {
    name=$1 label=$2
    shift 2
    mkdir -p "$out/$name"
    echo "Compiling $label, linking it with example/main.c and running it ..."
    "$target/release/goshawk" compile "$here/fashion.onnx" --set-dim N=1 \
        --calib "$here/fashion_calib.npz" --samples 256 --preprocess "$here/fashion.toml" \
        --name fashion --target-cpu "$cpu" "$@" -o "$out/$name/libfashion.so" >"$out/$name/compile.log" 2>&1 || {
        cat "$out/$name/compile.log" >&2
        exit 1
    }
    "$cc" -std=c99 -O2 -Wall -Wextra -Wpedantic -I "$out/$name" "$here/example/main.c" \
        "$out/$name/libfashion.so" "-Wl,-rpath,$out/$name" -o "$out/$name/example"
    "$out/$name/example" "$here/fashion_test.idx" "$here/fashion_test_labels.idx" >"$out/$name/run.log"
    # From the lines of run.log to a row of the table.
    sed -n -e 's/^accuracy  *//p' "$out/$name/run.log" >"$out/$name/accuracy"
    min=$(sed -n 's/^latency .*min \([0-9]*\) us.*/\1/p' "$out/$name/run.log")
    median=$(sed -n 's/^latency .*median \([0-9]*\) us.*/\1/p' "$out/$name/run.log")
    arena=$(sed -n 's/^arena  *\([0-9]*\) .*/\1/p' "$out/$name/run.log")
    size=$(wc -c <"$out/$name/libfashion.so")
    printf '%-16s %10s %12s %15s %13s %13s\n' "$label" "$(cat "$out/$name/accuracy")" "$min us" "$median us" \
        "$((size)) B" "$arena B" >>"$table"
}

try int8 "INT8" --uniform w8a8
try mixed "mixed INT4/INT8" --bits "$here/fashion_mixed.bits.toml"

echo
printf '%-16s %10s %12s %15s %13s %13s\n' "bits" "accuracy" "latency min" "latency median" "library" "arena"
cat "$table"
echo
echo "1,000 test images of Fashion-MNIST, target CPU $cpu, one core. Libraries, headers and programs: $out"
