// Typed key → value pairs that describe a model (GGUF's metadata, or what is read from config.json under the
// same keys). Owns its strings.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <unordered_map>
#include <variant>
#include <vector>

namespace quern {

class Metadata {
 public:
  struct Array;
  /// Unsigned and signed integers of all widths widen to 64 bits, both floats to double.
  using Value = std::variant<bool, uint64_t, int64_t, double, std::string, Array>;
  struct Array {
    std::variant<std::vector<bool>, std::vector<uint64_t>, std::vector<int64_t>, std::vector<double>,
                 std::vector<std::string>, std::vector<Array>>
        items;
    size_t size() const;
  };

  /// False when the key is there already (the first one stays).
  bool add(std::string key, Value value);

  const Value* find(std::string_view key) const;
  bool contains(std::string_view key) const { return find(key) != nullptr; }

  /// Empty when absent or of another kind. Integers convert between signed and unsigned where the value fits;
  /// integers convert to double, never the other way.
  std::optional<bool> boolean(std::string_view key) const;
  std::optional<uint64_t> uint(std::string_view key) const;
  std::optional<int64_t> integer(std::string_view key) const;
  std::optional<double> number(std::string_view key) const;
  const std::string* string(std::string_view key) const;
  const std::vector<std::string>* strings(std::string_view key) const;
  /// Any numeric array.
  std::optional<std::vector<double>> numbers(std::string_view key) const;
  std::optional<std::vector<int64_t>> integers(std::string_view key) const;

  /// In the file's order.
  const std::vector<std::pair<std::string, Value>>& entries() const { return entries_; }

 private:
  struct Hash {
    using is_transparent = void;
    size_t operator()(std::string_view s) const { return std::hash<std::string_view>{}(s); }
  };
  std::vector<std::pair<std::string, Value>> entries_;
  std::unordered_map<std::string, size_t, Hash, std::equal_to<>> index_;
};

}  // namespace quern
