#include <initializer_list>

#include "backend/cuda/kernels/matmul_tables.h"

namespace quern::cuda {

const MatmulKernels* matmul_kernels(const Form& form) {
  for (const MatmulTable* table : {&matmul_table_2, &matmul_table_3, &matmul_table_4, &matmul_table_5,
                                   &matmul_table_6, &matmul_table_8, &matmul_table_16}) {
    for (int i = 0; i < table->count; ++i)
      if (table->kernels[i].form == form) return &table->kernels[i];
  }
  return nullptr;
}

}  // namespace quern::cuda
