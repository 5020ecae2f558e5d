#include "quant/stored.h"

#include "quant/quant.h"

namespace quern {

Result<> check_matrix(const RawTensor& tensor) {
  const QuantInfo* info = find_quant(tensor.dtype);
  if (info == nullptr)
    return fail(ErrorCode::unsupported, "tensor {}: type {} is not supported", tensor.name,
                dtype_name(tensor.dtype));
  if (tensor.shape.size() != 2 && tensor.shape.size() != 3)
    return fail(ErrorCode::invalid_argument,
                "tensor {}: a matrix has 2 dimensions, a stack of them 3, this has {}", tensor.name,
                tensor.shape.size());
  for (const int64_t n : tensor.shape)
    if (n <= 0 || n > 1 << 30)
      return fail(ErrorCode::invalid_argument, "tensor {}: a dimension of {}", tensor.name, n);
  const auto bytes =
      tensor_bytes(tensor.dtype, static_cast<uint64_t>(tensor.rows()), static_cast<uint64_t>(tensor.cols()));
  if (!bytes || *bytes != tensor.data.size())
    return fail(ErrorCode::corrupt, "tensor {}: {} bytes do not hold {} × {} of {}", tensor.name,
                tensor.data.size(), tensor.rows(), tensor.cols(), info->name);
  return {};
}

Result<std::vector<float>> decode_vector(const RawTensor& tensor) {
  const QuantInfo* info = find_quant(tensor.dtype);
  if (info == nullptr)
    return fail(ErrorCode::unsupported, "tensor {}: type {} is not supported", tensor.name,
                dtype_name(tensor.dtype));
  const int64_t n = tensor.elements();
  const auto bytes = n > 0 ? tensor_bytes(tensor.dtype, 1, static_cast<uint64_t>(n)) : std::nullopt;
  if (!bytes || *bytes != tensor.data.size())
    return fail(ErrorCode::corrupt, "tensor {}: {} bytes do not hold {} elements of {}", tensor.name,
                tensor.data.size(), n, info->name);
  std::vector<float> values(static_cast<size_t>(n));
  info->decode(tensor.data.data(), values.data(), values.size());
  return values;
}

}  // namespace quern
