#include "http/transport.h"

#include <filesystem>

#include "http/ssl.h"

namespace quern {
namespace {

namespace asio = boost::asio;
using asio::ip::tcp;
using boost::system::error_code;

class Plain final : public Transport {
 public:
  explicit Plain(tcp::socket socket) : socket_(std::move(socket)) {}
  asio::any_io_executor executor() override { return socket_.get_executor(); }
  void handshake(std::function<void(error_code)> done) override { done({}); }
  void read_some(asio::mutable_buffer buffer, Done done) override {
    socket_.async_read_some(buffer, std::move(done));
  }
  void watch_reset(std::function<void()> done) override {
    socket_.async_wait(tcp::socket::wait_error, [done = std::move(done)](error_code) { done(); });
  }
  void write(asio::const_buffer buffer, Done done) override {
    asio::async_write(socket_, buffer, std::move(done));
  }
  void shutdown(std::function<void()> done) override {
    error_code ignored;
    socket_.shutdown(tcp::socket::shutdown_send, ignored);
    done();
  }
  void close() override {
    error_code ignored;
    socket_.close(ignored);
  }

 private:
  tcp::socket socket_;
};

class Tls final : public Transport {
 public:
  Tls(tcp::socket socket, asio::ssl::context& context) : stream_(std::move(socket), context) {}
  asio::any_io_executor executor() override { return stream_.get_executor(); }
  void handshake(std::function<void(error_code)> done) override {
    stream_.async_handshake(asio::ssl::stream_base::server, std::move(done));
  }
  void read_some(asio::mutable_buffer buffer, Done done) override {
    stream_.async_read_some(buffer, std::move(done));
  }
  /// Clients of TLS end both ways at once.
  void watch_reset(std::function<void()> done) override { done(); }
  void write(asio::const_buffer buffer, Done done) override {
    asio::async_write(stream_, buffer, std::move(done));
  }
  void shutdown(std::function<void()> done) override {
    // Sends close_notify; whether the peer answers is up to it, and the connection's linger time bounds the
    // wait.
    stream_.async_shutdown([done = std::move(done)](error_code) { done(); });
  }
  void close() override {
    error_code ignored;
    stream_.lowest_layer().close(ignored);
  }

 private:
  asio::ssl::stream<tcp::socket> stream_;
};

class Context final : public TlsContext {
 public:
  Context() : context_(asio::ssl::context::tls_server) {}

  Result<> load_files(const std::string& cert, const std::string& key) {
    for (const auto& [name, path] :
         {std::pair("TLS_SERVER_CERT_PATH", cert), std::pair("TLS_SERVER_KEY_PATH", key)}) {
      std::error_code ignored;
      if (!std::filesystem::is_regular_file(path, ignored))
        return fail(ErrorCode::not_found, "{}: {}: no such file", name, path);
    }
    error_code ec;
    context_.set_options(asio::ssl::context::default_workarounds | asio::ssl::context::no_sslv2 |
                             asio::ssl::context::no_sslv3 | asio::ssl::context::no_tlsv1 |
                             asio::ssl::context::no_tlsv1_1 | asio::ssl::context::single_dh_use,
                         ec);
    SSL_CTX_set_options(context_.native_handle(), SSL_OP_NO_RENEGOTIATION);
    context_.use_certificate_chain_file(cert, ec);
    if (ec)
      return fail(ErrorCode::invalid_argument, "TLS_SERVER_CERT_PATH: {}: not a PEM certificate ({})", cert,
                  ec.message());
    // An encrypted key would ask for its password on the terminal.
    context_.set_password_callback([](size_t, asio::ssl::context::password_purpose) { return std::string(); },
                                   ec);
    context_.use_private_key_file(key, asio::ssl::context::pem, ec);
    if (ec)
      return fail(ErrorCode::invalid_argument,
                  "TLS_SERVER_KEY_PATH: {}: not the certificate's private key as unencrypted PEM ({})", key,
                  ec.message());
    if (SSL_CTX_check_private_key(context_.native_handle()) != 1)
      return fail(ErrorCode::invalid_argument,
                  "TLS_SERVER_KEY_PATH: {}: does not belong to the certificate {}", key, cert);
    return {};
  }

  std::unique_ptr<Transport> wrap(tcp::socket socket) override {
    return std::make_unique<Tls>(std::move(socket), context_);
  }

 private:
  asio::ssl::context context_;
};

}  // namespace

Result<std::unique_ptr<TlsContext>> TlsContext::load(const std::string& cert_path,
                                                     const std::string& key_path) {
  auto context = std::make_unique<Context>();
  QUERN_TRY_VOID(context->load_files(cert_path, key_path));
  return context;
}

std::unique_ptr<Transport> plain_transport(tcp::socket socket) {
  return std::make_unique<Plain>(std::move(socket));
}

}  // namespace quern
