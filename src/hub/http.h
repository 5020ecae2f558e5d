// HTTP for the hub: one request at a time over libcurl, redirects followed by hand so that the token stays
// with the host that it is for.
#pragma once

#include <chrono>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <span>
#include <stop_token>
#include <string>

#include "core/result.h"

namespace quern::hub {

struct HttpRequest {
  enum class Method { get, head };
  Method method = Method::get;
  std::string url;
  std::string token;   // sent to the url's own host alone, whoever it redirects to
  uint64_t first = 0;  // with `last`: the bytes first … last, both included
  std::optional<uint64_t> last;
  size_t max_body = 1 << 20;         // of a body that is gathered: more is an error
  std::chrono::seconds timeout{10};  // to connect, and without a byte of an answer
  uint64_t least_speed = 1;          // bytes/s over `timeout`; slower is a time-out
  /// A redirect that has this header (in lower case) is the answer; empty: all are followed.
  std::string stop_at;
};

/// Why no answer came, or not all of it.
enum class Broken {
  no,
  unreachable,  // no such host, connection refused, no proxy
  timeout,
  dropped,    // the connection ended before the body did
  insecure,   // TLS failed
  stopped,    // by the stop token
  by_reader,  // the sink wanted no more
  too_large,
  refused,  // a redirect that is not followed: too many, another protocol, from https to http
};

struct HttpReply {
  Broken broken = Broken::no;
  std::string reason;  // for people; empty when not broken
  int status = 0;
  std::string url;                             // whose answer this is
  std::map<std::string, std::string> headers;  // names in lower case; of several the last
  std::string body;                            // gathered, unless a sink took it

  /// Empty when absent.
  const std::string& header(const std::string& name) const;
  bool ok() const { return broken == Broken::no && status >= 200 && status < 300; }
};

/// Takes the body of a 200 or 206 as it comes; `head` has status and headers. False ends the transfer.
using BodySink = std::function<bool(const HttpReply& head, std::span<const std::byte> data)>;

/// Keeps connections open between requests. Not for two threads at once.
class HttpClient {
 public:
  explicit HttpClient(std::string user_agent);
  ~HttpClient();
  HttpClient(const HttpClient&) = delete;
  HttpClient& operator=(const HttpClient&) = delete;

  /// One try. Never throws; what went wrong is in the reply.
  HttpReply send(const HttpRequest& request, const std::stop_token& stop, const BodySink& sink = {});

 private:
  struct Transfer;
  HttpReply send_once(const HttpRequest& request, const std::stop_token& stop, const BodySink& sink);

  struct Impl;
  std::unique_ptr<Impl> impl_;
};

/// "https://host:443" in lower case, port always there; empty when the URL is not http or https.
std::string origin_of(const std::string& url);
/// `location` as a server gave it, seen from `base`; empty when it makes no http or https URL.
std::string resolve_url(const std::string& base, const std::string& location);
/// As one or several (`keep_slashes`) parts of a URL's path.
std::string percent_encode(std::string_view text, bool keep_slashes);

}  // namespace quern::hub
