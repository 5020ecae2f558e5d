#include "quantize/gptq_quantize.h"

#include <algorithm>
#include <array>
#include <atomic>
#include <chrono>
#include <cmath>
#include <nlohmann/json.hpp>
#include <unordered_map>

#include "backend/backend.h"
#include "core/file.h"
#include "formats/gptq_layout.h"
#include "models/arch.h"
#include "models/hf_config.h"
#include "models/model.h"
#include "quant/quant.h"
#include "quantize/gptq_layers.h"
#include "quantize/gptq_solver.h"

namespace quern {
namespace {

namespace fs = std::filesystem;
using nlohmann::ordered_json;

/// What readers of the format ask of both sides of a matrix.
constexpr int64_t kMultiple = 32;
constexpr size_t kMaxTextFile = size_t{1} << 30;
/// Beside the weights, where the source has them.
constexpr std::string_view kTextFiles[] = {"tokenizer.json",
                                           "tokenizer.model",
                                           "tokenizer_config.json",
                                           "special_tokens_map.json",
                                           "added_tokens.json",
                                           "vocab.json",
                                           "merges.txt",
                                           "chat_template.jinja",
                                           "chat_template.json",
                                           "generation_config.json"};

std::string_view safetensors_type(DType dtype) {
  return dtype == DType::F32 ? "F32" : dtype == DType::F16 ? "F16" : "BF16";
}

std::span<const std::byte> bytes_of(const auto& values) { return std::as_bytes(std::span(values)); }

/// A module's tensors in the file, by their places in the writer's list.
struct Module {
  size_t qweight = 0, qzeros = 0, scales = 0, g_idx = 0;
};

class GptqQuantizer {
 public:
  GptqQuantizer(const WeightSource& source, const GptqOptions& options)
      : source_(source), options_(options), format_(options.format) {}

  Result<GptqReport> run(const fs::path& destination);

 private:
  Result<> plan();
  void plan_module(const RawTensor& tensor, std::vector<safetensors::NewTensor>& out);
  Result<> check_shape(const RawTensor& tensor) const;
  Result<> copy_others();
  Result<> copy_texts();
  Result<> round_all();
  Result<> visit(SharedInputs& inputs);
  Result<Buffer> read_weights(const RawTensor& tensor);
  Result<> solve(const GptqFactor& factor, const RawTensor& tensor, int64_t seen, Buffer& weights);
  Result<> write(const Module& module, const GptqMatrix& matrix);
  ordered_json quantization_config() const;
  bool report_progress(double share) const;
  GptqTensor& entry(const RawTensor& tensor) { return report_.tensors[entries_.at(&tensor)]; }

  const WeightSource& source_;
  const GptqOptions& options_;
  const GptqFormat format_;
  std::unique_ptr<Dense> dense_;
  std::vector<const RawTensor*> copied_;
  std::unordered_map<const RawTensor*, size_t> entries_;  // in the report
  std::unordered_map<const RawTensor*, size_t> copies_;   // in new_tensors_
  std::unordered_map<const RawTensor*, Module> modules_;
  std::vector<safetensors::NewTensor> new_tensors_;
  std::unique_ptr<safetensors::CheckpointWriter> writer_;
  GptqReport report_;
};

bool GptqQuantizer::report_progress(double share) const {
  if (!options_.progress) return true;
  const auto total = static_cast<double>(report_.source_bytes);
  return options_.progress(static_cast<uint64_t>(share * total), report_.source_bytes);
}

Result<> GptqQuantizer::check_shape(const RawTensor& tensor) const {
  const int64_t rows = tensor.rows(), cols = tensor.cols(), group = format_.group_of(cols);
  if (cols % group != 0)
    return fail(
        ErrorCode::invalid_argument,
        "tensor {}: its {} inputs cannot be cut into groups of {}: take a group that divides them, or "
        "gptq-{}bit-channel",
        tensor.name, cols, group, format_.bits);
  if (rows % kMultiple != 0 || cols % kMultiple != 0)
    return fail(ErrorCode::unsupported,
                "tensor {}: {} × {} weights; GPTQ's words need multiples of {} on both sides", tensor.name,
                rows, cols, kMultiple);
  return {};
}

void GptqQuantizer::plan_module(const RawTensor& tensor, std::vector<safetensors::NewTensor>& out) {
  const int64_t rows = tensor.rows(), cols = tensor.cols(), groups = cols / format_.group_of(cols);
  const std::string module = tensor.name.substr(0, tensor.name.rfind('.'));
  modules_[&tensor] = {out.size(), out.size() + 1, out.size() + 2, out.size() + 3};
  out.push_back({module + ".qweight", "I32", {*gptq::stream_words(cols, format_.bits), rows}});
  out.push_back({module + ".qzeros", "I32", {groups, *gptq::stream_words(rows, format_.bits)}});
  out.push_back({module + ".scales", "F16", {groups, rows}});
  out.push_back({module + ".g_idx", "I32", {cols}});
}

Result<> GptqQuantizer::plan() {
  QUERN_TRY(const auto matrices, layer_matrices(source_));
  QUERN_TRY(const ModelConfig config, read_model_config(source_));
  std::vector<std::string_view> not_there;  // what open_checkpoint adds to the file's tensors
  for (const Role role : {Role::rope_freqs, Role::rope_factors_long, Role::rope_factors_short})
    if (const TensorName* names = find_name(*find_arch(config.architecture), role))
      not_there.push_back(names->gguf);
  for (const RawTensor& tensor : source_.tensors()) {
    if (std::ranges::find(not_there, tensor.name) != not_there.end()) continue;
    const size_t first = new_tensors_.size();
    const bool quantized = std::ranges::find(matrices, &tensor) != matrices.end();
    if (quantized) {
      QUERN_TRY_VOID(check_shape(tensor));
      plan_module(tensor, new_tensors_);
    } else {
      copies_[&tensor] = first;
      new_tensors_.push_back({tensor.name, std::string(safetensors_type(tensor.dtype)), tensor.shape});
    }
    entries_[&tensor] = report_.tensors.size();
    GptqTensor& entry = report_.tensors.emplace_back();
    entry.name = tensor.name;
    entry.shape = tensor.shape;
    entry.quantized = quantized;
    for (size_t i = first; i < new_tensors_.size(); ++i) {
      QUERN_TRY(const uint64_t bytes, new_tensors_[i].bytes());
      entry.bytes += bytes;
    }
    report_.bytes += entry.bytes;
    report_.source_bytes += tensor.data.size();
  }
  return {};
}

/// The matrix in f32, checked.
Result<Buffer> GptqQuantizer::read_weights(const RawTensor& tensor) {
  QUERN_TRY(Buffer weights, Buffer::allocate(static_cast<size_t>(tensor.elements()) * sizeof(float)));
  const int64_t cols = tensor.cols();
  std::atomic<int64_t> bad{-1};
  dense_->pool().parallel_for(tensor.rows(), 1, [&](int64_t begin, int64_t end) {
    for (int64_t r = begin; r < end; ++r) {
      float* row = weights.as<float>() + r * cols;
      decode_rows(tensor, r, 1, row);
      if (!std::all_of(row, row + cols, [](float w) { return std::isfinite(w); })) bad = r;
    }
  });
  QUERN_TRY_VOID(source_.check());
  if (bad >= 0)
    return fail(ErrorCode::corrupt, "tensor {}: row {} has a value that is not finite", tensor.name,
                bad.load());
  return weights;
}

Result<> GptqQuantizer::write(const Module& module, const GptqMatrix& matrix) {
  const int bits = format_.bits;
  const int64_t words = *gptq::stream_words(matrix.cols, bits),
                zero_words = *gptq::stream_words(matrix.rows, bits);
  std::vector<uint32_t> qweight(static_cast<size_t>(words * matrix.rows));
  std::vector<uint32_t> qzeros(static_cast<size_t>(matrix.groups * zero_words));
  dense_->pool().parallel_for(matrix.rows, kMultiple, [&](int64_t begin, int64_t end) {
    for (int64_t r = begin; r < end; ++r)
      gptq::pack_stream(bits,
                        std::span(matrix.codes)
                            .subspan(static_cast<size_t>(r * matrix.cols), static_cast<size_t>(matrix.cols)),
                        qweight.data() + r, static_cast<size_t>(matrix.rows));
  });
  for (int64_t g = 0; g < matrix.groups; ++g)
    gptq::pack_stream(bits,
                      std::span(matrix.zeros)
                          .subspan(static_cast<size_t>(g * matrix.rows), static_cast<size_t>(matrix.rows)),
                      qzeros.data() + g * zero_words, 1);
  gptq::zeros_to_v1(bits, qzeros);
  QUERN_TRY_VOID(writer_->write_at(module.qweight, 0, bytes_of(qweight)));
  QUERN_TRY_VOID(writer_->write_at(module.qzeros, 0, bytes_of(qzeros)));
  QUERN_TRY_VOID(writer_->write_at(module.scales, 0, bytes_of(matrix.scales)));
  return writer_->write_at(module.g_idx, 0, bytes_of(matrix.g_idx));
}

/// `weights` becomes what the file stands for.
Result<> GptqQuantizer::solve(const GptqFactor& factor, const RawTensor& tensor, int64_t seen,
                              Buffer& weights) {
  QUERN_TRY(weights, read_weights(tensor));
  const GptqMatrix matrix = gptq_solve(*dense_, factor, format_, weights.as<float>(), tensor.rows());
  GptqTensor& report = entry(tensor);
  report.inputs_seen = seen;
  report.weight_error = matrix.weight_error;
  report.output_error = matrix.output_error;
  source_.let_go(tensor.data);
  return write(modules_.at(&tensor), matrix);
}

Result<> GptqQuantizer::visit(SharedInputs& inputs) {
  const int64_t cols = inputs.products.size();
  GptqFactor factor;
  if (inputs.count == 0) {
    factor = GptqFactor::identity(cols);
    for (const auto& matrix : inputs.matrices) report_.unseen.push_back(matrix.tensor->name);
  } else {
    auto made = GptqFactor::create(*dense_, std::move(inputs.products), format_, options_.damping);
    if (!made)
      return fail(made.error().code, "tensor {}: {}", inputs.matrices.front().tensor->name,
                  made.error().message);
    factor = *std::move(made);
  }
  for (auto& matrix : inputs.matrices)
    QUERN_TRY_VOID(solve(factor, *matrix.tensor, inputs.count, matrix.weights));
  return {};
}

Result<> GptqQuantizer::round_all() {
  size_t done = 0;
  for (const RawTensor& tensor : source_.tensors()) {
    if (!modules_.contains(&tensor)) continue;
    Buffer weights;
    QUERN_TRY_VOID(solve(GptqFactor::identity(tensor.cols()), tensor, 0, weights));
    if (!report_progress(static_cast<double>(++done) / static_cast<double>(modules_.size())))
      return fail(ErrorCode::cancelled, "quantizing was cancelled");
  }
  return {};
}

Result<> GptqQuantizer::copy_others() {
  constexpr size_t kPiece = size_t{16} << 20;
  for (const RawTensor& tensor : source_.tensors()) {
    const auto copy = copies_.find(&tensor);
    if (copy == copies_.end()) continue;
    for (size_t at = 0; at < tensor.data.size(); at += kPiece)
      QUERN_TRY_VOID(writer_->write_at(copy->second, at,
                                       tensor.data.subspan(at, std::min(kPiece, tensor.data.size() - at))));
    source_.let_go(tensor.data);
  }
  return source_.check();
}

ordered_json GptqQuantizer::quantization_config() const {
  return {{"quant_method", "gptq"},
          {"bits", format_.bits},
          {"group_size", format_.group},
          {"desc_act", format_.act_order},
          {"sym", format_.symmetric},
          {"lm_head", false},
          {"checkpoint_format", "gptq"},
          {"pack_dtype", "int32"},
          {"damp_percent", options_.damping},
          {"true_sequential", true},
          {"static_groups", false},
          {"meta", {{"quantizer", {fmt::format("quern:{}", options_.version)}}}}};
}

Result<> GptqQuantizer::copy_texts() {
  const fs::path folder = source_.name();
  const auto text = read_small_file(folder / "config.json", kMaxHfConfigBytes);
  auto config = ordered_json::parse(text.value_or(""), nullptr, /*allow_exceptions=*/false);
  if (!config.is_object())
    return fail(ErrorCode::io, "{}: cannot be read again: it was changed meanwhile",
                (folder / "config.json").string());
  config["quantization_config"] = quantization_config();
  QUERN_TRY_VOID(writer_->add_file("config.json", config.dump(2) + "\n"));
  QUERN_TRY_VOID(writer_->add_file("quantize_config.json", quantization_config().dump(2) + "\n"));
  const fs::path texts = options_.text_folder.empty() ? folder : options_.text_folder;
  for (const std::string_view name : kTextFiles) {
    std::error_code ignored;
    if (!fs::exists(texts / name, ignored)) continue;
    const auto content = read_small_file(texts / name, kMaxTextFile);
    if (!content) return fail(ErrorCode::io, "{}: cannot be read", (texts / name).string());
    QUERN_TRY_VOID(writer_->add_file(std::string(name), *content));
  }
  return {};
}

Result<GptqReport> GptqQuantizer::run(const fs::path& destination) {
  const auto start = std::chrono::steady_clock::now();
  QUERN_TRY_VOID(plan());
  QUERN_TRY(dense_, Dense::create(options_.threads));
  QUERN_TRY(writer_, safetensors::CheckpointWriter::create(destination, new_tensors_, options_.writer));
  QUERN_TRY_VOID(copy_texts());
  if (options_.round_to_nearest) {
    QUERN_TRY_VOID(round_all());
  } else {
    QUERN_TRY(const auto backend, make_cpu_backend({.threads = options_.threads}));
    const LayerWalkOptions walk{options_.context, options_.bos,
                                [this](double share) { return report_progress(share); }};
    QUERN_TRY_VOID(walk_layers(*backend, *dense_, source_, options_.tokens, walk,
                               [this](SharedInputs& inputs) { return visit(inputs); }));
  }
  QUERN_TRY_VOID(copy_others());
  QUERN_TRY_VOID(writer_->finish());
  report_.seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  return std::move(report_);
}

}  // namespace

Result<GptqReport> gptq_quantize(const WeightSource& source, const fs::path& destination,
                                 const GptqOptions& options) {
  return GptqQuantizer(source, options).run(destination);
}

}  // namespace quern
