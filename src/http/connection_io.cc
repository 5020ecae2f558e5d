// The lower half of a connection: bytes in and out, and waiting.
#include "http/connection.h"
#include "http/coroutines.h"

namespace quern {
namespace {

namespace asio = boost::asio;
using boost::system::error_code;

constexpr auto kForever = ServerState::Clock::time_point::max();
/// What a client may send ahead while it waits for an answer: with more, nothing would tell that it leaves.
constexpr size_t kReadAhead = 64 << 10;
/// What one write_timeout is for.
constexpr size_t kSlice = 64 << 10;

}  // namespace

void Connection::poke() {
  asio::post(transport_->executor(), [self = shared_from_this()] { self->wake(); });
}

void Connection::kill() {
  asio::post(transport_->executor(), [self = shared_from_this()] {
    self->closed_ = true;
    self->transport_->close();
    self->wake();
  });
}

void Connection::wake() {
  woken_ = true;
  timer_.cancel();
}

asio::awaitable<bool> Connection::wait(Clock::time_point deadline) {
  if (!woken_) {
    timer_.expires_at(deadline);
    co_await timer_.async_wait(asio::as_tuple(asio::use_awaitable));
  }
  co_return std::exchange(woken_, false);
}

void Connection::start_read() {
  if (reading_ || read_ended_ || closed_) return;
  if (input_.size() >= kReadAhead) {
    read_ended_ = left_ = true;
    return wake();
  }
  reading_ = true;
  transport_->read_some(asio::buffer(staging_), [self = shared_from_this()](error_code ec, size_t n) {
    self->reading_ = false;
    if (ec)
      self->end_read(ec);
    else
      self->input_.append(self->staging_.data(), n);
    self->wake();
  });
}

/// A client that has closed its side may wait for its answer, or be gone: TCP tells that only after a write.
void Connection::end_read(error_code why) {
  read_ended_ = true;
  if (why != asio::error::eof) {
    left_ = true;
    return;
  }
  transport_->watch_reset([self = shared_from_this()] {
    self->left_ = true;
    self->wake();
  });
}

asio::awaitable<Connection::Fill> Connection::fill(Clock::time_point deadline, bool idle) {
  const size_t before = input_.size();
  for (;;) {
    start_read();
    if (input_.size() != before) co_return Fill::data;
    if (read_ended_ || closed_) co_return Fill::ended;
    if (server_.aborting || (idle && server_.closing)) co_return Fill::closing;
    if (Clock::now() >= deadline) co_return Fill::timeout;
    co_await wait(deadline);
  }
}

asio::awaitable<bool> Connection::write(std::string data, const Generation* stream) {
  if (closed_ || write_failed_) co_return false;
  write_buffer_ = std::move(data);
  for (size_t at = 0; at < write_buffer_.size(); at += kSlice) {
    writing_ = true;
    const size_t size = std::min(kSlice, write_buffer_.size() - at);
    transport_->write(asio::buffer(write_buffer_.data() + at, size),
                      [self = shared_from_this()](error_code ec, size_t) {
                        self->writing_ = false;
                        if (ec) self->write_failed_ = true;
                        self->wake();
                      });
    const auto deadline = Clock::now() + limits_.write_timeout;
    while (writing_) {
      const bool give_up =
          Clock::now() >= deadline || (stream != nullptr && (gone() || stream->overflowed()));
      if (give_up && !closed_) {
        closed_ = true;
        transport_->close();
      }
      if (stream != nullptr) start_read();
      co_await wait(closed_ ? kForever : deadline);
    }
    if (write_failed_ || closed_) co_return false;
  }
  std::string().swap(write_buffer_);  // a large answer's memory does not stay while the connection is idle
  co_return true;
}

/// Lets the client read our last words: closing with unread input would reset the connection. The server's
/// closing does not cut this short; its aborting does.
asio::awaitable<void> Connection::linger() {
  if (gone() || read_ended_) co_return;
  transport_->shutdown([self = shared_from_this()] {});
  const auto deadline = Clock::now() + limits_.linger;
  for (;;) {
    input_.clear();
    const Fill result = co_await fill(deadline, false);
    if (result != Fill::data) co_return;
  }
}

asio::awaitable<bool> Connection::handshake() {
  auto done = std::make_shared<std::optional<bool>>();
  transport_->handshake([self = shared_from_this(), done](error_code ec) {
    *done = !ec;
    self->wake();
  });
  const auto deadline = Clock::now() + limits_.handshake_timeout;
  while (!done->has_value()) {
    if (!closed_ && (Clock::now() >= deadline || server_.closing)) {
      closed_ = true;
      transport_->close();
    }
    co_await wait(closed_ ? kForever : deadline);
  }
  co_return done->value() && !closed_;
}

}  // namespace quern
