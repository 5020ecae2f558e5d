#include "text/hf_json.h"

#include <fstream>

namespace quern {
namespace {

using nlohmann::json;

constexpr size_t kMaxDepth = 64;
constexpr size_t kMaxValues = 1'000'000;  // in the tree; vocabulary and merges do not count
constexpr size_t kMaxMerges = size_t{1} << 24;

/// nlohmann's parser calls this for each value; false ends it.
class Reader {
 public:
  /// `split`: model.vocab and model.merges are taken out.
  Reader(TokenizerJson& out, bool split) : out_(out), split_(split) {}
  const std::string& error() const { return error_; }

  bool null() { return put(json()); }
  bool boolean(bool value) { return put(value); }
  bool number_integer(int64_t value) { return put(value); }
  bool number_unsigned(uint64_t value) { return put(value); }
  bool number_float(double value, const std::string&) { return put(value); }
  bool binary(std::vector<uint8_t>&) { return stop("binary data"); }

  bool string(std::string& value) {
    switch (kind()) {
      case Kind::merges:
        return add_merge(std::move(value));
      case Kind::pair:
        return add_part(value);
      default:
        return put(std::move(value));
    }
  }

  bool start_object(size_t) {
    if (kind() == Kind::model && key_ == "vocab") return push(Kind::vocab, nullptr);
    const bool model = split_ && stack_.size() == 1 && key_ == "model";
    return push(model ? Kind::model : Kind::tree, json::object());
  }
  bool start_array(size_t) {
    if (kind() == Kind::model && key_ == "merges") return push(Kind::merges, nullptr);
    if (kind() == Kind::merges) {
      parts_ = 0;
      out_.merges.emplace_back();
      return check_merges() && push(Kind::pair, nullptr);
    }
    return push(Kind::tree, json::array());
  }
  bool key(std::string& key) {
    key_ = std::move(key);
    return true;
  }
  bool end_object() {
    stack_.pop_back();
    return true;
  }
  bool end_array() {
    const bool pair = kind() == Kind::pair;
    stack_.pop_back();
    return !pair || parts_ == 2 || stop(fmt::format("{}: a merge is a pair of texts", last_merge()));
  }
  bool parse_error(size_t position, const std::string&, const nlohmann::detail::exception& error) {
    const std::string_view why = error.what();
    // "[json.exception.parse_error.101] parse error at line 1, column 9: syntax error while …"
    const size_t text = why.find("] ");
    error_ = fmt::format("no valid JSON (byte {}): {}", position,
                         why.substr(text == why.npos ? 0 : text + 2, 160));
    return false;
  }

 private:
  enum class Kind { root, tree, model, vocab, merges, pair };
  struct Frame {
    Kind kind;
    json* node;  // null for what is taken out
  };

  Kind kind() const { return stack_.empty() ? Kind::root : stack_.back().kind; }
  bool stop(std::string error) {
    error_ = std::move(error);
    return false;
  }
  std::string last_merge() const { return fmt::format("model.merges[{}]", out_.merges.size() - 1); }

  /// Opens a container; `container` null: what it holds is taken out of the tree.
  bool push(Kind kind, json container) {
    if (stack_.size() >= kMaxDepth) return stop(fmt::format("nested deeper than {}", kMaxDepth));
    json* node = nullptr;
    if (!container.is_null()) {
      node = place(std::move(container));
      if (node == nullptr) return false;
    }
    stack_.push_back({kind, node});
    return true;
  }

  bool put(json value) {
    if (kind() == Kind::vocab) return add_token(value);
    return place(std::move(value)) != nullptr;
  }

  /// Where the value stands in the tree; null: it may not stand here.
  json* place(json value) {
    if (++values_ > kMaxValues) return stop(fmt::format("more than {} values", kMaxValues)), nullptr;
    switch (kind()) {
      case Kind::root:
        out_.rest = std::move(value);
        return &out_.rest;
      case Kind::vocab:
        return stop(fmt::format("model.vocab: '{}' has no id", shorten(key_))), nullptr;
      case Kind::merges:
        return stop(fmt::format("model.merges[{}]: not a text or a pair of texts", out_.merges.size())),
               nullptr;
      case Kind::pair:
        return stop(fmt::format("{}: a merge is a pair of texts", last_merge())), nullptr;
      default:
        break;
    }
    json& parent = *stack_.back().node;
    if (parent.is_array()) {
      parent.push_back(std::move(value));
      return &parent.back();
    }
    json& child = parent[key_];
    child = std::move(value);
    return &child;
  }

  bool add_token(const json& value) {
    if (!value.is_number_integer())
      return stop(fmt::format("model.vocab: the id of '{}' is no integer", shorten(key_)));
    const bool fits = !value.is_number_unsigned() || value.get<uint64_t>() < kMaxVocabulary;
    const int64_t id = fits ? value.get<int64_t>() : -1;
    if (id < 0 || id >= static_cast<int64_t>(kMaxVocabulary))
      return stop(fmt::format("model.vocab: the id of '{}' is {}: it must be between 0 and {}", shorten(key_),
                              value.dump(), kMaxVocabulary - 1));
    if (out_.vocab.size() >= kMaxVocabulary)
      return stop(fmt::format("model.vocab: more than {} tokens", kMaxVocabulary));
    out_.vocab.emplace_back(std::move(key_), id);
    return true;
  }

  bool check_merges() {
    return out_.merges.size() <= kMaxMerges || stop(fmt::format("model.merges: more than {}", kMaxMerges));
  }
  bool add_merge(std::string merge) {
    out_.merges.push_back(std::move(merge));
    const std::string& text = out_.merges.back();
    const size_t space = text.find(' ');
    const bool two =
        space != text.npos && space > 0 && space + 1 < text.size() && text.find(' ', space + 1) == text.npos;
    return check_merges() && (two || stop(fmt::format("{}: '{}' is not two texts with a space between them",
                                                      last_merge(), shorten(text))));
  }
  bool add_part(const std::string& part) {
    if (part.empty() || part.find(' ') != part.npos)
      return stop(fmt::format("{}: '{}' is no part of a merge", last_merge(), shorten(part)));
    if (++parts_ > 2) return stop(fmt::format("{}: a merge is a pair of texts", last_merge()));
    std::string& merge = out_.merges.back();
    if (parts_ == 2) merge += ' ';
    merge += part;
    return true;
  }

  TokenizerJson& out_;
  bool split_;
  std::vector<Frame> stack_;
  std::string key_, error_;
  size_t values_ = 0;
  int parts_ = 0;
};

Result<TokenizerJson> parse(std::string_view text, const std::string& name, bool split) {
  TokenizerJson out;
  Reader reader(out, split);
  if (!json::sax_parse(text.begin(), text.end(), &reader))
    return fail(ErrorCode::corrupt, "{}: {}", name, reader.error());
  if (!out.rest.is_object()) return fail(ErrorCode::corrupt, "{}: not a JSON object", name);
  return out;
}

}  // namespace

Result<TokenizerJson> parse_tokenizer_json(std::string_view text, const std::string& name) {
  return parse(text, name, true);
}

Result<json> parse_side_json(std::string_view text, const std::string& name) {
  QUERN_TRY(TokenizerJson out, parse(text, name, false));
  return std::move(out.rest);
}

Result<std::optional<std::string>> read_if_there(const std::filesystem::path& path, size_t limit) {
  std::error_code error;
  const auto status = std::filesystem::status(path, error);
  if (status.type() == std::filesystem::file_type::not_found) return std::nullopt;
  if (!std::filesystem::is_regular_file(status))
    return fail(ErrorCode::io, "{}: not a file that can be read", path.string());
  std::ifstream file(path, std::ios::binary | std::ios::ate);
  const auto size = file ? static_cast<std::streamoff>(file.tellg()) : -1;
  if (size < 0) return fail(ErrorCode::io, "{}: cannot be read", path.string());
  if (static_cast<uint64_t>(size) > limit)
    return fail(ErrorCode::corrupt, "{}: {} bytes, at most {} are read: is it what its name says?",
                path.string(), size, limit);
  std::string text(static_cast<size_t>(size), '\0');
  file.seekg(0);
  if (!file.read(text.data(), size)) return fail(ErrorCode::io, "{}: cannot be read", path.string());
  return text;
}

std::string shorten(std::string_view text) {
  constexpr size_t most = 64;
  std::string out(text.substr(0, most));
  for (char& c : out) {
    if (static_cast<unsigned char>(c) < 0x20 || c == 0x7f) c = '?';
  }
  return text.size() > most ? out + "..." : out;
}

const json* member(const json& object, const char* key) {
  if (!object.is_object()) return nullptr;
  const auto found = object.find(key);
  return found == object.end() || found->is_null() ? nullptr : &*found;
}

const std::string* string_member(const json& object, const char* key) {
  const json* value = member(object, key);
  return value == nullptr ? nullptr : value->get_ptr<const std::string*>();
}

std::optional<bool> bool_member(const json& object, const char* key) {
  const json* value = member(object, key);
  return value != nullptr && value->is_boolean() ? std::optional(value->get<bool>()) : std::nullopt;
}

std::optional<int64_t> int_member(const json& object, const char* key) {
  const json* value = member(object, key);
  if (value == nullptr || !value->is_number_integer()) return std::nullopt;
  if (value->is_number_unsigned() && value->get<uint64_t>() > INT64_MAX) return std::nullopt;
  return value->get<int64_t>();
}

}  // namespace quern
