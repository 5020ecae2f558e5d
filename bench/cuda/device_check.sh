#!/usr/bin/env bash
# Everything that one short session with a GPU has to answer, most wanted first, in one command of ten minutes. Runs
# beside what bundle.sh has gathered, or in a build folder: device_check.sh [FOLDER-FOR-LOGS]
# Every part has its own time limit, one that fails does not end the others, and what there is no time left for is
# skipped. SECONDS_IN_ALL: another time than 9 minutes.
set -uo pipefail
here=$(cd "$(dirname "$0")" && pwd)
source "$here/parts.sh" 2> /dev/null || source "$here/../parts.sh"
[ -x "$here/quern_cuda_test" ] || here=$here/../../build/cuda/bin
logs=${1:-${OUT:-/tmp/device_check}}
mkdir -p "$logs"
# The bundled libraries, and cuBLAS where pip has put it.
cublas=$(python3 -c 'import nvidia, os; print(os.pathsep.join(os.path.join(p, d, "lib") for p in nvidia.__path__ for d in os.listdir(p) if os.path.isdir(os.path.join(p, d, "lib"))))' 2>/dev/null)
export LD_LIBRARY_PATH="$here/lib:${cublas:-}:/usr/local/cuda/lib64:${LD_LIBRARY_PATH:-}"

ends=${SECONDS_IN_ALL:-540}
# part, within the time that is left.
timed() {
  local name=$1 limit=$2 left=$((ends - SECONDS))
  shift 2
  if ((left < 5)); then
    printf '\n==== %s: no time left\n' "$name"
    return
  fi
  part "$name" $((limit < left ? limit : left)) "$@"
}
# The matrices of a Llama-3-8B layer; their sums are shown, each matrix is in the log.
layers() {
  local name=$1
  shift
  LINES_SHOWN=12 timed "$name" 75 "$here/quern_cuda_bench" --quick "$@"
}

nvidia-smi --query-gpu=name,driver_version,memory.total,clocks.sm,clocks.mem --format=csv
layers layers --types gptq-4-128
for cluster in 2 4; do
  layers "layers-in-clusters-of-$cluster" --types gptq-4-128 --rows 16,32,64,128,256 --cluster $cluster
done
layers layers-most-shared --types gptq-4-128 --most-shared
# Q4_0 is multiplied by the kernels of symmetric GPTQ; its groups are of 32.
for type in Q4_0 Q4_K_M; do
  model=/tmp/llama-3-8b-$type.gguf
  [ -f "$model" ] || timed "make-$type" 60 "$here/quern_make_model" llama31-8b "$model" --type "$type"
  LINES_SHOWN=20 timed "decode-$type" 80 "$here/quern" bench "$model" --device cuda -p 2048 -n 128 -b 1,64 -d 512 -r 2
done
# What decides whether clusters may be the default: on its own, in case it hangs.
timed clusters 60 "$here/quern_cuda_test" --gtest_filter='*InClusters/cuda:*ManyUnits/cuda'
timed conformance 120 "$here/quern_cuda_test" --gtest_filter='*/cuda-*InClusters*:*ManyUnits*'
timed models 60 "$here/quern_models_test" --gtest_filter='*DeviceDecoder*/cuda'
LINES_SHOWN=20 timed invariant-Q4_0 60 env LLM_BATCH_INVARIANT=true "$here/quern" bench /tmp/llama-3-8b-Q4_0.gguf --device cuda \
  -p 2048 -n 128 -b 1,64 -d 512 -r 2
layers layers-of-other-types --types gptq-4-128-act,gptq-4-128-asym,Q4_K --rows 1,16,64,128
for tool in memcheck racecheck; do
  LINES_SHOWN=15 timed "$tool" 60 compute-sanitizer --tool "$tool" --error-exitcode 9 "$here/quern_cuda_test" \
    --gtest_filter='All/Matmul.Experts/cuda:All/DeviceAttention.SeveralSequencesInAStep/cuda'
done
# The metrics that come from the driver: memory and utilization.
metrics() {
  LLM_INFERENCE_PORT=38999 "$here/quern" serve --device cuda &
  local server=$!
  for _ in $(seq 100); do curl -sf localhost:38999/health/ready > /dev/null && break; sleep 0.2; done
  curl -s localhost:38999/metrics | grep -E '^quern_device_'
  kill "$server" && wait "$server"
}
export -f metrics
export here
timed metrics 30 bash -c metrics
# Last, in time of its own: it faults the GPU on purpose.
part recovery 25 "$here/quern_cuda_test" --gtest_filter='Cuda.AGpuThatFailedWorksAgain'

# Once more, for those who see only the end.
printf '\n==== layers\n'
for log in "$logs"/layers*.log; do
  printf '%s\n' "$(basename "$log" .log)"
  grep -E '(copy:| layer )' "$log"
done
