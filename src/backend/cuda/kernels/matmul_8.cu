// Q8_0, Q8_1, Q8_K and GPTQ; GPTQ with zero points.
#include "backend/cuda/kernels/matmul_hopper.h"
#include "backend/cuda/kernels/matmul_tables.h"

namespace quern::cuda {

constexpr MatmulKernels kKernels[] = {kernels_of<Form{.bits = 8}>(),
                                      kernels_of<Form{.bits = 8, .min = true}>()};
const MatmulTable matmul_table_8 = {kKernels, sizeof(kKernels) / sizeof(kKernels[0])};

}  // namespace quern::cuda
