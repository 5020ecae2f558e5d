#include "hub/repo_listing.h"

#include <algorithm>
#include <functional>
#include <nlohmann/json.hpp>
#include <span>

#include "hub/reference.h"

namespace quern::hub {
namespace {

/// No honest answer comes near these.
constexpr size_t kMaxDepth = 32;
constexpr size_t kMaxNames = 1'000'000;

/// Walks JSON without building it, so that memory is bounded by what is kept and time by the length. (The
/// library's own filtering parser needs time quadratic in the length of an array.)
class Walker : public nlohmann::json_sax<nlohmann::json> {
 public:
  /// Keys from the outermost object to a value; "[]" stands for an array's element.
  using Path = std::span<const std::string>;
  /// Null for a value that is no string. False ends the walk.
  using Visit = std::function<bool(Path path, const std::string* text, bool truth)>;
  using Open = std::function<bool(Path path, bool array)>;

  Walker(Visit visit, Open open) : visit_(std::move(visit)), open_(std::move(open)) {}
  bool too_deep() const { return too_deep_; }

  bool null() override { return value(nullptr, false); }
  bool boolean(bool truth) override { return value(nullptr, truth); }
  bool number_integer(int64_t) override { return value(nullptr, false); }
  bool number_unsigned(uint64_t) override { return value(nullptr, false); }
  bool number_float(double, const std::string&) override { return value(nullptr, false); }
  bool string(std::string& text) override { return value(&text, false); }
  bool binary(nlohmann::json::binary_t&) override { return false; }
  bool start_object(size_t) override { return start(false); }
  bool start_array(size_t) override { return start(true); }
  bool key(std::string& name) override {
    path_.back() = name;
    return true;
  }
  bool end_object() override {
    path_.pop_back();
    return true;
  }
  bool end_array() override {
    path_.pop_back();
    return true;
  }
  bool parse_error(size_t, const std::string&, const nlohmann::detail::exception&) override { return false; }

 private:
  bool value(const std::string* text, bool truth) { return !path_.empty() && visit_(path_, text, truth); }
  bool start(bool array) {
    // What is not an object at the outermost level is no answer of a hub.
    if (path_.empty() && array) return false;
    too_deep_ = path_.size() >= kMaxDepth;
    if (too_deep_ || !open_(path_, array)) return false;
    path_.emplace_back(array ? "[]" : "");
    return true;
  }

  Visit visit_;
  Open open_;
  std::vector<std::string> path_;
  bool too_deep_ = false;
};

bool is_at(Walker::Path path, std::initializer_list<std::string_view> keys) {
  return std::equal(path.begin(), path.end(), keys.begin(), keys.end());
}

bool open_anything(Walker::Path, bool) { return true; }

/// Walks `json`; `what` is for messages.
Result<> walk(std::string_view json, std::string_view what, Walker::Visit visit,
              Walker::Open open = open_anything) {
  if (json.size() > kMaxListingBytes)
    return fail(ErrorCode::corrupt, "{}: larger than {} MiB", what, kMaxListingBytes >> 20);
  Walker walker(std::move(visit), std::move(open));
  if (nlohmann::json::sax_parse(json, &walker)) return {};
  if (walker.too_deep()) return fail(ErrorCode::corrupt, "{}: nested deeper than {}", what, kMaxDepth);
  return fail(ErrorCode::corrupt, "{}: not the JSON object that was expected", what);
}

void sort_once(std::vector<std::string>& names) {
  std::ranges::sort(names);
  const auto again = std::ranges::unique(names);
  names.erase(again.begin(), again.end());
}

/// Sorted, none twice, every one a safe name.
Result<> check_names(std::vector<std::string>& names, std::string_view what) {
  sort_once(names);
  for (const std::string& name : names)
    if (auto safe = check_file_name(name); !safe)
      return fail(ErrorCode::corrupt, "{}: {}", what, safe.error().message);
  return {};
}

}  // namespace

Result<> check_file_name(std::string_view name) {
  const auto bad = [&](std::string_view why) {
    return fail(ErrorCode::corrupt, "\"{}\" is no file name to accept: {}", shown(name), why);
  };
  if (name.size() > 1024) return bad("longer than 1024 bytes");
  for (const char c : name) {
    if (c == '\\') return bad("it holds a backslash");
    if (static_cast<unsigned char>(c) < 0x20 || c == '\x7f') return bad("it holds a control character");
  }
  if (name.starts_with('/')) return bad("it is an absolute path");
  for (size_t begin = 0; begin <= name.size();) {
    const size_t end = std::min(name.find('/', begin), name.size());
    const std::string_view part = name.substr(begin, end - begin);
    if (part.empty()) return bad("a part of it is empty");
    if (part == "." || part == "..") return bad("it leaves its folder");
    if (part.size() > 255) return bad("a part of it is longer than 255 bytes");
    begin = end + 1;
  }
  return {};
}

Result<RepoListing> parse_listing(std::string_view json) {
  constexpr std::string_view kWhat = "the hub's listing";
  RepoListing listing;
  size_t siblings = 0;
  bool has_siblings = false;
  const auto visit = [&](Walker::Path path, const std::string* text, bool truth) {
    if (is_at(path, {"sha"})) listing.commit = text == nullptr ? "" : *text;
    if (is_at(path, {"gated"})) listing.gated = text != nullptr || truth;
    if (is_at(path, {"siblings", "[]", "rfilename"})) {
      if (text == nullptr) return false;
      listing.files.push_back(*text);
    }
    return !is_at(path, {"siblings"}) && !is_at(path, {"siblings", "[]"});
  };
  const auto open = [&](Walker::Path path, bool array) {
    if (is_at(path, {"siblings"})) return has_siblings = array;
    if (is_at(path, {"siblings", "[]"})) return !array && ++siblings <= kMaxNames;
    return true;
  };
  QUERN_TRY_VOID(walk(json, kWhat, visit, open));
  if (!is_commit(listing.commit))
    return fail(ErrorCode::corrupt, "{}: its commit is not 40 hexadecimal digits: \"{}\"", kWhat,
                shown(listing.commit));
  if (!has_siblings) return fail(ErrorCode::corrupt, "{}: it has no \"siblings\"", kWhat);
  if (siblings != listing.files.size())
    return fail(ErrorCode::corrupt, "{}: a sibling without a file name", kWhat);
  QUERN_TRY_VOID(check_names(listing.files, kWhat));
  return listing;
}

Result<std::vector<std::string>> parse_refs(std::string_view json) {
  std::vector<std::string> names;
  QUERN_TRY_VOID(
      walk(json, "the hub's list of branches", [&](Walker::Path path, const std::string* text, bool) {
        const bool name = is_at(path, {"branches", "[]", "name"}) || is_at(path, {"tags", "[]", "name"});
        if (name && text != nullptr && !text->empty() && names.size() < kMaxNames)
          names.push_back(shown(*text));
        return true;
      }));
  return names;
}

Result<std::vector<std::string>> parse_shards(std::string_view json) {
  constexpr std::string_view kWhat = "the index of shards";
  std::vector<std::string> shards;
  QUERN_TRY_VOID(walk(json, kWhat, [&](Walker::Path path, const std::string* text, bool) {
    if (path.size() != 2 || path.front() != "weight_map") return true;
    if (text == nullptr || shards.size() > kMaxNames) return false;
    // Tensors of one shard mostly follow each other.
    if (shards.empty() || shards.back() != *text) shards.push_back(*text);
    return true;
  }));
  if (shards.empty()) return fail(ErrorCode::corrupt, "{}: it has no \"weight_map\"", kWhat);
  QUERN_TRY_VOID(check_names(shards, kWhat));
  return shards;
}

Result<std::string> quantization_method(std::string_view config_json) {
  std::string method;
  const auto visit = [&](Walker::Path path, const std::string* text, bool) {
    if (is_at(path, {"quantization_config", "quant_method"}))
      method = text == nullptr ? "unknown" : shown(*text);
    return true;
  };
  const auto open = [&](Walker::Path path, bool array) {
    if (is_at(path, {"quantization_config"}) && !array && method.empty()) method = "unknown";
    return true;
  };
  QUERN_TRY_VOID(walk(config_json, "config.json", visit, open));
  return method;
}

}  // namespace quern::hub
