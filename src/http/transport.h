// A byte stream to a client, with or without TLS.
#pragma once

#include <functional>
#include <memory>
#include <string>

#include "core/result.h"
#include "http/asio.h"

namespace quern {

/// All calls and completions happen on the stream's executor. One read and one write may be under way at
/// once.
class Transport {
 public:
  using Done = std::function<void(boost::system::error_code, size_t)>;
  virtual ~Transport() = default;

  virtual boost::asio::any_io_executor executor() = 0;
  virtual void handshake(std::function<void(boost::system::error_code)> done) = 0;
  virtual void read_some(boost::asio::mutable_buffer buffer, Done done) = 0;
  /// When what the client sends has ended: `done` once it is known that it does not read either.
  virtual void watch_reset(std::function<void()> done) = 0;
  /// All of the buffer.
  virtual void write(boost::asio::const_buffer buffer, Done done) = 0;
  /// Says that nothing more will be written. `done` keeps what the stream needs alive.
  virtual void shutdown(std::function<void()> done) = 0;
  /// Ends everything; what is under way completes with an error.
  virtual void close() = 0;
};

/// Certificate and key of a server; null in plain HTTP.
class TlsContext {
 public:
  virtual ~TlsContext() = default;
  /// One line that names the file when the certificate or the key is not usable.
  static Result<std::unique_ptr<TlsContext>> load(const std::string& cert_path, const std::string& key_path);
  virtual std::unique_ptr<Transport> wrap(boost::asio::ip::tcp::socket socket) = 0;
};

std::unique_ptr<Transport> plain_transport(boost::asio::ip::tcp::socket socket);

}  // namespace quern
