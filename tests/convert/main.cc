// quern_convert CHECKPOINT OUT.gguf TYPE: a checkpoint as a GGUF file, its matrices in F32, F16 or BF16. For
// tests: what the checkpoint itself answers is held to what its GGUF answers, here and in llama.cpp.
#include <fmt/format.h>

#include "engine/served_model.h"
#include "formats/gguf.h"
#include "models/gguf_tensors.h"
#include "quant/quant.h"

namespace quern {
namespace {

/// One part of a tensor, row by row.
Result<> write_part(GgufWriter& writer, const GgufTensorPlan& plan, const RawTensor& part,
                    const QuantInfo& to) {
  const bool vector = part.shape.size() == 1;
  const int64_t rows = vector ? part.shape[0] : part.rows(), cols = vector ? 1 : part.cols();
  // A vector's rows are its elements.
  const RawTensor source{part.name, part.dtype, {rows, cols}, part.data};
  std::vector<float> values(static_cast<size_t>(cols));
  std::vector<std::byte> encoded(static_cast<size_t>(cols) * to.bytes);
  for (int64_t row = 0; row < rows; ++row) {
    decode_rows(source, plan.source_row(row), 1, values.data());
    to.encode(values.data(), encoded.data(), values.size(), nullptr);
    QUERN_TRY_VOID(writer.write(encoded));
  }
  return {};
}

Result<> convert(const std::string& folder, const std::string& out, std::string_view type) {
  const QuantInfo* matrices = find_quant(type);
  if (matrices == nullptr || matrices->block != 1)
    return fail(ErrorCode::invalid_argument, "{}: not F32, F16 or BF16", type);
  QUERN_TRY(const auto source, open_model_source(folder, ""));
  QUERN_TRY(const auto plans, gguf_tensors(*source));
  const auto type_of = [&](const GgufTensorPlan& plan) -> const QuantInfo& {
    // llama.cpp wants vectors and routers in F32.
    const bool small = plan.shape.size() == 1 || plan.role == Role::router;
    return small ? *find_quant(DType::F32) : *matrices;
  };
  std::vector<GgufTensor> tensors;
  for (const auto& plan : plans) tensors.push_back({plan.name, type_of(plan).dtype, plan.shape});
  QUERN_TRY(const auto writer, GgufWriter::create(out, source->metadata(), tensors));
  for (const auto& plan : plans) {
    for (const RawTensor* part : plan.parts) QUERN_TRY_VOID(write_part(*writer, plan, *part, type_of(plan)));
  }
  return writer->finish();
}

}  // namespace
}  // namespace quern

int main(int argc, char** argv) {
  if (argc != 4) {
    fmt::print(stderr, "usage: quern_convert CHECKPOINT OUT.gguf F32|F16|BF16\n");
    return 2;
  }
  const auto done = quern::convert(argv[1], argv[2], argv[3]);
  if (!done) fmt::print(stderr, "error: {}\n", done.error().message);
  return done ? 0 : 1;
}
