// F16, BF16 and F32.
#include "backend/cuda/kernels/matmul_hopper.h"
#include "backend/cuda/kernels/matmul_tables.h"

namespace quern::cuda {

constexpr MatmulKernels kKernels[] = {kernels_of<Form{.bits = 16}>()};
const MatmulTable matmul_table_16 = {kKernels, sizeof(kKernels) / sizeof(kKernels[0])};

}  // namespace quern::cuda
