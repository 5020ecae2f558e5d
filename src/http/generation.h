// The engine requests of one HTTP request, and how their events become an answer.
#pragma once

#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "engine/model_host.h"
#include "http/message.h"

namespace quern {

/// Posts requests and collects their events. Engine threads put events in, the connection takes them out.
class Generation {
 public:
  struct Item {
    size_t choice;
    Event event;
  };

  /// All requests or none: when one is refused, the others are cancelled. `pending_bytes` bounds what may
  /// wait in between.
  static Parsed<std::unique_ptr<Generation>> submit(std::shared_ptr<ServedModel> model,
                                                    std::vector<Request> requests, size_t pending_bytes);
  /// Cancels what still runs.
  ~Generation();

  /// `wake` is called, from any thread, when there is something to take; now, if there is already. An empty
  /// function stops that: no call is under way when this returns.
  void set_wake(std::function<void()> wake);
  std::vector<Item> take();
  /// The reader was too slow: events were lost, and the answer cannot be finished.
  bool overflowed() const;
  /// Stops all requests within one step of the engine. Events that still come are dropped.
  void cancel();

  const ServedModel& model() const { return *model_; }

 private:
  struct Mailbox;
  Generation() = default;

  std::shared_ptr<ServedModel> model_;
  std::shared_ptr<Mailbox> mailbox_;
  std::vector<uint64_t> tickets_;
};

/// What is known of one choice so far.
struct Choice {
  std::string text;
  std::vector<TokenInfo> prompt;  // for echo
  std::vector<TokenInfo> tokens;
  int32_t generated = 0;
  std::optional<Finish> finish;
};

/// The JSON of an API. One object per answer; the stream's methods append whole events ("data: …\n\n").
class Shape {
 public:
  virtual ~Shape() = default;
  virtual ErrorStyle style() const = 0;
  /// The body of an answer that is not streamed.
  virtual std::string whole(std::span<const Choice> choices) = 0;
  virtual void stream_prompt(size_t choice, const PromptInfo& prompt, std::string& out) {}
  virtual void stream_delta(size_t choice, const Delta& delta, std::string& out) = 0;
  virtual void stream_finish(size_t choice, const Choice& state, std::string& out) = 0;
  /// After the last choice: usage, [DONE].
  virtual void stream_end(std::span<const Choice> choices, std::string& out) = 0;
};

/// Appends one server-sent event.
void append_event(std::string& out, std::string_view data);

/// What the connection is to send.
struct Output {
  std::optional<HttpResponse> response;  // a whole answer, or
  std::string stream;  // events to append to the stream, which begins with the first of them
  bool done = false;
};

/// Turns events into output. Nothing is sent before the first event, so that what fails before it (a queue
/// timeout) is an HTTP status.
class Answer {
 public:
  /// Submits the requests; each makes one choice. Of a stream `stream_bytes` may wait for its reader. One
  /// that is not streamed waits for nobody: its events become the answer, however late the connection takes
  /// them.
  static Parsed<std::unique_ptr<Answer>> begin(std::shared_ptr<ServedModel> model,
                                               std::vector<Request> requests, std::unique_ptr<Shape> shape,
                                               bool stream, size_t stream_bytes);

  Generation& generation() { return *generation_; }
  void on_event(Generation::Item item, Output& out);
  /// Ends the answer from outside: the server stops.
  void fail(const ApiError& error, Output& out);
  /// For the log.
  int prompt_tokens() const;
  int generated_tokens() const;

 private:
  Answer(std::unique_ptr<Generation> generation, std::unique_ptr<Shape> shape, size_t choices, bool stream);
  void on_delta(size_t choice, Delta delta, Output& out);
  void on_finish(size_t choice, Finish finish, Output& out);

  std::unique_ptr<Generation> generation_;
  std::unique_ptr<Shape> shape_;
  std::vector<Choice> choices_;
  size_t running_;
  bool stream_;
  bool begun_ = false;
};

}  // namespace quern
