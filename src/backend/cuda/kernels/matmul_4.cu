// Q4_0 and GPTQ; Q4_1 and GPTQ with zero points; Q4_K.
#include "backend/cuda/kernels/matmul_hopper.h"
#include "backend/cuda/kernels/matmul_tables.h"

namespace quern::cuda {

constexpr MatmulKernels kKernels[] = {kernels_of<Form{.bits = 4}>(),
                                      kernels_of<Form{.bits = 4, .min = true}>(),
                                      kernels_of<Form{.bits = 4, .super = true, .min = true}>()};
const MatmulTable matmul_table_4 = {kKernels, sizeof(kKernels) / sizeof(kKernels[0])};

}  // namespace quern::cuda
