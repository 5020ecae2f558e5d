#include "models/quantization_report.h"

#include "quant/quant.h"

namespace quern {
namespace {

constexpr std::string_view kAsked = "quern.quantization.asked", kWhy = "quern.quantization.why",
                           kError = "quern.quantization.error";

}  // namespace

std::string asked_name(const QuantizedTensor& tensor) {
  return tensor.type.asked == tensor.type.used ? tensor.stored_as : dtype_name(tensor.type.asked);
}

void add_quantization_report(Metadata& metadata, const std::vector<QuantizedTensor>& tensors) {
  std::vector<uint64_t> asked;
  std::vector<std::string> why;
  std::vector<double> error;
  for (const QuantizedTensor& tensor : tensors) {
    asked.push_back(static_cast<uint64_t>(tensor.type.asked));
    why.push_back(tensor.type.why);
    error.push_back(tensor.error);
  }
  metadata.add(std::string(kAsked), Metadata::Array{std::move(asked)});
  metadata.add(std::string(kWhy), Metadata::Array{std::move(why)});
  metadata.add(std::string(kError), Metadata::Array{std::move(error)});
}

std::vector<QuantizedTensor> quantization_report(const WeightSource& source) {
  const auto asked = source.metadata().integers(kAsked);
  const auto* why = source.metadata().strings(kWhy);
  const auto error = source.metadata().numbers(kError);
  const std::span<const RawTensor> tensors = source.tensors();
  const bool told = asked && asked->size() == tensors.size() && why != nullptr &&
                    why->size() == tensors.size() && error && error->size() == tensors.size();
  std::vector<QuantizedTensor> report;
  for (size_t i = 0; i < tensors.size(); ++i) {
    const RawTensor& tensor = tensors[i];
    QuantizedTensor& entry = report.emplace_back();
    entry.name = tensor.name;
    entry.shape = tensor.shape;
    entry.bytes = stored_bytes(tensor);
    entry.stored_as = type_name(tensor);
    entry.type = {tensor.dtype, tensor.dtype, "as stored in the file"};
    if (!told) continue;
    const auto type = static_cast<DType>((*asked)[i]);
    if ((*asked)[i] >= 0 && find_quant(type) != nullptr) entry.type.asked = type;
    entry.type.why = (*why)[i];
    entry.error = (*error)[i];
  }
  return report;
}

}  // namespace quern
