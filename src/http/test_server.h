// A real server on a real engine with a tiny random model, and a client that speaks raw bytes.
#pragma once

#include <filesystem>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "config/config.h"
#include "http/json.h"
#include "http/server.h"

namespace quern::testing {

/// What came back.
struct Reply {
  int status = 0;
  std::string head;                            // as received
  std::map<std::string, std::string> headers;  // names in lower case; the last of a name
  std::string body;                            // decoded where it was chunked

  Json json() const { return Json::parse(body, nullptr, false); }
  /// The data of each server-sent event.
  std::vector<std::string> events() const;
  std::string last_event() const {
    const auto all = events();
    return all.empty() ? "" : all.back();
  }
};

/// A TCP or TLS connection. Reading gives up after a minute.
class Client {
 public:
  explicit Client(uint16_t port, bool tls = false);
  ~Client();
  Client(const Client&) = delete;

  bool connected() const { return socket_ >= 0; }
  void send(std::string_view bytes);
  /// Some bytes; "" at the end of the stream. `alive` says whether it ended (or timed out).
  std::string receive();
  /// One response; status 0 when the server closed without one. Interim (1xx) responses are skipped and
  /// counted.
  Reply read(bool head_only = false);
  /// Everything until the server closes.
  std::string read_all();
  /// Reads until the text has come.
  bool read_until(std::string_view text);
  /// Something has come that is not read yet.
  bool has_data() const;
  void half_close();
  /// Closes with a reset, as a killed process would.
  void reset();
  int interim = 0;
  std::string buffer;

 private:
  struct Tls;
  int socket_ = -1;
  std::unique_ptr<Tls> tls_;
};

std::string get_text(const std::string& path, const std::string& headers = "");
std::string post_text(const std::string& path, const std::string& body, const std::string& headers = "");

/// Folder for this process's files, removed at exit.
std::filesystem::path scratch();
/// A llama of two layers over bytes and letters, written once as GGUF. `kind`: "chat" has a template and
/// fill-in-the-middle tokens, "base" neither; "strict" puts a space before the first word, and its template
/// takes texts only.
std::string tiny_model(const std::string& kind);
/// A self-signed certificate and its key, as PEM files.
std::pair<std::string, std::string> certificate();

struct ServerOptions {
  Config config;
  ServerLimits limits;
  std::vector<std::string> models;  // default: the chat model and the base model
  int64_t context = 512;
  bool wait = true;  // until the models are ready
  FetchModel fetch;  // for models that are no local files
  /// EngineOptions::draft_rows; guesses are taken to cost next to nothing, so that there are many.
  int64_t draft_rows = EngineOptions().draft_rows;
};

class TestServer {
 public:
  explicit TestServer(const ServerOptions& options = {});
  ~TestServer();

  Client connect() { return Client(server_->port(), tls_); }
  /// On a connection of its own.
  Reply get(const std::string& path, const std::string& headers = "");
  Reply post(const std::string& path, const Json& body, const std::string& headers = "");
  Reply post_raw(const std::string& path, const std::string& body, const std::string& headers = "");
  double metric(const std::string& name);
  /// False when the value does not come within a minute.
  bool metric_becomes(const std::string& name, double value);
  Server& server() { return *server_; }
  ModelHost& host() { return *host_; }
  void join() { runner_.join(); }
  /// No engine ends the step that it is in, or begins another, until this is let go.
  std::unique_lock<std::mutex> hold();
  /// False when the default model does not have that many requests, running and waiting, within a minute.
  bool requests_become(int count);

 private:
  std::unique_ptr<Backend> backend_;
  std::unique_ptr<Metrics> metrics_;
  std::unique_ptr<ModelHost> host_;
  std::unique_ptr<Server> server_;
  std::jthread runner_;
  Config config_;
  bool tls_;
};

}  // namespace quern::testing
