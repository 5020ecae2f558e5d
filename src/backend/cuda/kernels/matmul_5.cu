// Q5_0; Q5_1; Q5_K.
#include "backend/cuda/kernels/matmul_hopper.h"
#include "backend/cuda/kernels/matmul_tables.h"

namespace quern::cuda {

constexpr MatmulKernels kKernels[] = {kernels_of<Form{.bits = 5}>(),
                                      kernels_of<Form{.bits = 5, .min = true}>(),
                                      kernels_of<Form{.bits = 5, .super = true, .min = true}>()};
const MatmulTable matmul_table_5 = {kKernels, sizeof(kKernels) / sizeof(kKernels[0])};

}  // namespace quern::cuda
