#!/usr/bin/env bash
# Everything that needs a GPU, in under 9 minutes: correctness, tuning, benchmarks. Results go to the folder given.
# Takes the python that is at hand (or $PYTHON), with torch, triton and pytest.
set -uo pipefail
cd "$(dirname "$0")/.."
out=${1:?usage: benchmarks/run_gpu.sh OUTPUT_FOLDER}
python=${PYTHON:-python3}
mkdir -p "$out"
step() { # seconds, log name, command: a step that fails or runs out of time does not stop the next
    local seconds=$1 name=$2
    shift 2
    echo "== $name"
    timeout "$seconds" "$@" > "$out/$name.log" 2>&1
    echo "   exit $?, $(tail -n 1 "$out/$name.log")"
}
step 150 correctness "$python" -m pytest tests/kernels tests/svg_core/test_attention.py tests/svg_core/test_gpu.py -q
step 120 tune "$python" benchmarks/tune.py --limit 40
cp kernels/tile_configs.json "$out/"
step 130 attention "$python" benchmarks/attention.py --shapes wan14b_720p cogvideox15 --repeats 5 --json "$out/gpu.jsonl"
step 40 planning "$python" benchmarks/planning.py --shapes wan14b_720p hunyuan_720p --repeats 5 --json "$out/gpu.jsonl"
step 40 kmeans "$python" benchmarks/kmeans.py --shapes wan14b_720p --repeats 5 --json "$out/gpu.jsonl"
step 40 memory "$python" benchmarks/memory.py --shapes wan14b_720p --repeats 2 --json "$out/gpu.jsonl"
