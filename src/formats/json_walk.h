// JSON walked without building it: memory is bounded by what is kept. Internal to formats.
#pragma once

#include <cstdint>
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>

namespace quern {

/// Base of the readers of JSON headers. A handler that does not want a value leaves `problem` and returns
/// false through `refuse`; containers deeper than `max_depth` are refused here.
class JsonWalk : public nlohmann::json_sax<nlohmann::json> {
 public:
  explicit JsonWalk(int max_depth) : max_depth_(max_depth) {}

  /// False: `problem()` says why, in half a line.
  bool walk(std::string_view text) { return nlohmann::json::sax_parse(text, this); }
  const std::string& problem() const { return problem_; }

  bool null() override { return other(); }
  bool boolean(bool) override { return other(); }
  bool number_integer(int64_t) override { return other(); }
  bool number_unsigned(uint64_t) override { return other(); }
  bool number_float(double, const std::string&) override { return other(); }
  bool string(std::string&) override { return other(); }
  bool binary(nlohmann::json::binary_t&) override { return other(); }
  bool start_object(size_t) override { return enter(false); }
  bool start_array(size_t) override { return enter(true); }
  bool end_object() override { return leave(); }
  bool end_array() override { return leave(); }
  bool key(std::string&) override { return true; }
  bool parse_error(size_t at, const std::string&, const nlohmann::detail::exception&) override {
    return refuse("not valid JSON at byte " + std::to_string(at));
  }

 protected:
  /// Containers around the current value.
  int depth() const { return depth_; }
  bool refuse(std::string why) {
    if (problem_.empty()) problem_ = std::move(why);
    return false;
  }
  /// Any value that the reader has no handler for.
  virtual bool other() { return true; }
  /// A container opens; depth() counts those around it.
  virtual bool opened(bool /*array*/) { return true; }
  virtual bool closed() { return true; }

 private:
  bool enter(bool array) {
    if (depth_ >= max_depth_) return refuse("nested deeper than " + std::to_string(max_depth_));
    if (!opened(array)) return false;
    ++depth_;
    return true;
  }
  bool leave() {
    --depth_;
    return closed();
  }

  int max_depth_;
  int depth_ = 0;
  std::string problem_;
};

}  // namespace quern
