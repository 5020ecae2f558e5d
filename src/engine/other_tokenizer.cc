#include "engine/other_tokenizer.h"

#include <algorithm>

#include "core/log.h"
#include "formats/gguf.h"
#include "models/model.h"
#include "text/hf_tokenizer.h"

namespace quern {
namespace {

namespace fs = std::filesystem;

bool is_text_key(std::string_view key) { return key.starts_with("tokenizer."); }

/// The lists that have an entry for each token, with unused tokens up to `vocab`, as the embedding is padded.
Metadata::Value padded(std::string_view key, Metadata::Value value, size_t vocab) {
  auto* array = std::get_if<Metadata::Array>(&value);
  if (array == nullptr || array->size() >= vocab) return value;
  if (key == "tokenizer.ggml.tokens") {
    if (auto* tokens = std::get_if<std::vector<std::string>>(&array->items))
      while (tokens->size() < vocab) tokens->push_back(fmt::format("[PAD{}]", tokens->size()));
  } else if (key == "tokenizer.ggml.token_type") {
    constexpr int unused = 5;
    if (auto* types = std::get_if<std::vector<int64_t>>(&array->items)) types->resize(vocab, unused);
    if (auto* types = std::get_if<std::vector<uint64_t>>(&array->items)) types->resize(vocab, unused);
  } else if (key == "tokenizer.ggml.scores") {
    if (auto* scores = std::get_if<std::vector<double>>(&array->items)) scores->resize(vocab, -10000.0);
  }
  return value;
}

class WithTokenizer final : public WeightSource {
 public:
  WithTokenizer(std::unique_ptr<WeightSource> model, const Metadata& text, size_t vocab)
      : model_(std::move(model)) {
    for (const auto& [key, value] : model_->metadata().entries())
      if (!is_text_key(key)) metadata_.add(key, value);
    for (const auto& [key, value] : text.entries())
      if (is_text_key(key)) metadata_.add(key, padded(key, value, vocab));
  }

  const Metadata& metadata() const override { return metadata_; }
  std::span<const RawTensor> tensors() const override { return model_->tensors(); }
  const RawTensor* find(std::string_view name) const override { return model_->find(name); }
  const std::string& name() const override { return model_->name(); }
  uint64_t bytes() const override { return model_->bytes(); }
  Result<> check() const override { return model_->check(); }
  void let_go(std::span<const std::byte> data) const override { model_->let_go(data); }
  bool holds_memory() const override { return model_->holds_memory(); }
  void forget(std::span<const std::byte> data) const override { model_->forget(data); }

 private:
  std::unique_ptr<WeightSource> model_;
  Metadata metadata_;
};

Result<Metadata> read_text(const fs::path& folder) {
  std::vector<std::string> warnings;
  auto text = read_hf_text(folder, &warnings);
  for (const std::string& warning : warnings) log::warn(warning, {{"tokenizer", folder.string()}});
  if (text || text.error().code != ErrorCode::not_found) return text;
  std::vector<fs::path> files;
  std::error_code error;
  for (const auto& entry : fs::directory_iterator(folder, error))
    if (entry.path().extension() == ".gguf") files.push_back(entry.path());
  if (files.size() != 1) return text;  // none, or nobody knows which
  QUERN_TRY(const auto file, open_gguf(files.front()));
  return file->metadata();
}

}  // namespace

Result<std::unique_ptr<WeightSource>> with_tokenizer(std::unique_ptr<WeightSource> model,
                                                     const fs::path& folder) {
  QUERN_TRY(const Metadata text, read_text(folder));
  QUERN_TRY(const ModelConfig config, read_model_config(*model));
  const std::vector<std::string>* tokens = text.strings("tokenizer.ggml.tokens");
  const auto size = static_cast<int64_t>(tokens == nullptr ? 0 : tokens->size());
  if (size > config.vocab)
    return fail(
        ErrorCode::unsupported,
        "{}: the tokenizer of {} has {} tokens, but the model's embedding only {}: take the tokenizer "
        "that the model was trained with",
        model->name(), folder.string(), size, config.vocab);
  return std::make_unique<WithTokenizer>(std::move(model), text, static_cast<size_t>(config.vocab));
}

}  // namespace quern
