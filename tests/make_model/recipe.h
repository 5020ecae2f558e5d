// Which type each tensor gets: one type for all matrices, or one of llama-quantize's mixes.
#pragma once

#include <string_view>
#include <vector>

#include "core/result.h"
#include "make_model/shape.h"
#include "quant/quant.h"

namespace quern::make_model {

struct Recipe {
  DType base = DType::F16;
  enum class Mix { none, small, medium } mix = Mix::none;  // _S, _M
  int64_t file_type = 1;                                   // general.file_type, llama.cpp's number

  /// A type's name, or Q4_K_S, Q4_K_M, Q5_K_S, Q5_K_M; any case.
  static Result<Recipe> parse(std::string_view name);
  /// As llama.cpp assigns them, with its fallbacks for rows that are not a whole number of blocks.
  std::vector<DType> types(const Shape& shape, const std::vector<Tensor>& tensors) const;
};

}  // namespace quern::make_model
