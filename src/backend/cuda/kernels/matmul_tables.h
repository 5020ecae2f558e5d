// The forms that have kernels, by bits: one table a file.
#pragma once

#include "backend/cuda/launch.h"

namespace quern::cuda {

struct MatmulTable {
  const MatmulKernels* kernels;
  int count;
};

extern const MatmulTable matmul_table_2, matmul_table_3, matmul_table_4, matmul_table_5, matmul_table_6,
    matmul_table_8, matmul_table_16;

}  // namespace quern::cuda
