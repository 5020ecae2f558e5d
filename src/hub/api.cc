#include "hub/api.h"

#include <charconv>

#include "core/log.h"
#include "hub/hash.h"
#include "hub/reference.h"
#include "hub/retry.h"

namespace quern::hub {
namespace {

/// No file is larger; what a hub says beyond is a mistake.
constexpr uint64_t kMaxFileBytes = uint64_t{1} << 44;

constexpr int kMaxUnreachable = 3;

std::optional<uint64_t> parse_size(const std::string& text) {
  uint64_t size = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), size);
  if (text.empty() || error != std::errc() || end != text.data() + text.size() || size > kMaxFileBytes)
    return std::nullopt;
  return size;
}

}  // namespace

std::string user_agent() { return "quern/0.1.0"; }

Api::Api(const HubOptions& options, std::string reference)
    : options_(options), reference_(std::move(reference)), client_(user_agent()) {}

Result<> Api::allowed() const {
  if (!options_.offline) return {};
  return fail(ErrorCode::unavailable,
              "{}: not in the cache ({}), and HF_HUB_OFFLINE forbids to fetch it: once, with a network, run "
              "HF_HUB_OFFLINE=0 quern pull {}",
              shown(reference_), options_.cache.string(), shown(reference_));
}

DownloadOptions Api::download_options() const {
  return {user_agent(), options_.token, options_.download_timeout, options_.connections};
}

HttpReply Api::send(const HttpRequest& request, int attempts, const std::stop_token& stop) {
  for (int attempt = 1;; ++attempt) {
    HttpReply reply = client_.send(request, stop);
    // Without a network nobody wants to wait long to hear so.
    const bool hopeless = reply.broken == Broken::unreachable && attempt >= kMaxUnreachable;
    if (attempt >= attempts || hopeless || !worth_retrying(reply)) return reply;
    log::debug("trying again",
               {{"url", request.url}, {"attempt", attempt}, {"why", reply.reason}, {"status", reply.status}});
    if (!wait_to_retry(attempt, reply, stop)) return reply;
  }
}

/// The answer as an error that says what to do. `what`: "the repo", "revision x", "x.gguf".
tl::unexpected<Error> Api::refusal(const HttpReply& reply, const std::string& repo,
                                   const std::string& what) const {
  const std::string& host = options_.endpoint;
  const std::string again = fmt::format("quern pull {}", shown(reference_));
  if (reply.broken == Broken::stopped) return fail(ErrorCode::cancelled, "{}: stopped", repo);
  if (reply.broken == Broken::insecure)
    return fail(ErrorCode::invalid_argument,
                "{}: no trusted connection to {}: {}: check the clock and the package ca-certificates", repo,
                host, reply.reason);
  if (reply.broken == Broken::too_large || reply.broken == Broken::refused)
    return fail(ErrorCode::corrupt, "{}: {}: {}: is HF_ENDPOINT right?", repo, host, reply.reason);
  if (reply.broken != Broken::no)
    return fail(ErrorCode::unavailable,
                "{}: {} cannot be reached: {}: check the network (https_proxy, HF_ENDPOINT), then {}", repo,
                host, reply.reason, again);
  const std::string code = reply.header("x-error-code");
  const bool gated = code == "GatedRepo" || reply.status == 403;
  if (gated && (reply.status == 401 || reply.status == 403)) {
    const std::string ask = fmt::format("ask for access at {}/{}", host, repo);
    if (options_.token.empty())
      return fail(ErrorCode::invalid_argument,
                  "{}: gated: {}, make a token at {}/settings/tokens, then HF_TOKEN=hf_… {}", repo, ask, host,
                  again);
    return fail(ErrorCode::invalid_argument,
                "{}: gated, and your token does not open it: {} with the token's account, then {}", repo, ask,
                again);
  }
  if (reply.status == 401 && !options_.token.empty() && code != "RepoNotFound")
    return fail(ErrorCode::invalid_argument,
                "{}: the token is not accepted: make one at {}/settings/tokens, then HF_TOKEN=hf_… {}", repo,
                host, again);
  if (code == "EntryNotFound" || (reply.status == 404 && what.starts_with("file ")))
    return fail(ErrorCode::not_found, "{}: {} is not there", repo, what);
  if (code == "RevisionNotFound") return fail(ErrorCode::not_found, "{}: {} is not there", repo, what);
  if (reply.status == 401 || reply.status == 404)
    return fail(
        ErrorCode::not_found,
        "{}: {} has no such repo, or it is private: check the name; for a private one, HF_TOKEN=hf_… {}",
        repo, host, again);
  if (reply.status == 429)
    return fail(ErrorCode::unavailable, "{}: {} has had too many requests from here: wait a while, then {}",
                repo, host, again);
  if (reply.status >= 500)
    return fail(ErrorCode::unavailable, "{}: {} is in trouble (status {}): try again later: {}", repo, host,
                reply.status, again);
  return fail(ErrorCode::corrupt,
              "{}: {} gave an answer that no hub gives (status {}): is HF_ENDPOINT right?", repo, host,
              reply.status);
}

Result<RepoListing> Api::listing(const std::string& repo, const std::string& revision, int attempts,
                                 const std::stop_token& stop) {
  HttpRequest request;
  request.url = fmt::format("{}/api/models/{}/revision/{}", options_.endpoint, percent_encode(repo, true),
                            percent_encode(revision, false));
  request.token = options_.token;
  request.timeout = options_.metadata_timeout;
  request.max_body = kMaxListingBytes;
  const HttpReply reply = send(request, attempts, stop);
  if (!reply.ok()) return refusal(reply, repo, "revision " + shown(revision));
  auto listing = parse_listing(reply.body);
  if (!listing)
    return fail(listing.error().code, "{}: {}: is HF_ENDPOINT right?", repo, listing.error().message);
  if (is_commit(revision) && listing->commit != revision)
    return fail(ErrorCode::corrupt, "{}: the hub answered with commit {} for {}", repo, listing->commit,
                revision);
  return listing;
}

std::vector<std::string> Api::refs(const std::string& repo, const std::stop_token& stop) {
  HttpRequest request;
  request.url = fmt::format("{}/api/models/{}/refs", options_.endpoint, percent_encode(repo, true));
  request.token = options_.token;
  request.timeout = options_.metadata_timeout;
  request.max_body = 4 << 20;
  const HttpReply reply = send(request, 2, stop);
  if (!reply.ok()) return {};
  return parse_refs(reply.body).value_or(std::vector<std::string>());
}

/// For hubs that don't tell the size in their answer to HEAD: asks for the first byte, which tells it.
std::optional<uint64_t> Api::size_by_range(HttpRequest request, const std::stop_token& stop) {
  request.method = HttpRequest::Method::get;
  request.stop_at.clear();
  request.last = 0;
  const HttpReply reply =
      client_.send(request, stop, [](const HttpReply&, std::span<const std::byte>) { return false; });
  if (reply.status == 200) return parse_size(reply.header("content-length"));
  const std::string& range = reply.header("content-range");
  return reply.status == 206 ? parse_size(range.substr(range.find('/') + 1)) : std::nullopt;
}

std::string Api::url_of(const std::string& repo, const std::string& commit, const std::string& file) const {
  return fmt::format("{}/{}/resolve/{}/{}", options_.endpoint, percent_encode(repo, true), commit,
                     percent_encode(file, true));
}

Result<RemoteFile> Api::file(const std::string& repo, const std::string& commit, const std::string& name,
                             const std::stop_token& stop) {
  RemoteFile file;
  file.name = fmt::format("{}/{}", repo, name);
  file.url = url_of(repo, commit, name);
  HttpRequest request;
  request.method = HttpRequest::Method::head;
  request.url = file.url;
  request.token = options_.token;
  request.timeout = options_.metadata_timeout;
  // The hub's own answer has what we want to know of a large file; where it sends us for the bytes has not.
  request.stop_at = "x-linked-etag";
  const HttpReply reply = send(request, kMaxAttempts, stop);
  const bool announced =
      reply.broken == Broken::no && !reply.header("x-linked-etag").empty() && reply.status < 400;
  if (!reply.ok() && !announced) return refusal(reply, repo, "file " + shown(name));
  const std::string& linked = reply.header("x-linked-etag");
  file.etag = normalize_etag(linked.empty() ? reply.header("etag") : linked);
  if (file.etag.empty())
    return fail(ErrorCode::corrupt, "{}: the hub gave no etag that could name a file: \"{}\"", file.name,
                shown(linked.empty() ? reply.header("etag") : linked));
  const std::string& size = reply.header("x-linked-size");
  auto bytes = parse_size(size.empty() && reply.ok() ? reply.header("content-length") : size);
  if (!bytes) bytes = size_by_range(request, stop);
  if (!bytes) return fail(ErrorCode::corrupt, "{}: the hub did not say how large it is", file.name);
  file.size = *bytes;
  if (const std::string& at = reply.header("x-repo-commit"); !at.empty() && at != commit)
    return fail(ErrorCode::corrupt, "{}: the hub answered with commit {} for {}", file.name, shown(at),
                commit);
  return file;
}

Result<std::string> Api::read(const RemoteFile& file, uint64_t first, uint64_t count,
                              const std::stop_token& stop) {
  if (first >= file.size || count == 0) return std::string();
  HttpRequest request;
  request.url = file.url;
  request.token = options_.token;
  request.timeout = options_.download_timeout;
  request.first = first;
  request.last = std::min(first + count, file.size) - 1;
  const uint64_t wanted = *request.last - first + 1;
  for (int attempt = 1;; ++attempt) {
    std::string bytes;
    const HttpReply reply =
        client_.send(request, stop, [&](const HttpReply& head, std::span<const std::byte> data) {
          // A server without ranges sends everything: the front of it will do, the middle would not.
          if (head.status != 206 && first != 0) return false;
          bytes.append(reinterpret_cast<const char*>(data.data()),
                       std::min<uint64_t>(data.size(), wanted - bytes.size()));
          return bytes.size() < wanted;
        });
    if (bytes.size() == wanted) return bytes;
    if (reply.broken == Broken::by_reader)
      return fail(ErrorCode::unsupported, "{}: the server knows no ranges: pull the file to inspect it",
                  file.name);
    if (attempt == kMaxAttempts || !(reply.ok() || worth_retrying(reply)))
      return refusal(reply, file.name.substr(0, file.name.find('/', file.name.find('/') + 1)),
                     "file " + file.name);
    if (!wait_to_retry(attempt, reply, stop)) return fail(ErrorCode::cancelled, "{}: stopped", file.name);
  }
}

}  // namespace quern::hub
