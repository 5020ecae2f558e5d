// Keys of a JSON object, read by type and range; errors name the file and the key.
#pragma once

#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <vector>

#include "core/result.h"

namespace quern {

/// A view: the JSON must outlive it. null counts as absent, as in transformers.
class HfFields {
 public:
  /// `where` is for messages: "…/config.json: ", then "…/config.json: rope_scaling.".
  HfFields(const nlohmann::json& object, std::string where) : object_(&object), where_(std::move(where)) {}

  bool has(const char* key) const { return find(key) != nullptr; }
  /// Also where it is null.
  bool mentions(const char* key) const { return object_->contains(key); }
  std::string full(std::string_view key) const { return where_ + std::string(key); }

  Result<std::optional<int64_t>> integer(const char* key, int64_t low, int64_t high) const;
  /// not_found when absent.
  Result<int64_t> require(const char* key, int64_t low, int64_t high) const;
  /// Finite, above `low` and at most `high`.
  Result<std::optional<double>> number(const char* key, double low, double high) const;
  Result<bool> boolean(const char* key, bool otherwise) const;
  Result<std::optional<std::string>> text(const char* key) const;
  /// Empty when absent.
  Result<std::vector<float>> positive_numbers(const char* key, size_t count) const;
  Result<std::vector<std::string>> texts(const char* key) const;
  /// Empty when absent.
  Result<std::optional<HfFields>> object(const char* key) const;
  bool has_objects() const;

 private:
  const nlohmann::json* find(const char* key) const;
  const nlohmann::json* object_;
  std::string where_;
};

}  // namespace quern
