// Tokenizes for a program in another language: reads one JSON object a line from stdin, {"folder": …} to load
// the text side of a checkpoint or {"text": …, "add_special": …}, and answers each with a line: {"warnings":
// …}, {"ids": …, "text": …} or {"error": …}.
#include <iostream>
#include <nlohmann/json.hpp>
#include <string>

#include "text/hf_tokenizer.h"
#include "text/tokenizer.h"

namespace {

using nlohmann::json;

quern::Result<json> load(const std::string& folder, std::unique_ptr<quern::Tokenizer>& tokenizer) {
  std::vector<std::string> warnings;
  QUERN_TRY(const auto metadata, quern::read_hf_text(folder, &warnings));
  QUERN_TRY(tokenizer, quern::Tokenizer::from_metadata(metadata, &warnings));
  return json{{"warnings", warnings}};
}

json answer(const std::string& line, std::unique_ptr<quern::Tokenizer>& tokenizer) {
  const auto request = json::parse(line, nullptr, false);
  if (!request.is_object()) return {{"error", "expected a JSON object on each line"}};
  if (request.contains("folder")) {
    const auto loaded = load(request.value("folder", ""), tokenizer);
    return loaded ? *loaded : json{{"error", loaded.error().message}};
  }
  if (tokenizer == nullptr) return {{"error", "load a folder first"}};
  const auto ids = tokenizer->encode(
      request.value("text", ""), {.add_special = request.value("add_special", false), .parse_special = true});
  return {{"ids", ids}, {"text", tokenizer->decode(ids, true)}};
}

}  // namespace

int main() {
  std::unique_ptr<quern::Tokenizer> tokenizer;
  std::string line;
  while (std::getline(std::cin, line)) {
    std::cout << answer(line, tokenizer).dump(-1, ' ', false, json::error_handler_t::replace) << std::endl;
  }
  return 0;
}
