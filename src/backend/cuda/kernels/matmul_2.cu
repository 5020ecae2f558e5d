// GPTQ's 2 bits; Q2_K.
#include "backend/cuda/kernels/matmul_hopper.h"
#include "backend/cuda/kernels/matmul_tables.h"

namespace quern::cuda {

constexpr MatmulKernels kKernels[] = {kernels_of<Form{.bits = 2}>(),
                                      kernels_of<Form{.bits = 2, .min = true}>(),
                                      kernels_of<Form{.bits = 2, .sub = 16, .super = true, .min = true}>()};
const MatmulTable matmul_table_2 = {kKernels, sizeof(kKernels) / sizeof(kKernels[0])};

}  // namespace quern::cuda
