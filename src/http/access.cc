#include "http/access.h"

#include <openssl/crypto.h>
#include <openssl/sha.h>

#include <algorithm>
#include <array>
#include <cctype>
#include <random>

namespace quern {
namespace {

using Digest = std::array<unsigned char, SHA256_DIGEST_LENGTH>;

Digest digest(std::string_view text) {
  Digest out;
  SHA256(reinterpret_cast<const unsigned char*>(text.data()), text.size(), out.data());
  return out;
}

std::string lower(std::string_view text) {
  std::string out(text);
  for (char& c : out) c = static_cast<char>(std::tolower(static_cast<unsigned char>(c)));
  return out;
}

std::string_view given_key(const HttpRequest& request) {
  std::string_view authorization = request.header("authorization");
  if (lower(authorization.substr(0, 7)) == "bearer ") {
    authorization.remove_prefix(7);
    while (authorization.starts_with(' ')) authorization.remove_prefix(1);
    return authorization;
  }
  return request.header("x-api-key");
}

bool allows_all(const Config& config) {
  return std::find(config.cors_origins.begin(), config.cors_origins.end(), "*") != config.cors_origins.end();
}

bool allows(const Config& config, const HttpRequest& request) {
  const std::string origin = lower(request.header("origin"));
  if (origin.empty()) return false;
  return allows_all(config) || std::find(config.cors_origins.begin(), config.cors_origins.end(), origin) !=
                                   config.cors_origins.end();
}

bool is_header_list(std::string_view text) {
  return text.size() <= 2000 && std::all_of(text.begin(), text.end(), [](char c) {
           return std::isalnum(static_cast<unsigned char>(c)) || c == '-' || c == '_' || c == ',' || c == ' ';
         });
}

/// A header's value as it may stand in a message.
std::string printable(std::string_view value) {
  std::string text;
  for (const char c : value.substr(0, 60)) text += c < ' ' || c > '~' ? '?' : c;
  return text;
}

}  // namespace

bool has_key(const Config& config, const HttpRequest& request) {
  if (config.api_keys.empty()) return true;
  const Digest given = digest(given_key(request));
  int found = 0;
  for (const std::string& key : config.api_keys) {
    const Digest wanted = digest(key);
    found |= static_cast<int>(CRYPTO_memcmp(given.data(), wanted.data(), given.size()) == 0);
  }
  return found != 0;
}

Headers cors_headers(const Config& config, const HttpRequest& request) {
  Headers headers;
  if (config.cors_origins.empty()) return headers;
  if (!allows_all(config)) headers.emplace_back("Vary", "Origin");
  if (!allows(config, request)) return headers;
  headers.emplace_back("Access-Control-Allow-Origin",
                       allows_all(config) ? "*" : std::string(request.header("origin")));
  headers.emplace_back("Access-Control-Expose-Headers", "x-request-id, retry-after");
  return headers;
}

Headers preflight_headers(const Config& config, const HttpRequest& request) {
  Headers headers;
  if (!allows(config, request)) return headers;
  headers.emplace_back("Access-Control-Allow-Methods", "GET, HEAD, POST, OPTIONS");
  // What the page asks for is allowed: the keys decide, not the headers' names.
  const std::string_view asked = request.header("access-control-request-headers");
  headers.emplace_back("Access-Control-Allow-Headers",
                       !asked.empty() && is_header_list(asked)
                           ? std::string(asked)
                           : "authorization, content-type, x-api-key, x-request-id");
  headers.emplace_back("Access-Control-Max-Age", "600");
  return headers;
}

std::string request_id(const HttpRequest& request) {
  const std::string_view given = request.header("x-request-id");
  const bool plain =
      !given.empty() && given.size() <= 128 && std::all_of(given.begin(), given.end(), [](char c) {
        return std::isalnum(static_cast<unsigned char>(c)) ||
               std::string_view("-_.:/=+@").find(c) != std::string_view::npos;
      });
  if (plain) return std::string(given);
  static thread_local std::mt19937_64 random{std::random_device{}()};
  return fmt::format("req-{:016x}", random());
}

Parsed<void> check_content_type(const HttpRequest& request) {
  const std::string coding = lower(request.header("content-encoding"));
  if (!coding.empty() && coding != "identity")
    return fail(ApiError{ApiErrorKind::media_type,
                         "content-encoding: send the body as it is, not as " + printable(coding)});
  const std::string given = lower(request.header("content-type"));
  std::string type = given.substr(0, given.find(';'));
  while (!type.empty() && type.back() == ' ') type.pop_back();
  const size_t charset = given.find("charset=");
  bool utf8 = true;
  if (charset != std::string::npos) {
    std::string name = given.substr(charset + 8);
    name = name.substr(0, name.find(';'));
    std::erase(name, '"');
    std::erase(name, ' ');
    utf8 = name == "utf-8" || name == "utf8" || name == "us-ascii";
  }
  if (utf8 && (type == "application/json" || (type.starts_with("application/") && type.ends_with("+json"))))
    return {};
  return fail(ApiError{
      ApiErrorKind::media_type,
      fmt::format("content-type: send the body as application/json in UTF-8 (curl: -H 'content-type: "
                  "application/json'), got {}",
                  given.empty() ? "none" : printable(given))});
}

}  // namespace quern
