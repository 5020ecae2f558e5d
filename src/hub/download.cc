#include "hub/download.h"

#include <algorithm>
#include <charconv>
#include <thread>

#include "core/log.h"
#include "hub/partial_file.h"
#include "hub/retry.h"

namespace quern::hub {
namespace {

/// A file of this size is worth another connection.
constexpr uint64_t kBytesPerConnection = 8 << 20;
/// No connection is given less than this of another's work.
constexpr uint64_t kLeastShare = 1 << 20;
/// Over ranges nothing is lost by a new connection, so one slower than this (bytes/s) is given up.
constexpr uint64_t kLeastSpeed = 1024;

/// "bytes 0-99/1234": does it begin at `first`, of a file of `size` bytes?
bool is_range_of(const std::string& header, uint64_t first, uint64_t size) {
  uint64_t begin = 0, end = 0, total = 0;
  const char* at = header.data();
  const char* const stop = at + header.size();
  const auto number = [&](uint64_t& value, char next) {
    const auto [rest, error] = std::from_chars(at, stop, value);
    if (error != std::errc()) return false;
    at = rest;
    if (next == '\0') return at == stop;
    if (at == stop || *at != next) return false;
    ++at;
    return true;
  };
  if (!header.starts_with("bytes ")) return false;
  at += 6;
  return number(begin, '-') && number(end, '/') && number(total, '\0') && begin == first && total == size;
}

/// Cuts ranges so that `connections` have something to do from the start.
std::vector<ByteRange> cut(const std::vector<ByteRange>& missing, int connections) {
  uint64_t total = 0;
  for (const ByteRange& range : missing) total += range.size();
  const uint64_t piece = std::max<uint64_t>(kLeastShare, total / static_cast<uint64_t>(connections) + 1);
  std::vector<ByteRange> pieces;
  for (ByteRange range : missing) {
    for (; range.size() > piece + kLeastShare; range.begin += piece)
      pieces.push_back({range.begin, range.begin + piece});
    pieces.push_back(range);
  }
  return pieces;
}

tl::unexpected<Error> broken_download(const RemoteFile& file, const HttpReply& reply) {
  if (reply.broken == Broken::stopped) return fail(ErrorCode::cancelled, "{}: stopped", file.name);
  if (reply.broken == Broken::no)
    return fail(ErrorCode::unavailable,
                "{}: {} answered {}: try again later; what has arrived will be continued", file.name,
                origin_of(reply.url), reply.status);
  return fail(ErrorCode::unavailable, "{}: {}: {}: try again later; what has arrived will be continued",
              file.name, origin_of(reply.url), reply.reason);
}

/// The transfer of one file: shared by its connections.
class Download {
 public:
  Download(const RemoteFile& file, PartialFile& partial, const DownloadOptions& options, Meter& meter)
      : file_(file), partial_(partial), options_(options), meter_(meter) {}

  Result<> run(const std::stop_token& stop) {
    const auto missing = partial_.missing();
    uint64_t left = 0;
    for (const ByteRange& range : missing) left += range.size();
    const int connections = static_cast<int>(
        std::clamp<uint64_t>(left / kBytesPerConnection, 1, static_cast<uint64_t>(options_.connections)));
    work_ = std::make_unique<WorkSharing>(cut(missing, connections), kLeastShare);
    // One token ends all: the caller's, or an error of one connection.
    std::stop_callback forward(stop, [this] { give_up_.request_stop(); });
    std::vector<std::jthread> others;
    for (int i = 1; i < connections; ++i) others.emplace_back([this] { serve(); });
    serve();
    others.clear();  // joins
    if (stop.stop_requested()) return fail(ErrorCode::cancelled, "{}: stopped", file_.name);
    if (problem_) return fail(*std::move(problem_));
    if (no_ranges_) return run_without_ranges(stop);
    if (!partial_.missing().empty() && last_resort_) return fail(*std::move(last_resort_));
    return {};
  }

 private:
  void set_problem(Error error) {
    const std::scoped_lock lock(mutex_);
    if (!problem_) problem_ = std::move(error);
    give_up_.request_stop();
  }

  /// One connection found no way; others may have more luck (some hosts allow only a few).
  void set_last_resort(Error error) {
    const std::scoped_lock lock(mutex_);
    last_resort_ = std::move(error);
  }

  /// One connection: takes work until there is none.
  void serve() {
    HttpClient client(options_.user_agent);
    int attempts = 0;
    while (!give_up_.stop_requested()) {
      const auto work = work_->take();
      if (!work) return;
      uint64_t got = 0;
      const HttpReply reply = fetch_range(client, *work, got);
      work_->put_back(work->ticket);
      if (give_up_.stop_requested() || reply.broken == Broken::by_reader) continue;
      if (got > 0) attempts = 0;
      if (got >= work->range.size()) continue;
      // Storage hosts answer 401, 403 or 404 to a link that has expired: the next try gets a new one.
      const bool expired = origin_of(reply.url) != origin_of(file_.url) && reply.status >= 400;
      const bool again = reply.ok() || expired || worth_retrying(reply);
      if (!again) return set_problem(broken_download(file_, reply).value());
      if (++attempts >= kMaxAttempts) return set_last_resort(broken_download(file_, reply).value());
      log::debug(
          "trying again",
          {{"file", file_.name}, {"attempt", attempts}, {"why", reply.reason}, {"status", reply.status}});
      if (got == 0 && !wait_to_retry(attempts, reply, give_up_.get_token())) return;
    }
  }

  HttpReply fetch_range(HttpClient& client, const WorkSharing::Work& work, uint64_t& got) {
    HttpRequest request;
    request.url = file_.url;
    request.token = options_.token;
    request.timeout = options_.timeout;
    request.least_speed = kLeastSpeed;
    const bool whole = work.range == ByteRange{0, file_.size};
    if (!whole) {
      request.first = work.range.begin;
      request.last = work.range.end - 1;
    }
    const uint64_t first = work.range.begin;
    return client.send(request, give_up_.get_token(),
                       [&](const HttpReply& head, std::span<const std::byte> data) {
                         if (!whole && !is_partial(head, first)) return false;
                         const uint64_t own = work_->advance(work.ticket, data.size());
                         if (auto written = partial_.write(first + got, data.first(own)); !written) {
                           set_problem(std::move(written).error());
                           return false;
                         }
                         got += own;
                         meter_.add_fetched(own);
                         return own == data.size();  // the rest is another's by now
                       });
  }

  bool is_partial(const HttpReply& head, uint64_t first) {
    if (head.status == 206 && is_range_of(head.header("content-range"), first, file_.size)) return true;
    if (head.status == 200) {
      no_ranges_ = true;
      give_up_.request_stop();
    } else {
      set_problem(
          {ErrorCode::corrupt, fmt::format("{}: {} answered with another range than it was asked for: {}",
                                           file_.name, origin_of(head.url), head.header("content-range"))});
    }
    return false;
  }

  /// For servers that know no ranges: in one go, each try from the beginning.
  Result<> run_without_ranges(const std::stop_token& stop) {
    log::info("the server knows no ranges: fetching in one go", {{"file", file_.name}});
    HttpClient client(options_.user_agent);
    for (int attempt = 1;; ++attempt) {
      meter_.take_back(partial_.bytes_done());
      QUERN_TRY_VOID(partial_.start_over());
      HttpRequest request;
      request.url = file_.url;
      request.token = options_.token;
      request.timeout = options_.timeout;
      uint64_t got = 0;
      std::optional<Error> problem;
      const HttpReply reply =
          client.send(request, stop, [&](const HttpReply&, std::span<const std::byte> data) {
            const auto wanted = data.first(std::min<uint64_t>(data.size(), file_.size - got));
            if (auto written = partial_.write(got, wanted); !written) {
              problem = std::move(written).error();
              return false;
            }
            got += wanted.size();
            meter_.add_fetched(wanted.size());
            return wanted.size() == data.size();
          });
      if (problem) return fail(*std::move(problem));
      if (got == file_.size) return {};
      if (attempt == kMaxAttempts || !(reply.ok() || worth_retrying(reply)))
        return broken_download(file_, reply);
      if (!wait_to_retry(attempt, reply, stop)) return fail(ErrorCode::cancelled, "{}: stopped", file_.name);
    }
  }

  const RemoteFile& file_;
  PartialFile& partial_;
  const DownloadOptions& options_;
  Meter& meter_;
  std::unique_ptr<WorkSharing> work_;
  std::stop_source give_up_;
  std::atomic<bool> no_ranges_{false};
  std::mutex mutex_;
  std::optional<Error> problem_;      // ends all connections; guarded by mutex_
  std::optional<Error> last_resort_;  // of a connection that gave up; guarded by mutex_
};

}  // namespace

Result<> download_file(const RemoteFile& file, const std::filesystem::path& blob,
                       const DownloadOptions& options, Meter& meter, const std::stop_token& stop) {
  QUERN_TRY(PartialFile partial, PartialFile::open(blob, file.size));
  meter.add_found(partial.bytes_done());
  // Twice: the bytes that were continued may be to blame, or one bad answer.
  for (int attempt = 1;; ++attempt) {
    meter.phase(HubProgress::Phase::downloading, file.name);
    if (!partial.missing().empty()) {
      Download download(file, partial, options, meter);
      QUERN_TRY_VOID(download.run(stop));
    }
    meter.phase(HubProgress::Phase::checking, file.name);
    auto finished = partial.finish(stop, {});
    if (finished) return {};
    if (finished.error().code != ErrorCode::corrupt) return finished;
    meter.take_back(file.size);
    if (attempt == 2) {
      PartialFile::discard(blob);
      return fail(
          ErrorCode::corrupt,
          "{}: what arrived is not what the hub announced: {}: nothing of it is kept; try again later",
          file.name, finished.error().message);
    }
    log::warn("what arrived is not what the hub announced: fetching it anew",
              {{"file", file.name}, {"why", finished.error().message}});
  }
}

}  // namespace quern::hub
