#!/usr/bin/env bash
# Everything that one short session with a GPU has to answer, most important first; about eight minutes. Runs beside
# what bundle.sh has gathered, or in a build folder: device_check.sh [FOLDER-FOR-LOGS]
# Every part has its own time limit, and one that fails does not end the others.
set -uo pipefail
here=$(cd "$(dirname "$0")" && pwd)
source "$here/parts.sh" 2> /dev/null || source "$here/../parts.sh"
[ -x "$here/quern_cuda_test" ] || here=$here/../../build/cuda/bin
logs=${1:-${OUT:-/tmp/device_check}}
mkdir -p "$logs"
# The bundled libraries, and cuBLAS where pip has put it.
cublas=$(python3 -c 'import nvidia, os; print(os.pathsep.join(os.path.join(p, d, "lib") for p in nvidia.__path__ for d in os.listdir(p) if os.path.isdir(os.path.join(p, d, "lib"))))' 2>/dev/null)
export LD_LIBRARY_PATH="$here/lib:${cublas:-}:/usr/local/cuda/lib64:${LD_LIBRARY_PATH:-}"

nvidia-smi --query-gpu=name,driver_version,memory.total,clocks.sm,clocks.mem --format=csv
part conformance 150 "$here/quern_cuda_test" --gtest_filter='*/cuda-*InClusters*'
part models 60 "$here/quern_models_test" --gtest_filter='*DeviceDecoder*/cuda'
for tool in memcheck racecheck; do
  LINES_SHOWN=15 part "$tool" 60 compute-sanitizer --tool "$tool" --error-exitcode 9 "$here/quern_cuda_test" \
    --gtest_filter='All/Device.Experts/cuda:All/DeviceAttention.SeveralSequencesInAStep/cuda'
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
part metrics 60 bash -c metrics
part recovery 60 "$here/quern_cuda_test" --gtest_filter='Cuda.AGpuThatFailedWorksAgain'
LINES_SHOWN=200 part kernels 90 "$here/quern_cuda_bench" --types gptq-4-128,Q4_K
# Written without a GPU: on its own, in case it hangs.
part clusters 30 "$here/quern_cuda_test" --gtest_filter='*InClusters/cuda'
for cluster in 2 4; do
  LINES_SHOWN=200 part "clusters-of-$cluster" 45 "$here/quern_cuda_bench" --types gptq-4-128 --rows 16,32,64,128,256 --cluster $cluster
done
LINES_SHOWN=200 part variants 60 "$here/quern_cuda_bench" --quick --types gptq-4-32,gptq-4-128-asym,gptq-4-128-act,gptq-8-128
for type in Q4_0 Q4_K_M; do
  model=/tmp/llama-3-8b-$type.gguf
  [ -f "$model" ] || part "make-$type" 60 "$here/quern_make_model" llama31-8b "$model" --type "$type"
  LINES_SHOWN=20 part "decode-$type" 80 "$here/quern" bench "$model" --device cuda -p 2048 -n 128 -b 1,64 -d 512 -r 2
  LINES_SHOWN=20 part "invariant-$type" 80 env LLM_BATCH_INVARIANT=true "$here/quern" bench "$model" --device cuda -p 2048 -n 128 \
    -b 1,64 -d 512 -r 2
done
