// HTTP/1.1 requests from bytes. The only user of Boost.Beast (in parser.cc), which is slow to compile.
#pragma once

#include <memory>
#include <optional>
#include <string_view>

#include "http/limits.h"
#include "http/message.h"

namespace quern {

class RequestParser {
 public:
  explicit RequestParser(const ServerLimits& limits);
  ~RequestParser();

  enum class State {
    more,    // needs more bytes
    head,    // the headers are complete (told once); feed again for the body
    done,    // the whole request is there
    failed,  // error() says why; the connection is of no more use
  };
  /// Takes bytes from the front of `data`; `consumed` says how many. What is not consumed must be given
  /// again.
  State feed(std::string_view data, size_t& consumed);

  HttpRequest& request();
  const ApiError& error() const;
  /// After the headers:
  std::optional<uint64_t> content_length() const;
  bool done() const;
  bool keep_alive() const;
  bool expects_continue() const;

 private:
  class Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace quern
