#!/usr/bin/env bash
# What needs a GPU, as calls of under 9 minutes each, unattended: a step that fails or is slow stops no other.
#   A  ceilings, the tests, tuning, a profile and the counters of one launch
#   B  attention against what users have, kernel alone and whole calls
#   C  planning, k-means, HunyuanVideo, memory, the memory and race checkers, tensors of more than 2^31 elements
#   D  whole denoising steps of Wan 14B in ComfyUI, which $COMFYUI_PATH names and the python at hand can import
#   E  more training of the tiny model, from $WEIGHTS or the committed ones; needs diffusers
# A call leaves a log and a file of rows in the folder given; A also the table that it tuned and a trace. Takes the python
# at hand (or $PYTHON), with torch, triton and pytest. Wheels in $WHEELS (or .whl/) are installed for the call alone.
# With --plan instead of a folder it prints the steps and the seconds that they may take; REHEARSE=1 runs all of it on a
# CPU, small (benchmarks/rehearsal.py).
set -uo pipefail
cd "$(dirname "$0")/.."
usage="usage: benchmarks/run_gpu.sh A|B|C|D|E OUTPUT_FOLDER|--plan"
call=${1:?$usage} out=${2:?$usage}
[[ $call == [A-E] ]] || { echo "$usage" >&2 && exit 2; }
python=${PYTHON:-python3}
quick=() few=() parallel=() training=(--minutes 7.5 --compile --batches 16) summary=() total=0 failed=0
log=$out/$call.log rows=$out/$call.jsonl
export PYTHONUNBUFFERED=1

step() { # seconds, name, command
    local seconds=$1 name=$2 begin=$SECONDS code from
    shift 2
    total=$((total + seconds + 5))
    if [ "$out" = --plan ]; then
        echo "$seconds $name"
        return
    fi
    echo "== $name: $*" >> "$log"
    from=$(wc -l < "$log")
    timeout -k 5 "$seconds" "$@" >> "$log" 2>&1
    code=$?
    printf '\n== %s\n' "$name"
    tail -n "+$((from + 1))" "$log" | tail -n "$lines" | cut -c 1-150
    summary+=("$(printf '%-12s exit %-3s %4s of %s s' "$name" "$code" "$((SECONDS - begin))" "$seconds")")
    [ "$code" = 0 ] && return
    failed=1
    summary[-1]+="  <-- FAILED"
    [ "$name" = correctness ] && summary+=("!!! THE TESTS FAILED: no time of this call is of kernels known to be right !!!")
}

if [ "$out" != --plan ]; then
    mkdir -p "$out"
    : > "$log"
    if "$python" -c "import xdist" 2> /dev/null; then
        parallel=(-n 6) # most of the tests' time is compiling
    fi
    if [ "${REHEARSE:-}" = 1 ]; then
        programs=$(mktemp -d)
        trap 'rm -rf "$programs"' EXIT
        "$python" benchmarks/rehearsal.py "$programs"
        PATH=$programs:$PATH
        quick=(-k rejects)
        training=(--steps 2 --device cpu)
        few=(--kernels gather_attention assign --configs 128x64w8s5 64x64w4s3 256x128w8s5)
    fi
fi
wheels=${WHEELS:-.whl}
lines=5
if compgen -G "$wheels/*.whl" > /dev/null; then
    installed=$(mktemp -d)
    step 20 wheels "$python" -m pip install --quiet --no-index --no-deps --target "$installed" "$wheels"/*.whl
    export PYTHONPATH=$installed${PYTHONPATH:+:$PYTHONPATH}
fi
case $call in
    A)
        lines=14
        step 50 ceilings "$python" benchmarks/ceilings.py --json "$rows"
        # test_signatures needs no GPU, and test_large comes with C.
        step 185 correctness "$python" -m pytest -q -p no:cacheprovider --tb=short "${parallel[@]}" "${quick[@]}" \
            --ignore tests/kernels/test_signatures.py --ignore tests/kernels/test_large.py \
            tests/kernels tests/svg_core/test_attention.py tests/svg_core/test_gpu.py
        [ "$out" = --plan ] || cp kernels/tile_configs.json "$out/"
        lines=28
        step 165 tune "$python" benchmarks/tune.py --kernels gather_attention --repeats 5 --seconds 145 \
            --table "$out/tile_configs.json" --json "$rows" "${few[@]}"
        lines=14
        # What follows runs what was tuned.
        [ "$out" = --plan ] || [ "${REHEARSE:-}" = 1 ] || cp "$out/tile_configs.json" kernels/
        step 40 profile "$python" benchmarks/profile_call.py --json "$rows" --trace "$out/trace.json.gz"
        lines=40
        step 50 counters ncu --clock-control none --launch-count 1 --kernel-name regex:gather_attention \
            --section LaunchStats --section Occupancy --section SpeedOfLight --section ComputeWorkloadAnalysis \
            --section MemoryWorkloadAnalysis --section SchedulerStats --section WarpStateStats --print-details all \
            "$python" benchmarks/profile_call.py --mode kernel --heads 8
        ;;
    B)
        lines=34
        attention=("$python" benchmarks/attention.py --densities 0.15 0.25 0.5 --repeats 5 --json "$rows")
        step 290 wan "${attention[@]}" --shapes wan14b_720p --seconds 230
        step 190 cogvideox "${attention[@]}" --shapes cogvideox15 --seconds 140
        ;;
    C)
        lines=11
        step 65 planning "$python" benchmarks/planning.py --shapes wan14b_720p hunyuan_720p --repeats 5 --json "$rows"
        step 35 kmeans "$python" benchmarks/kmeans.py --shapes wan14b_720p --repeats 5 --json "$rows"
        step 105 hunyuan "$python" benchmarks/attention.py --shapes hunyuan_720p --densities 0.25 --repeats 3 --seconds 75 \
            --json "$rows"
        step 45 memory "$python" benchmarks/memory.py --shapes wan14b_720p --repeats 2 --json "$rows"
        step 45 small "$python" benchmarks/profile_call.py --mode small # compiles for the two after it
        # Each tensor in memory of its own, so that what lies beyond it is not another's.
        for tool in memcheck racecheck; do
            step 60 "$tool" env PYTORCH_NO_CUDA_MEMORY_CACHING=1 compute-sanitizer --tool "$tool" --error-exitcode 9 \
                --print-limit 5 "$python" benchmarks/profile_call.py --mode small
        done
        step 60 large "$python" -m pytest -q -p no:cacheprovider --tb=short tests/kernels/test_large.py
        ;;
    D)
        lines=60
        step 520 steps "$python" benchmarks/steps.py --shapes wan14b_720p --seconds 380 --json "$rows"
        ;;
    E)
        lines=20
        step 520 train "$python" demo/train_tiny_wan.py "${training[@]}" --weights "${WEIGHTS:-demo/tiny_wan.safetensors}" \
            --state "$out/training.pt" --export "$out/tiny_wan.safetensors"
        [ "$out" = --plan ] || rm -f "$out/training.pt" # 70 MB
        ;;
esac
if [ "$out" = --plan ]; then
    echo "$total in all, with 5 each to stop"
else
    printf '\n'
    printf '%s\n' "${summary[@]}"
fi
exit "$failed"
