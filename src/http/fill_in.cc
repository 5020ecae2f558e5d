#include "http/fill_in.h"

#include "http/request_fields.h"

namespace quern {

Parsed<std::vector<int32_t>> fill_in_prompt(const ServedModel& model, std::string_view prompt,
                                            const std::optional<std::string>& suffix) {
  const Tokenizer& tokenizer = *model.tokenizer;
  if (!suffix || suffix->empty()) {
    QUERN_TRY(auto tokens, encode_prompt(model, prompt, {}));
    if (tokens.empty() && tokenizer.bos() >= 0) tokens.push_back(tokenizer.bos());
    if (tokens.empty())
      return bad_field("prompt", "is empty, and this model has no token to begin a text with");
    return tokens;
  }
  const Tokenizer::Infill infill = tokenizer.infill();
  if (infill.prefix < 0 || infill.suffix < 0 || infill.middle < 0)
    return bad_field("suffix", fmt::format("{} has no fill-in-the-middle tokens", model.id));
  // The user's text is not to open or close the gap by itself.
  const EncodeOptions plain{.add_special = false, .parse_special = false};
  QUERN_TRY(const auto before, encode_prompt(model, prompt, plain));
  QUERN_TRY(const auto after, encode_prompt(model, *suffix, plain));
  std::vector<int32_t> tokens;
  if (tokenizer.add_bos() && tokenizer.bos() >= 0) tokens.push_back(tokenizer.bos());
  tokens.push_back(infill.prefix);
  tokens.insert(tokens.end(), before.begin(), before.end());
  tokens.push_back(infill.suffix);
  tokens.insert(tokens.end(), after.begin(), after.end());
  tokens.push_back(infill.middle);
  QUERN_TRY_VOID(check_length(model, tokens.size()));
  return tokens;
}

}  // namespace quern
