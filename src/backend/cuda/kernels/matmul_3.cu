// GPTQ's 3 bits; Q3_K.
#include "backend/cuda/kernels/matmul_hopper.h"
#include "backend/cuda/kernels/matmul_tables.h"

namespace quern::cuda {

constexpr MatmulKernels kKernels[] = {kernels_of<Form{.bits = 3}>(),
                                      kernels_of<Form{.bits = 3, .min = true}>(),
                                      kernels_of<Form{.bits = 3, .sub = 16, .super = true}>()};
const MatmulTable matmul_table_3 = {kKernels, sizeof(kKernels) / sizeof(kKernels[0])};

}  // namespace quern::cuda
