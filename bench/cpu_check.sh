#!/usr/bin/env bash
# What a machine with a CPU that the project has not met lately has to answer: whether the kernels for it are right, its
# limits, and how close to them it comes. Runs beside what cuda/bundle.sh has gathered, or on build/dev (tests) and
# build/release: cpu_check.sh [FOLDER-FOR-LOGS]
set -uo pipefail
here=$(cd "$(dirname "$0")" && pwd)
source "$here/parts.sh"
tests=$here programs=$here
if [ ! -x "$here/quern" ]; then tests=$here/../build/dev/bin programs=$here/../build/release/bin; fi
logs=${1:-${OUT:-/tmp/cpu_check}}
mkdir -p "$logs"
export LD_LIBRARY_PATH="$here/lib:${LD_LIBRARY_PATH:-}"

lscpu | grep -E '^(Model name|CPU\(s\)|Thread|L[123])'
grep -m1 '^flags\|^Features' /proc/cpuinfo | grep -o -wE 'avx2|avx512f|avx512_vnni|avx512_bf16|amx_int8|avx_vnni|asimddp|i8mm' | sort -u | paste -sd " "
part backend 120 "$tests/quern_backend_test"
part quant 60 "$tests/quern_quant_test"
part limits 60 "$programs/quern_limits" 2
for tile in "Q4_K 1" "Q4_K 8" "Q8_0 1"; do part "tiles-${tile/ /-x}" 60 "$programs/quern_tiles" $tile; done
for type in Q4_K_M Q4_0 Q8_0; do
  model=/tmp/1b-$type.gguf
  [ -f "$model" ] || part "make-$type" 60 "$programs/quern_make_model" tinyllama-1b "$model" --type "$type"
  part "bench-$type" 120 "$programs/quern" bench "$model" --device cpu -t 2 -p 512 -n 32 -r 3 -b 1,8,16
done
