#!/usr/bin/env bash
# Tests and measures a clone of foveate on a GPU machine without a package registry.
#
#   bash out/gpu/run.sh          in the clone's root, on the GPU
#   bash out/gpu/run.sh --tiny   the same on a CPU at tiny shapes, to try it
#
# OUT is where results go (results/ beside this file), PYTHON the Python that has torch.
set -u
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
results=${OUT:-$here/results}
python=${PYTHON:-python3}
if [ ! -d foveate ] || [ ! -d tests/gpu ]; then
    echo "run.sh: $PWD is no clone of foveate; run it in a clone's root" >&2
    exit 2
fi
tests=(--device cuda --seconds 200)
bench=(--device cuda --budget 240)
if [ "${1:-}" = --tiny ]; then
    tests=(-k "llava and fastv and single")
    bench=(--device cpu --tiny --budget 60 --rounds 1 --new-tokens 2)
fi

packages=$(mktemp -d)
trap 'rm -rf "$packages"' EXIT
"$python" -m tarfile -e "$here/packages.tar.xz" "$packages" || exit 2
export PYTHONPATH="$PWD:$packages" PYTHONDONTWRITEBYTECODE=1 HF_HUB_OFFLINE=1
mkdir -p "$results"
"$python" -m pytest -p no:cacheprovider tests/gpu "${tests[@]}" --out "$results"
tested=$?
"$python" -m benchmarks.gpu "${bench[@]}" --out "$results"
measured=$?
echo "run.sh: tests ended with $tested, the benchmark with $measured; results are in $results"
[ "$tested" -eq 0 ] && [ "$measured" -eq 0 ]
