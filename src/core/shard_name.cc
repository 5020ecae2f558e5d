#include "core/shard_name.h"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>

namespace quern {
namespace {

constexpr std::string_view kPattern = "-ddddd-of-ddddd";

bool is_digit(char c) { return c >= '0' && c <= '9'; }
char small(char c) { return c >= 'A' && c <= 'Z' ? static_cast<char>(c - 'A' + 'a') : c; }

unsigned number_at(std::string_view text, size_t at) {
  unsigned number = 0;
  std::from_chars(text.data() + at, text.data() + at + 5, number);
  return number;
}

}  // namespace

std::string ShardName::of(unsigned other) const {
  return fmt::format("{}-{:05}-of-{:05}{}", prefix, other, count, extension);
}

std::optional<ShardName> parse_shard_name(std::string_view name, std::string_view extension) {
  if (name.size() < kPattern.size() + extension.size()) return std::nullopt;
  const size_t end = name.size() - extension.size(), begin = end - kPattern.size();
  const auto matches = [](char c, char pattern) { return pattern == 'd' ? is_digit(c) : c == pattern; };
  if (!std::ranges::equal(name.substr(begin, kPattern.size()), kPattern, matches)) return std::nullopt;
  if (!std::ranges::equal(name.substr(end), extension, {}, small)) return std::nullopt;
  ShardName shard{std::string(name.substr(0, begin)), number_at(name, begin + 1), number_at(name, begin + 10),
                  std::string(name.substr(end))};
  if (shard.number < 1 || shard.number > shard.count) return std::nullopt;
  return shard;
}

}  // namespace quern
