#include "quantize/single_type.h"

#include "quant/quant.h"

namespace quern {
namespace {

bool fits(DType type, int64_t cols) { return cols % find_quant(type)->block == 0; }

/// For embedding and head.
DType promoted(DType type) {
  const QuantInfo& info = *find_quant(type);
  if (info.family == Family::floating) return type;
  return info.affine.bits <= 4 ? DType::Q6_K : DType::Q8_0;
}

}  // namespace

DType fallback_type(DType type, int64_t cols) {
  if (fits(type, cols)) return type;
  switch (type) {
    case DType::Q2_K:
    case DType::Q3_K:
      type = DType::Q4_0;
      break;
    case DType::Q4_K:
      type = DType::Q5_0;
      break;
    case DType::Q5_K:
      type = DType::Q5_1;
      break;
    default:
      type = DType::Q8_0;
  }
  return fits(type, cols) ? type : DType::F16;
}

namespace {

/// `choice.used`, where the tensor's rows allow it.
TypeChoice fitted(TypeChoice choice, const GgufTensorPlan& tensor) {
  const DType fitting = fallback_type(choice.used, tensor.shape.back());
  if (fitting != choice.used)
    choice.why =
        fmt::format("rows of {} are not whole blocks of {}", tensor.shape.back(), dtype_name(choice.used));
  choice.used = fitting;
  return choice;
}

}  // namespace

TypeChoice pure_type(DType type, const GgufTensorPlan& tensor) {
  if (tensor.shape.size() == 1) return {DType::F32, DType::F32, ""};
  if (tensor.role == Role::router) return {type, DType::F32, "a router decides too much"};
  return fitted({type, type, ""}, tensor);
}

TypeChoice single_type(DType type, const GgufTensorPlan& tensor) {
  const bool head = tensor.role == Role::output;
  if ((!head && tensor.role != Role::token_embd) || promoted(type) == type) return pure_type(type, tensor);
  return fitted({type, promoted(type), head ? "the head matters more" : "the embedding matters more"},
                tensor);
}

}  // namespace quern
