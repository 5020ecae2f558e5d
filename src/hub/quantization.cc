#include "hub/quantization.h"

#include <cctype>

namespace quern {
namespace {

bool is_alnum(char c) { return std::isalnum(static_cast<unsigned char>(c)) != 0; }

std::string upper(std::string_view text) {
  std::string out(text);
  for (char& c : out) c = static_cast<char>(std::toupper(static_cast<unsigned char>(c)));
  return out;
}

/// How many characters at the front of `text` (upper case) name a quantization; 0 for none.
size_t match_front(std::string_view text) {
  for (const std::string_view whole : {"BF16", "FP16", "FP32", "F16", "F32", "MXFP4_MOE", "MXFP4", "NVFP4"})
    if (text.starts_with(whole)) return whole.size();
  size_t at = text.starts_with("I") || text.starts_with("T") ? 1 : 0;
  if (at >= text.size() || text[at] != 'Q') return 0;
  ++at;
  if (at >= text.size() || text[at] < '1' || text[at] > '8') return 0;
  ++at;
  // Suffixes of up to three characters: _K, _0, _XXS, _NL …
  while (at < text.size() && text[at] == '_') {
    size_t end = at + 1;
    while (end < text.size() && std::string_view("0148KSMLXN").find(text[end]) != std::string_view::npos)
      ++end;
    if (end == at + 1 || end > at + 4 || (end < text.size() && is_alnum(text[end]))) break;
    at = end;
  }
  return at;
}

std::string normalized(std::string_view name) {
  if (name == "FP16") return "F16";
  if (name == "FP32") return "F32";
  return std::string(name);
}

/// The last name of a quantization that stands by itself in `text` (upper case).
std::string find_last(std::string_view text) {
  for (size_t at = text.size(); at-- > 0;) {
    if (at > 0 && is_alnum(text[at - 1])) continue;
    const size_t length = match_front(text.substr(at));
    if (length == 0 || (at + length < text.size() && is_alnum(text[at + length]))) continue;
    const bool dynamic = at >= 3 && text.substr(at - 3, 3) == "UD-" && (at == 3 || !is_alnum(text[at - 4]));
    return (dynamic ? "UD-" : "") + normalized(text.substr(at, length));
  }
  return {};
}

}  // namespace

std::string quantization_name(std::string_view text) {
  if (text.size() > 32) return {};
  const std::string name = upper(text);
  std::string_view rest = name;
  const bool dynamic = rest.starts_with("UD-");
  if (dynamic) rest.remove_prefix(3);
  if (rest.empty() || match_front(rest) != rest.size()) return {};
  return (dynamic ? "UD-" : "") + normalized(rest);
}

std::string quantization_of_file(std::string_view path) {
  const std::string name = upper(path);
  std::string_view rest = name;
  if (rest.ends_with(".GGUF")) rest.remove_suffix(5);
  while (true) {
    const size_t slash = rest.rfind('/');
    const std::string_view part = slash == std::string_view::npos ? rest : rest.substr(slash + 1);
    if (std::string found = find_last(part); !found.empty()) return found;
    if (slash == std::string_view::npos) return {};
    rest = rest.substr(0, slash);
  }
}

}  // namespace quern
