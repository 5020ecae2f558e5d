// What a quantizer did to each tensor, kept in the metadata of the file that it wrote.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "formats/weight_source.h"
#include "quant/recipe.h"

namespace quern {

struct QuantizedTensor {
  std::string name;
  std::vector<int64_t> shape;  // outermost first
  TypeChoice type;
  std::string stored_as;  // the type used, for people: "Q4_K", "GPTQ 4-bit g128"
  uint64_t bytes = 0;
  /// Root mean square of what quantizing changed, over that of the weights themselves, in a sample of rows;
  /// −1: not known.
  double error = -1;
};

/// The type asked, as `stored_as` says the type used.
std::string asked_name(const QuantizedTensor& tensor);

/// Adds the report's keys ("quern.quantization.…"); `tensors` in the order of the file. The size of what is
/// added does not depend on the errors.
void add_quantization_report(Metadata& metadata, const std::vector<QuantizedTensor>& tensors);

/// What the file tells; of a file that tells nothing, its types as they are.
std::vector<QuantizedTensor> quantization_report(const WeightSource& source);

}  // namespace quern
