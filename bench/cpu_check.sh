#!/usr/bin/env bash
# What a machine with a CPU that the project has not met lately has to answer: whether the kernels for it are right, its
# limits, and how close to them they come. About four minutes. Runs beside what cuda/bundle.sh has gathered, or in a build
# folder: cpu_check.sh [FOLDER-FOR-LOGS]
set -uo pipefail
here=$(cd "$(dirname "$0")" && pwd)
[ -x "$here/quern_backend_test" ] || here=$here/../build/release/bin
[ -x "$here/quern_backend_test" ] || here=$here/../../dev/bin
logs=${1:-${OUT:-/tmp/cpu_check}}
mkdir -p "$logs"
export LD_LIBRARY_PATH="$here/lib:${LD_LIBRARY_PATH:-}"

# part NAME SECONDS COMMAND…
part() {
  local name=$1 limit=$2
  shift 2
  printf '\n==== %s\n' "$name"
  timeout "$limit" "$@" > "$logs/$name.log" 2>&1 || echo "status $?"
  grep -vE '^\[ (RUN|     OK) \]|^\[-+\]' "$logs/$name.log" | tail -n 25
}

lscpu | grep -E '^(Model name|CPU\(s\)|Thread|L[123])'
grep -m1 '^flags\|^Features' /proc/cpuinfo | grep -o -wE 'avx2|avx512f|avx512_vnni|avx512_bf16|amx_int8|avx_vnni|asimddp|i8mm' | sort -u | tr '\n' ' '
part backend 120 "$here/quern_backend_test"
part quant 60 "$here/quern_quant_test"
part limits 60 "$here/quern_limits" 2
for type in Q4_K_M Q4_0 Q8_0; do
  model=/tmp/1b-$type.gguf
  [ -f "$model" ] || part "make-$type" 60 "$here/quern_make_model" tinyllama-1b "$model" --type "$type"
  part "bench-$type" 120 "$here/quern" bench "$model" --device cpu -t 2 -p 512 -n 32 -r 3 -b 1,8,16
done
