#include "hub/http.h"

#include <curl/curl.h>

#include <algorithm>
#include <cctype>
#include <mutex>

namespace quern::hub {
namespace {

constexpr int kMaxRedirects = 10;
constexpr size_t kMaxHeaderBytes = 64 << 10;

struct SlistFree {
  void operator()(curl_slist* list) const { curl_slist_free_all(list); }
};
struct UrlFree {
  void operator()(CURLU* url) const { curl_url_cleanup(url); }
};
using Url = std::unique_ptr<CURLU, UrlFree>;

std::string url_part(CURLU* url, CURLUPart part, unsigned flags = 0) {
  char* text = nullptr;
  if (curl_url_get(url, part, &text, flags) != CURLUE_OK) return {};
  std::string out = text;
  curl_free(text);
  return out;
}

std::string lower(std::string text) {
  for (char& c : text) c = static_cast<char>(std::tolower(static_cast<unsigned char>(c)));
  return text;
}

Broken broken_by(CURLcode code) {
  switch (code) {
    case CURLE_OK:
      return Broken::no;
    case CURLE_COULDNT_RESOLVE_HOST:
    case CURLE_COULDNT_RESOLVE_PROXY:
    case CURLE_COULDNT_CONNECT:
    case CURLE_PROXY:
      return Broken::unreachable;
    case CURLE_OPERATION_TIMEDOUT:
      return Broken::timeout;
    case CURLE_SSL_CONNECT_ERROR:
    case CURLE_PEER_FAILED_VERIFICATION:
    case CURLE_SSL_CACERT_BADFILE:
    case CURLE_SSL_CERTPROBLEM:
      return Broken::insecure;
    case CURLE_UNSUPPORTED_PROTOCOL:
    case CURLE_URL_MALFORMAT:
      return Broken::refused;
    default:
      return Broken::dropped;
  }
}

bool is_redirect(int status) {
  return status == 301 || status == 302 || status == 303 || status == 307 || status == 308;
}

}  // namespace

std::string origin_of(const std::string& text) {
  const Url url(curl_url());
  if (!url || curl_url_set(url.get(), CURLUPART_URL, text.c_str(), 0) != CURLUE_OK) return {};
  const std::string scheme = lower(url_part(url.get(), CURLUPART_SCHEME));
  if (scheme != "http" && scheme != "https") return {};
  return fmt::format("{}://{}:{}", scheme, lower(url_part(url.get(), CURLUPART_HOST)),
                     url_part(url.get(), CURLUPART_PORT, CURLU_DEFAULT_PORT));
}

std::string resolve_url(const std::string& base, const std::string& location) {
  const Url url(curl_url());
  if (!url || curl_url_set(url.get(), CURLUPART_URL, base.c_str(), 0) != CURLUE_OK ||
      curl_url_set(url.get(), CURLUPART_URL, location.c_str(), CURLU_URLENCODE) != CURLUE_OK)
    return {};
  std::string text = url_part(url.get(), CURLUPART_URL);
  return origin_of(text).empty() ? std::string() : text;
}

std::string percent_encode(std::string_view text, bool keep_slashes) {
  std::string out;
  for (const char c : text) {
    const bool plain =
        std::isalnum(static_cast<unsigned char>(c)) != 0 || c == '-' || c == '_' || c == '.' || c == '~';
    if (plain || (keep_slashes && c == '/'))
      out += c;
    else
      out += fmt::format("%{:02X}", static_cast<unsigned>(static_cast<unsigned char>(c)));
  }
  return out;
}

const std::string& HttpReply::header(const std::string& name) const {
  static const std::string kNone;
  const auto it = headers.find(name);
  return it == headers.end() ? kNone : it->second;
}

struct HttpClient::Impl {
  CURL* curl = nullptr;
  std::string user_agent;
};

/// What libcurl's callbacks see of one request.
struct HttpClient::Transfer {
  const HttpRequest& request;
  const std::stop_token& stop;
  const BodySink& sink;
  HttpReply reply;
  size_t header_bytes = 0;

  static size_t on_header(char* data, size_t, size_t size, void* self) {
    return static_cast<Transfer*>(self)->header({data, size}) ? size : 0;
  }
  static size_t on_body(char* data, size_t, size_t size, void* self) {
    return static_cast<Transfer*>(self)->body({data, size}) ? size : 0;
  }
  static int on_progress(void* self, curl_off_t, curl_off_t, curl_off_t, curl_off_t) {
    auto* transfer = static_cast<Transfer*>(self);
    if (!transfer->stop.stop_requested()) return 0;
    transfer->reply.broken = Broken::stopped;
    return 1;
  }

  bool header(std::string_view line) {
    header_bytes += line.size();
    if (header_bytes > kMaxHeaderBytes) return reject(Broken::too_large, "its headers are too large");
    if (line.starts_with("HTTP/")) {  // of another answer: 100 Continue, a proxy's
      reply.headers.clear();
      const size_t space = line.find(' ');
      reply.status = space == line.npos ? 0 : std::atoi(std::string(line.substr(space + 1, 3)).c_str());
      return true;
    }
    const size_t colon = line.find(':');
    if (colon == std::string_view::npos) return true;
    std::string_view value = line.substr(colon + 1);
    while (!value.empty() && std::isspace(static_cast<unsigned char>(value.front()))) value.remove_prefix(1);
    while (!value.empty() && std::isspace(static_cast<unsigned char>(value.back()))) value.remove_suffix(1);
    reply.headers[lower(std::string(line.substr(0, colon)))] = value;
    return true;
  }

  bool body(std::string_view data) {
    if (stop.stop_requested()) return reject(Broken::stopped, "stopped");
    if (sink && (reply.status == 200 || reply.status == 206)) {
      if (sink(reply, std::as_bytes(std::span(data)))) return true;
      return reject(Broken::by_reader, "the reader wanted no more");
    }
    // Nobody needs the whole page of an error.
    const size_t most = reply.status < 300 ? request.max_body : std::min<size_t>(request.max_body, 64 << 10);
    if (reply.body.size() + data.size() <= most) {
      reply.body += data;
      return true;
    }
    if (reply.status >= 300) return true;
    return reject(Broken::too_large, fmt::format("the answer is larger than {} MiB", most >> 20));
  }

  bool reject(Broken broken, std::string reason) {
    reply.broken = broken;
    reply.reason = std::move(reason);
    return false;
  }
};

HttpClient::HttpClient(std::string user_agent) : impl_(std::make_unique<Impl>()) {
  static std::once_flag once;
  std::call_once(once, [] { curl_global_init(CURL_GLOBAL_DEFAULT); });
  impl_->curl = curl_easy_init();
  impl_->user_agent = std::move(user_agent);
}

HttpClient::~HttpClient() {
  if (impl_->curl != nullptr) curl_easy_cleanup(impl_->curl);
}

HttpReply HttpClient::send_once(const HttpRequest& request, const std::stop_token& stop,
                                const BodySink& sink) {
  Transfer transfer{request, stop, sink, {}, 0};
  transfer.reply.url = request.url;
  CURL* curl = impl_->curl;
  if (curl == nullptr) {
    transfer.reject(Broken::unreachable, "libcurl could not be initialized");
    return std::move(transfer.reply);
  }
  curl_easy_reset(curl);  // keeps connections and the DNS cache
  const std::string range = request.last ? fmt::format("{}-{}", request.first, *request.last) : std::string();
  const std::string bearer = "Authorization: Bearer " + request.token;
  std::unique_ptr<curl_slist, SlistFree> headers(curl_slist_append(nullptr, "Accept-Encoding: identity"));
  if (!request.token.empty()) headers.reset(curl_slist_append(headers.release(), bearer.c_str()));
  const long seconds = static_cast<long>(request.timeout.count());
  curl_easy_setopt(curl, CURLOPT_URL, request.url.c_str());
  curl_easy_setopt(curl, CURLOPT_PROTOCOLS_STR, "http,https");
  curl_easy_setopt(curl, CURLOPT_USERAGENT, impl_->user_agent.c_str());
  curl_easy_setopt(curl, CURLOPT_HTTPHEADER, headers.get());
  curl_easy_setopt(curl, CURLOPT_NOSIGNAL, 1L);
  curl_easy_setopt(curl, CURLOPT_CONNECTTIMEOUT, seconds);
  curl_easy_setopt(curl, CURLOPT_LOW_SPEED_LIMIT, static_cast<long>(request.least_speed));
  curl_easy_setopt(curl, CURLOPT_LOW_SPEED_TIME, seconds);
  curl_easy_setopt(curl, CURLOPT_BUFFERSIZE, 256L << 10);
  curl_easy_setopt(curl, CURLOPT_NOBODY, request.method == HttpRequest::Method::head ? 1L : 0L);
  if (!range.empty()) curl_easy_setopt(curl, CURLOPT_RANGE, range.c_str());
  curl_easy_setopt(curl, CURLOPT_HEADERFUNCTION, &Transfer::on_header);
  curl_easy_setopt(curl, CURLOPT_HEADERDATA, &transfer);
  curl_easy_setopt(curl, CURLOPT_WRITEFUNCTION, &Transfer::on_body);
  curl_easy_setopt(curl, CURLOPT_WRITEDATA, &transfer);
  curl_easy_setopt(curl, CURLOPT_NOPROGRESS, 0L);
  curl_easy_setopt(curl, CURLOPT_XFERINFOFUNCTION, &Transfer::on_progress);
  curl_easy_setopt(curl, CURLOPT_XFERINFODATA, &transfer);
  char detail[CURL_ERROR_SIZE] = {};
  curl_easy_setopt(curl, CURLOPT_ERRORBUFFER, detail);
  const CURLcode code = curl_easy_perform(curl);
  curl_easy_setopt(curl, CURLOPT_ERRORBUFFER, nullptr);
  // A callback that ended the transfer has said why.
  if (code != CURLE_OK && transfer.reply.broken == Broken::no)
    transfer.reject(broken_by(code), detail[0] != '\0' ? detail : curl_easy_strerror(code));
  return std::move(transfer.reply);
}

HttpReply HttpClient::send(const HttpRequest& request, const std::stop_token& stop, const BodySink& sink) {
  const std::string home = origin_of(request.url);
  HttpRequest next = request;
  for (int hop = 0;; ++hop) {
    HttpReply reply = send_once(next, stop, sink);
    if (reply.broken != Broken::no || !is_redirect(reply.status)) return reply;
    if (!request.stop_at.empty() && !reply.header(request.stop_at).empty()) return reply;
    const std::string target = resolve_url(next.url, reply.header("location"));
    const std::string origin = origin_of(target);
    const auto refuse = [&](std::string why) {
      reply.broken = Broken::refused;
      reply.reason = std::move(why);
      return std::move(reply);
    };
    if (origin.empty()) return refuse("a redirect to nowhere");
    if (hop == kMaxRedirects) return refuse("too many redirects");
    if (home.starts_with("https:") && !origin.starts_with("https:"))
      return refuse(fmt::format("a redirect from https to {}", origin));
    next.url = target;
    // A token is for one host; once away, it never comes back into the chain.
    if (origin != home) next.token.clear();
  }
}

}  // namespace quern::hub
