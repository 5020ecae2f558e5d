// Any text as a checkpoint's text files: refused or read, in time and within bounds; what is read tokenizes.
#include <cstdint>
#include <cstdlib>
#include <nlohmann/json.hpp>

#include "text/hf_json.h"
#include "text/hf_vocabulary.h"
#include "text/tokenizer.h"

namespace {

using namespace quern;

/// What read_hf_text does with the files, once they are read.
void use(Result<HfTokenizer> tokenizer, const HfSideFiles& files) {
  if (!tokenizer) {
    if (tokenizer.error().message.empty()) std::abort();
    return;
  }
  Warnings warnings;
  add_special_tokens(files, *tokenizer, warnings);
  add_chat_template(files, tokenizer->metadata, warnings);
  add_generation(files, *tokenizer, warnings);
  tokenizer->vocabulary.move_to(tokenizer->metadata);
  const auto made = Tokenizer::from_metadata(tokenizer->metadata, &warnings);
  if (!made) return;
  for (const int32_t id : (*made)->encode("Hi  the\xFF \xC3\xA9 <s> 12\n"))
    if (id < 0 || id >= (*made)->size()) std::abort();
}

HfSideFiles side_files(std::string_view text) {
  HfSideFiles files;
  files.special_tokens_map = files.template_json = nlohmann::json::object();
  const auto parsed = parse_side_json(text, "side");
  files.tokenizer_config = files.config = files.generation_config =
      parsed ? *parsed : nlohmann::json::object();
  return files;
}

}  // namespace

/// The first byte chooses the kind; the rest is two files, cut at the first NUL.
extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  if (size == 0) return 0;
  const std::string_view text(reinterpret_cast<const char*>(data) + 1, size - 1);
  const size_t cut = text.find('\0');
  const HfSideFiles files = side_files(cut == text.npos ? "{}" : text.substr(cut + 1));
  const std::string_view first = text.substr(0, cut);
  Warnings warnings;
  if (data[0] % 2 == 0) {
    use(read_tokenizer_json(first, "tokenizer.json", 0, warnings), files);
  } else {
    use(read_sentencepiece_model(text, "tokenizer.model", nlohmann::json::object(), files.tokenizer_config, 0,
                                 warnings),
        files);
  }
  return 0;
}
