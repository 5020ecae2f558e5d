#include "clients.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/socket.h>
#include <unistd.h>

#include <chrono>
#include <condition_variable>
#include <mutex>
#include <nlohmann/json.hpp>

namespace quern::serving {
namespace {

using Clock = std::chrono::steady_clock;

constexpr std::string_view kOk = "HTTP/1.1 200";

double since(Clock::time_point begin) { return std::chrono::duration<double>(Clock::now() - begin).count(); }

class InProcess final : public Transport {
 public:
  explicit InProcess(Engine& engine) : engine_(engine) {}

  Result<Answer> ask(const Prompt& prompt, int32_t tokens) override {
    const auto begin = Clock::now();
    Answer answer;
    bool ended = false;
    std::string error;
    std::mutex mutex;
    std::condition_variable changed;
    Request request{.prompt = prompt.tokens, .max_tokens = tokens, .ignore_eos = true};
    request.sampling.temperature = 0;
    QUERN_TRY_VOID(engine_.submit(std::move(request), [&](const Event& event) {
      const std::lock_guard lock(mutex);
      if (answer.first == 0) answer.first = since(begin);
      if (const auto* finish = std::get_if<Finish>(&event))
        answer.tokens = finish->completion_tokens, ended = true;
      if (const auto* failed = std::get_if<Error>(&event)) error = failed->message, ended = true;
      if (ended) changed.notify_all();
    }));
    std::unique_lock lock(mutex);
    changed.wait(lock, [&] { return ended; });
    if (!error.empty()) return fail(ErrorCode::internal, "{}", error);
    return answer;
  }

 private:
  Engine& engine_;
};

class OverHttp final : public Transport {
 public:
  OverHttp(int socket, std::string model) : socket_(socket), model_(std::move(model)) {}
  ~OverHttp() override { close(socket_); }

  Result<Answer> ask(const Prompt& prompt, int32_t tokens) override {
    const nlohmann::json body = {{"model", model_},
                                 {"prompt", prompt.text},
                                 {"max_tokens", tokens},
                                 {"temperature", 0},
                                 {"ignore_eos", true},
                                 {"stream", true},
                                 {"stream_options", {{"include_usage", true}}}};
    const std::string text = body.dump();
    const std::string request = fmt::format(
        "POST /v1/completions HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: "
        "application/json\r\nContent-Length: "
        "{}\r\n\r\n{}",
        text.size(), text);
    const auto begin = Clock::now();
    if (send(socket_, request.data(), request.size(), MSG_NOSIGNAL) != static_cast<ssize_t>(request.size()))
      return fail(ErrorCode::io, "the server does not take the request");
    Answer answer;
    std::string received;
    // The last chunk of the body comes after the last event.
    while (!received.ends_with("0\r\n\r\n")) {
      char part[8192];
      const ssize_t size = recv(socket_, part, sizeof(part), 0);
      if (size <= 0) return fail(ErrorCode::io, "the server closed the connection: {}", received);
      received.append(part, static_cast<size_t>(size));
      // An error's body is no stream, and the connection stays open after it.
      if (received.size() >= kOk.size() && !received.starts_with(kOk))
        return fail(ErrorCode::internal, "no answer: {}", received);
      if (answer.first == 0 && received.find("data: ") != std::string::npos) answer.first = since(begin);
    }
    const std::string_view key = "\"completion_tokens\":";
    const size_t found = received.find(key);
    if (found == std::string::npos) return fail(ErrorCode::internal, "no answer: {}", received);
    answer.tokens = std::strtoll(received.c_str() + found + key.size(), nullptr, 10);
    return answer;
  }

 private:
  const int socket_;
  const std::string model_;
};

}  // namespace

std::unique_ptr<Transport> in_process(Engine& engine) { return std::make_unique<InProcess>(engine); }

Result<std::unique_ptr<Transport>> over_http(uint16_t port, std::string model) {
  const int handle = socket(AF_INET, SOCK_STREAM, 0);
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_port = htons(port);
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  if (handle < 0 || connect(handle, reinterpret_cast<const sockaddr*>(&address), sizeof(address)) != 0)
    return fail(ErrorCode::io, "cannot connect to port {}", port);
  const int on = 1;
  setsockopt(handle, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
  return std::make_unique<OverHttp>(handle, std::move(model));
}

}  // namespace quern::serving
