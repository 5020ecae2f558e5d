#!/usr/bin/env bash
# Builds what device_check.sh runs and puts it, with the libraries it needs, into one folder that can be carried to a
# machine with a GPU and no compiler: bench/cuda/bundle.sh [FOLDER]
set -euo pipefail
cd "$(dirname "$0")/../.."
folder=${1:-build/device}

[ -f build/cuda/build.ninja ] || cmake --preset cuda
cmake --build build/cuda --target quern quern_cuda quern_cuda_test quern_models_test quern_cuda_bench quern_make_model \
  quern_backend_test quern_quant_test quern_limits quern_tiles
rm -rf "$folder"
mkdir -p "$folder/lib"
for name in quern libquern_cuda.so quern_cuda_test quern_models_test quern_cuda_bench quern_make_model \
  quern_backend_test quern_quant_test quern_limits quern_tiles; do
  strip -o "$folder/$name" "build/cuda/bin/$name"
done
# All but the C library's own parts, which must be the other machine's.
ldd "$folder"/quern* "$folder/libquern_cuda.so" | awk '$2 == "=>" && $3 ~ /^\// {print $3}' | sort -u |
  grep -vE '/(libc|libm|libdl|librt|libpthread|libresolv|ld-linux[^/]*)\.so' | xargs -I{} cp -L {} "$folder/lib/"
cp bench/cuda/device_check.sh bench/cpu_check.sh bench/parts.sh "$folder/"
du -sh "$folder"
