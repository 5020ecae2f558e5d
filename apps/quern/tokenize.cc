// quern tokenize: text on stdin to ids, or ids to text.
#include <fmt/ranges.h>

#include <charconv>
#include <iostream>
#include <iterator>

#include "command.h"
#include "fetch_model.h"
#include "text/tokenizer.h"

namespace quern {
namespace {

struct TokenizeFlags {
  CommonFlags common;
  std::string model;
  bool ids = false;
  bool no_special = false;
  bool json = false;
};

/// Ids separated by anything that is not part of a number, so that "[1, 2]" and "1 2" both work.
Result<std::vector<int32_t>> parse_ids(const std::string& text, int32_t vocab) {
  std::vector<int32_t> ids;
  for (size_t i = 0; i < text.size();) {
    const char c = text[i];
    if (c == '-' || (c >= '0' && c <= '9')) {
      int32_t id = 0;
      const auto [end, error] = std::from_chars(text.data() + i, text.data() + text.size(), id);
      if (error != std::errc() || id < 0 || id >= vocab)
        return fail(ErrorCode::invalid_argument,
                    "tokenize: id at byte {} of the input: must be between 0 and {}", i, vocab - 1);
      ids.push_back(id);
      i = static_cast<size_t>(end - text.data());
    } else if (c == ' ' || c == ',' || c == '\n' || c == '\t' || c == '\r' || c == '[' || c == ']') {
      ++i;
    } else {
      return fail(ErrorCode::invalid_argument,
                  "tokenize: '{}' at byte {} of the input: with --ids the input must be numbers", c, i);
    }
  }
  return ids;
}

Result<> tokenize(const TokenizeFlags& flags) {
  QUERN_TRY(const Config config, flags.common.load(true));
  QUERN_TRY(const ModelFiles files, local_model(flags.common, config, model_or_default(flags.model, config)));
  QUERN_TRY(const auto source, open_model_source(files, config.model_path));
  std::vector<std::string> warnings;
  QUERN_TRY(const auto tokenizer, Tokenizer::from_metadata(source->metadata(), &warnings));
  for (const std::string& warning : warnings) log::warn(warning);
  const std::string input{std::istreambuf_iterator<char>(std::cin), {}};
  if (flags.ids) {
    QUERN_TRY(const auto ids, parse_ids(input, tokenizer->size()));
    std::cout << tokenizer->decode(ids, !flags.no_special) << std::flush;
    return {};
  }
  const auto ids =
      tokenizer->encode(input, {.add_special = !flags.no_special, .parse_special = !flags.no_special});
  if (flags.json) {
    fmt::print("[{}]\n", fmt::join(ids, ","));
    return {};
  }
  for (const int32_t id : ids) fmt::print("{:>7}  {}\n", id, tokenizer->raw(id));
  return {};
}

}  // namespace

void add_tokenize(CommandLine& line) {
  auto flags = std::make_shared<TokenizeFlags>();
  Arguments command = line.add("tokenize", "text on stdin to token ids, or ids to text",
                               [flags] { return status_of(tokenize(*flags)); });
  command.text("MODEL", flags->model, "model reference (default: the first allowed model)");
  command.flag("--ids", flags->ids, "stdin holds ids: print their text");
  command.flag("--no-special", flags->no_special, "add and recognize no special tokens");
  command.flag("--json", flags->json, "print one array of ids");
  flags->common.add_to(command);
}

}  // namespace quern
