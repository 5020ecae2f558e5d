#include "text/hf_tokenizer.h"

#include <algorithm>

#include "text/hf_json.h"
#include "text/hf_vocabulary.h"

namespace quern {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;

/// An empty object where there is no such file.
Result<json> read_side_file(const fs::path& path) {
  QUERN_TRY(const auto text, read_if_there(path, kMaxSideFileBytes));
  if (!text) return json::object();
  return parse_side_json(*text, path.string());
}

Result<std::vector<std::pair<std::string, std::string>>> read_more_templates(const fs::path& folder) {
  constexpr size_t kMost = 32;
  std::vector<fs::path> paths;
  std::error_code error;
  for (fs::directory_iterator it(folder, error), end; !error && it != end; it.increment(error))
    if (it->path().extension() == ".jinja") paths.push_back(it->path());
  if (paths.size() > kMost)
    return fail(ErrorCode::corrupt, "{}: {} templates, at most {} are read", folder.string(), paths.size(),
                kMost);
  std::sort(paths.begin(), paths.end());
  std::vector<std::pair<std::string, std::string>> templates;
  for (const fs::path& path : paths) {
    QUERN_TRY(auto text, read_if_there(path, kMaxSideFileBytes));
    if (text) templates.emplace_back(path.stem().string(), *std::move(text));
  }
  return templates;
}

Result<HfSideFiles> read_side_files(const fs::path& folder) {
  HfSideFiles files;
  QUERN_TRY(files.tokenizer_config, read_side_file(folder / "tokenizer_config.json"));
  QUERN_TRY(files.special_tokens_map, read_side_file(folder / "special_tokens_map.json"));
  QUERN_TRY(files.config, read_side_file(folder / "config.json"));
  QUERN_TRY(files.generation_config, read_side_file(folder / "generation_config.json"));
  QUERN_TRY(files.template_file, read_if_there(folder / "chat_template.jinja", kMaxSideFileBytes));
  QUERN_TRY(files.template_json, read_side_file(folder / "chat_template.json"));
  QUERN_TRY(files.more_templates, read_more_templates(folder / "additional_chat_templates"));
  return files;
}

/// config.json's vocab_size; 0: it does not say.
int64_t vocab_size(const json& config) {
  if (const auto size = int_member(config, "vocab_size")) return *size;
  const json* text = member(config, "text_config");
  return text == nullptr ? 0 : int_member(*text, "vocab_size").value_or(0);
}

Result<HfTokenizer> read_tokenizer(const fs::path& folder, const HfSideFiles& files, Warnings& warnings) {
  const int64_t size = vocab_size(files.config);
  const fs::path fast = folder / "tokenizer.json", slow = folder / "tokenizer.model";
  QUERN_TRY(const auto text, read_if_there(fast, kMaxTokenizerBytes));
  if (text) return read_tokenizer_json(*text, fast.string(), size, warnings);
  QUERN_TRY(const auto model, read_if_there(slow, kMaxTokenizerBytes));
  if (!model)
    return fail(ErrorCode::not_found,
                "{}: no tokenizer.json and no tokenizer.model: take the tokenizer of another repository with "
                "model@tokenizer-repo",
                folder.string());
  QUERN_TRY(const json added, read_side_file(folder / "added_tokens.json"));
  return read_sentencepiece_model(*model, slow.string(), added, files.tokenizer_config, size, warnings);
}

}  // namespace

Result<Metadata> read_hf_text(const fs::path& folder, std::vector<std::string>* warnings) {
  Warnings ignored;
  Warnings& told = warnings != nullptr ? *warnings : ignored;
  QUERN_TRY(const HfSideFiles files, read_side_files(folder));
  QUERN_TRY(HfTokenizer tokenizer, read_tokenizer(folder, files, told));
  tokenizer.metadata.add("tokenizer.quern.leftmost_special", true);
  add_special_tokens(files, tokenizer, told);
  add_chat_template(files, tokenizer.metadata, told);
  add_generation(files, tokenizer, told);
  tokenizer.vocabulary.move_to(tokenizer.metadata);
  return std::move(tokenizer.metadata);
}

}  // namespace quern
