// The harness of the HTTP tests (not tests themselves; the name makes it part of the test program).
#include "http/test_server.h"

#include <arpa/inet.h>
#include <gtest/gtest.h>
#include <netinet/tcp.h>
#include <openssl/pem.h>
#include <openssl/ssl.h>
#include <openssl/x509.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <fstream>

#include "formats/gguf.h"
#include "models/random_model.h"

namespace quern::testing {
namespace {

using namespace std::chrono_literals;

std::string lower(std::string_view text) {
  std::string out(text);
  for (char& c : out) c = static_cast<char>(std::tolower(static_cast<unsigned char>(c)));
  return out;
}

void add_vocabulary(Metadata& metadata, const std::string& kind) {
  const bool chat = kind == "chat", strict = kind == "strict";
  std::vector<std::string> tokens = {"<unk>", "<s>", "</s>"};
  std::vector<int64_t> types = {2, 3, 3};
  if (chat) {
    for (const char* name : {"<|fim_prefix|>", "<|fim_suffix|>", "<|fim_middle|>"}) {
      tokens.emplace_back(name);
      types.push_back(3);
    }
  }
  for (int byte = 0; byte < 256; ++byte) {
    tokens.push_back(fmt::format("<0x{:02X}>", byte));
    types.push_back(6);
  }
  for (const char* piece : {"▁", "a", "b", "c",  "d",  "e",  "f",  "g",  "h",    "i", "l", "n", "o",   "r",
                            "s", "t", "u", "he", "th", "in", "er", "an", "▁the", "é", "ü", "→", "🦙"}) {
    tokens.emplace_back(piece);
    types.push_back(1);
  }
  if (strict) {
    tokens.emplace_back("▁t");
    types.push_back(1);
  }
  std::vector<double> scores;
  for (size_t i = 0; i < tokens.size(); ++i) scores.push_back(-static_cast<double>(i));
  metadata.add("tokenizer.ggml.model", std::string("llama"));
  metadata.add("tokenizer.ggml.tokens", Metadata::Array{tokens});
  metadata.add("tokenizer.ggml.token_type", Metadata::Array{types});
  metadata.add("tokenizer.ggml.scores", Metadata::Array{scores});
  metadata.add("tokenizer.ggml.bos_token_id", uint64_t{1});
  metadata.add("tokenizer.ggml.eos_token_id", uint64_t{2});
  metadata.add("tokenizer.ggml.add_bos_token", true);
  metadata.add("tokenizer.ggml.add_space_prefix", strict);
  if (chat)
    metadata.add("tokenizer.chat_template",
                 std::string("{{ bos_token }}{% for m in messages %}{% if m.role == 'clown' %}"
                             "{{ raise_exception('no clowns here') }}{% endif %}[{{ m.role }}]{{ m.content }}"
                             "{% if m.content is none %}[none]{% endif %}"
                             "{% endfor %}{% if tools %}[tools]{{ tools | length }}{% endif %}"
                             "{% if add_generation_prompt %}[assistant]{% endif %}{{ extra }}"));
  if (strict)
    metadata.add(
        "tokenizer.chat_template",
        std::string("{% for m in messages %}{{ '[' + m.role + ']' + m.content }}"
                    "{% if m.tool_calls %}{{ m.tool_calls[0].function.name }}{% endif %}{% endfor %}"));
}

void write_model(const std::string& path, const std::string& kind) {
  Metadata vocabulary;
  add_vocabulary(vocabulary, kind);
  ModelSpec spec;
  spec.vocab = static_cast<int64_t>(vocabulary.strings("tokenizer.ggml.tokens")->size());
  spec.context = 1 << 15;
  spec.seed = kind == "chat" ? 1 : 2;
  const auto source = random_model(spec);
  Metadata metadata;
  for (const auto* part : {&source->metadata(), static_cast<const Metadata*>(&vocabulary)})
    for (const auto& [key, value] : part->entries()) metadata.add(key, value);
  std::vector<GgufTensor> tensors;
  for (const RawTensor& tensor : source->tensors())
    tensors.push_back({tensor.name, tensor.dtype, tensor.shape});
  auto writer = GgufWriter::create(path, metadata, tensors);
  ASSERT_TRUE(writer) << writer.error().message;
  for (const RawTensor& tensor : source->tensors()) ASSERT_TRUE((*writer)->write(tensor.data));
  ASSERT_TRUE((*writer)->finish());
}

std::string dechunk(std::string_view data) {
  std::string out;
  for (;;) {
    const size_t line = data.find("\r\n");
    if (line == std::string_view::npos) return out + "<broken chunk>";
    const size_t size = std::stoul(std::string(data.substr(0, line)), nullptr, 16);
    if (size == 0) return out;
    out += data.substr(line + 2, size);
    data.remove_prefix(std::min(line + 2 + size + 2, data.size()));
  }
}

}  // namespace

struct Client::Tls {
  SSL_CTX* context = nullptr;
  SSL* ssl = nullptr;
};

Client::Client(uint16_t port, bool tls) {
  socket_ = ::socket(AF_INET, SOCK_STREAM, 0);
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_port = htons(port);
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  const timeval patience{.tv_sec = 60, .tv_usec = 0};
  setsockopt(socket_, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience);
  if (::connect(socket_, reinterpret_cast<sockaddr*>(&address), sizeof address) != 0) {
    ::close(socket_);
    socket_ = -1;
    return;
  }
  if (!tls) return;
  tls_ = std::make_unique<Tls>();
  tls_->context = SSL_CTX_new(TLS_client_method());
  tls_->ssl = SSL_new(tls_->context);
  SSL_set_fd(tls_->ssl, socket_);
  if (SSL_connect(tls_->ssl) != 1) reset();
}

Client::~Client() {
  if (tls_) {
    if (socket_ >= 0) SSL_shutdown(tls_->ssl);
    SSL_free(tls_->ssl);
    SSL_CTX_free(tls_->context);
  }
  if (socket_ >= 0) ::close(socket_);
}

void Client::send(std::string_view bytes) {
  while (!bytes.empty() && socket_ >= 0) {
    const ssize_t n = tls_ ? SSL_write(tls_->ssl, bytes.data(), static_cast<int>(bytes.size()))
                           : ::send(socket_, bytes.data(), bytes.size(), MSG_NOSIGNAL);
    if (n <= 0) return;
    bytes.remove_prefix(static_cast<size_t>(n));
  }
}

std::string Client::receive() {
  if (socket_ < 0) return {};
  char part[16384];
  const ssize_t n = tls_ ? SSL_read(tls_->ssl, part, sizeof part) : ::recv(socket_, part, sizeof part, 0);
  return n > 0 ? std::string(part, static_cast<size_t>(n)) : std::string();
}

std::string Client::read_all() {
  std::string all = std::exchange(buffer, {});
  for (std::string part = receive(); !part.empty(); part = receive()) all += part;
  return all;
}

bool Client::read_until(std::string_view text) {
  while (buffer.find(text) == std::string::npos) {
    const std::string part = receive();
    if (part.empty()) return false;
    buffer += part;
  }
  return true;
}

Reply Client::read(bool head_only) {
  Reply reply;
  do {
    if (!read_until("\r\n\r\n")) return {};
    const size_t end = buffer.find("\r\n\r\n");
    reply.head = buffer.substr(0, end + 2);
    buffer.erase(0, end + 4);
    reply.status = std::stoi(reply.head.substr(9, 3));
    if (reply.status < 200) ++interim;
  } while (reply.status < 200);
  for (size_t at = reply.head.find("\r\n") + 2; at < reply.head.size();) {
    const size_t end = reply.head.find("\r\n", at), colon = reply.head.find(": ", at);
    reply.headers[lower(reply.head.substr(at, colon - at))] = reply.head.substr(colon + 2, end - colon - 2);
    at = end + 2;
  }
  if (head_only || reply.status == 204) return reply;
  if (reply.headers.contains("transfer-encoding")) {
    if (!buffer.starts_with("0\r\n\r\n")) read_until("\r\n0\r\n\r\n");
    const size_t end = buffer.find("0\r\n\r\n");
    if (end == std::string::npos) return {};
    reply.body = dechunk(std::exchange(buffer, {}));
  } else if (reply.headers.contains("content-length")) {
    const size_t size = std::stoul(reply.headers["content-length"]);
    while (buffer.size() < size) {
      const std::string part = receive();
      if (part.empty()) return {};
      buffer += part;
    }
    reply.body = buffer.substr(0, size);
    buffer.erase(0, size);
  } else {
    reply.body = read_all();
  }
  return reply;
}

bool Client::has_data() const {
  pollfd state{.fd = socket_, .events = POLLIN, .revents = 0};
  return poll(&state, 1, 0) > 0;
}

void Client::half_close() { ::shutdown(socket_, SHUT_WR); }

void Client::reset() {
  const linger now{.l_onoff = 1, .l_linger = 0};
  setsockopt(socket_, SOL_SOCKET, SO_LINGER, &now, sizeof now);
  ::close(std::exchange(socket_, -1));
}

std::vector<std::string> Reply::events() const {
  std::vector<std::string> list;
  for (size_t at = 0; at < body.size();) {
    const size_t end = body.find("\n\n", at);
    if (end == std::string::npos) {
      list.push_back("<unfinished>");
      break;
    }
    const std::string event = body.substr(at, end - at);
    at = end + 2;
    if (event.starts_with(":")) continue;
    list.push_back(event.starts_with("data: ") ? event.substr(6) : "<not data>" + event);
  }
  return list;
}

std::string get_text(const std::string& path, const std::string& headers) {
  return fmt::format("GET {} HTTP/1.1\r\nHost: test\r\n{}\r\n", path, headers);
}

std::string post_text(const std::string& path, const std::string& body, const std::string& headers) {
  const char* type =
      lower(headers).find("content-type") == std::string::npos ? "Content-Type: application/json\r\n" : "";
  return fmt::format("POST {} HTTP/1.1\r\nHost: test\r\n{}Content-Length: {}\r\n{}\r\n{}", path, type,
                     body.size(), headers, body);
}

std::filesystem::path scratch() {
  static const struct Folder {
    std::filesystem::path path =
        std::filesystem::temp_directory_path() / fmt::format("quern_http_test_{}", getpid());
    Folder() { std::filesystem::create_directories(path); }
    ~Folder() {
      std::error_code ignored;
      std::filesystem::remove_all(path, ignored);
    }
  } folder;
  return folder.path;
}

std::string tiny_model(const std::string& kind) {
  const std::string path = scratch() / (kind + ".gguf");
  if (!std::filesystem::exists(path)) write_model(path, kind);
  return path;
}

std::pair<std::string, std::string> certificate() {
  const std::string cert = scratch() / "cert.pem", key = scratch() / "key.pem";
  EVP_PKEY* pair = EVP_EC_gen("P-256");
  X509* x509 = X509_new();
  ASN1_INTEGER_set(X509_get_serialNumber(x509), 1);
  X509_gmtime_adj(X509_getm_notBefore(x509), 0);
  X509_gmtime_adj(X509_getm_notAfter(x509), 3600);
  X509_set_pubkey(x509, pair);
  X509_NAME* name = X509_get_subject_name(x509);
  X509_NAME_add_entry_by_txt(name, "CN", MBSTRING_ASC, reinterpret_cast<const unsigned char*>("localhost"),
                             -1, -1, 0);
  X509_set_issuer_name(x509, name);
  X509_sign(x509, pair, EVP_sha256());
  FILE* file = fopen(cert.c_str(), "w");
  PEM_write_X509(file, x509);
  fclose(file);
  file = fopen(key.c_str(), "w");
  PEM_write_PrivateKey(file, pair, nullptr, nullptr, 0, nullptr, nullptr);
  fclose(file);
  X509_free(x509);
  EVP_PKEY_free(pair);
  return {cert, key};
}

TestServer::TestServer(const ServerOptions& options) : config_(options.config), tls_(options.config.tls) {
  static const bool quiet = (log::init(log::Format::pretty, log::Level::off), true);
  (void)quiet;
  config_.port = 0;
  config_.hostname = "127.0.0.1";
  auto backend = make_cpu_backend({.threads = 1});
  EXPECT_TRUE(backend) << backend.error().message;
  backend_ = *std::move(backend);
  metrics_ = Metrics::create();
  HostOptions host;
  host.models = options.models;
  if (host.models.empty()) host.models = {tiny_model("chat"), tiny_model("base")};
  host.load.engine.max_running = config_.max_concurrent_requests;
  host.load.engine.max_queued = config_.max_queued_requests;
  host.load.engine.queue_timeout = std::chrono::milliseconds(config_.queue_timeout_ms);
  host.load.engine.context = options.context;
  host.load.engine.block_size = 16;
  host.load.engine.draft_rows = options.draft_rows;
  host.load.engine.draft_cost = 1e-6;
  host.fetch = options.fetch;
  host_ = ModelHost::start(*backend_, host, metrics_.get());
  auto server = Server::create(config_, *host_, *metrics_, options.limits);
  EXPECT_TRUE(server) << server.error().message;
  server_ = *std::move(server);
  runner_ = std::jthread([this] { server_->run(); });
  const auto all_ready = [this] {
    for (const auto& status : host_->status())
      if (status.state != ModelState::ready && status.state != ModelState::failed) return false;
    return true;
  };
  while (options.wait && !all_ready()) std::this_thread::sleep_for(5ms);
}

TestServer::~TestServer() {
  server_->stop(0ms);
  if (runner_.joinable()) runner_.join();
  host_->stop(0ms);
}

Reply TestServer::get(const std::string& path, const std::string& headers) {
  Client client = connect();
  client.send(get_text(path, headers));
  return client.read();
}

Reply TestServer::post(const std::string& path, const Json& body, const std::string& headers) {
  return post_raw(path, dump(body), headers);
}

Reply TestServer::post_raw(const std::string& path, const std::string& body, const std::string& headers) {
  Client client = connect();
  client.send(post_text(path, body, headers));
  return client.read();
}

double TestServer::metric(const std::string& name) {
  const std::string text =
      "\n" +
      get("/metrics", config_.api_keys.empty() ? "" : "X-Api-Key: " + config_.api_keys[0] + "\r\n").body;
  const size_t at = text.find("\n" + name + " ");
  if (at == std::string::npos) return -1;
  return std::stod(text.substr(at + name.size() + 2));
}

std::unique_lock<std::mutex> TestServer::hold() { return std::unique_lock(backend_->step_mutex); }

bool TestServer::requests_become(int count) {
  const auto model = *host_->get("");
  for (int i = 0; i < 6000; ++i) {
    const EngineStats stats = model->engine->stats();
    if (stats.running + stats.waiting == count) return true;
    std::this_thread::sleep_for(10ms);
  }
  return false;
}

bool TestServer::metric_becomes(const std::string& name, double value) {
  for (int i = 0; i < 6000; ++i) {
    if (metric(name) == value) return true;
    std::this_thread::sleep_for(10ms);
  }
  return false;
}

}  // namespace quern::testing
