// Q6_K.
#include "backend/cuda/kernels/matmul_hopper.h"
#include "backend/cuda/kernels/matmul_tables.h"

namespace quern::cuda {

constexpr MatmulKernels kKernels[] = {kernels_of<Form{.bits = 6, .sub = 16, .super = true}>()};
const MatmulTable matmul_table_6 = {kKernels, sizeof(kKernels) / sizeof(kKernels[0])};

}  // namespace quern::cuda
