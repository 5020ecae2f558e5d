#include "hub/options.h"

#include <algorithm>
#include <charconv>

#include "core/file.h"
#include "hub/http.h"
#include "hub/reference.h"

namespace quern {
namespace {

namespace fs = std::filesystem;
using Variables = std::map<std::string, std::string>;

std::string trimmed(std::string_view text) {
  while (!text.empty() && std::isspace(static_cast<unsigned char>(text.front()))) text.remove_prefix(1);
  while (!text.empty() && std::isspace(static_cast<unsigned char>(text.back()))) text.remove_suffix(1);
  return std::string(text);
}

/// The first of `names` that is set to something.
std::string first_of(const Variables& variables, std::initializer_list<const char*> names) {
  for (const char* name : names) {
    const auto it = variables.find(name);
    if (it != variables.end() && !trimmed(it->second).empty()) return trimmed(it->second);
  }
  return {};
}

bool is_true(std::string text) {
  for (char& c : text) c = static_cast<char>(std::toupper(static_cast<unsigned char>(c)));
  return text == "1" || text == "ON" || text == "YES" || text == "TRUE";
}

fs::path expanded(const std::string& path, const std::string& home) {
  if (path == "~") return home;
  return path.starts_with("~/") ? fs::path(home) / path.substr(2) : fs::path(path);
}

Result<> read_seconds(const Variables& variables, const char* name, std::chrono::seconds& value) {
  const std::string text = first_of(variables, {name});
  if (text.empty()) return {};
  int seconds = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), seconds);
  if (error != std::errc() || end != text.data() + text.size() || seconds < 1 || seconds > 86400)
    return fail(ErrorCode::invalid_argument, "{}: \"{}\" is not allowed: give seconds from 1 to 86400", name,
                shown(text));
  value = std::chrono::seconds(seconds);
  return {};
}

/// A token is one line of printable characters: nothing else may go into a header.
bool is_token(std::string_view text) {
  return !text.empty() && text.size() <= 4096 &&
         std::ranges::all_of(text, [](char c) { return c > ' ' && c <= '~'; });
}

Result<std::string> find_token(const Variables& variables, const fs::path& hf_home, const std::string& home) {
  std::string token = first_of(variables, {"HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"});
  std::string where = "HF_TOKEN";
  if (token.empty() && !is_true(first_of(variables, {"HF_HUB_DISABLE_IMPLICIT_TOKEN"}))) {
    const std::string named = first_of(variables, {"HF_TOKEN_PATH"});
    const fs::path file = named.empty() ? hf_home / "token" : expanded(named, home);
    token = trimmed(read_small_file(file, 64 << 10).value_or(""));
    where = file.string();
  }
  if (token.empty() || is_token(token)) return token;
  return fail(ErrorCode::invalid_argument, "{}: that is no token: give one line such as hf_…", where);
}

}  // namespace

Result<HubOptions> HubOptions::from(const Variables& variables) {
  HubOptions options;
  const std::string home = first_of(variables, {"HOME"});
  const std::string cache = first_of(variables, {"HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE"});
  const std::string hf = first_of(variables, {"HF_HOME"}), xdg = first_of(variables, {"XDG_CACHE_HOME"});
  fs::path hf_home;
  if (!hf.empty())
    hf_home = expanded(hf, home);
  else if (!xdg.empty())
    hf_home = expanded(xdg, home) / "huggingface";
  else if (!home.empty())
    hf_home = fs::path(home) / ".cache" / "huggingface";
  if (cache.empty() && hf_home.empty())
    return fail(ErrorCode::invalid_argument, "HOME is not set: say with HF_HUB_CACHE where models are kept");
  std::error_code ignored;
  options.cache = fs::absolute(cache.empty() ? hf_home / "hub" : expanded(cache, home), ignored);
  if (std::string endpoint = first_of(variables, {"HF_ENDPOINT"}); !endpoint.empty()) {
    while (endpoint.ends_with('/')) endpoint.pop_back();
    if (hub::origin_of(endpoint).empty())
      return fail(ErrorCode::invalid_argument,
                  "HF_ENDPOINT: \"{}\" is not allowed: give a URL such as https://huggingface.co",
                  shown(endpoint));
    options.endpoint = endpoint;
  }
  options.offline = is_true(first_of(variables, {"HF_HUB_OFFLINE"})) ||
                    is_true(first_of(variables, {"TRANSFORMERS_OFFLINE"}));
  QUERN_TRY_VOID(read_seconds(variables, "HF_HUB_ETAG_TIMEOUT", options.metadata_timeout));
  QUERN_TRY_VOID(read_seconds(variables, "HF_HUB_DOWNLOAD_TIMEOUT", options.download_timeout));
  QUERN_TRY(options.token, find_token(variables, hf_home, home));
  options.model_path = first_of(variables, {"LLM_MODEL_PATH"});
  return options;
}

}  // namespace quern
