#include "http/generation.h"

#include "http/json.h"

namespace quern {
namespace {

size_t size_of(const std::vector<TokenInfo>& tokens) {
  size_t bytes = 0;
  for (const TokenInfo& token : tokens)
    bytes += sizeof(TokenInfo) + token.bytes.size() + token.top.size() * sizeof(TokenLogprob);
  return bytes;
}

/// What an event takes while it waits, roughly.
size_t size_of(const Event& event) {
  size_t bytes = sizeof(Generation::Item);
  if (const auto* delta = std::get_if<Delta>(&event)) bytes += delta->text.size() + size_of(delta->tokens);
  return bytes;  // a prompt's information comes once, and its size is the prompt's
}

}  // namespace

struct Generation::Mailbox {
  std::mutex mutex;
  // guarded by mutex:
  std::vector<Item> items;
  size_t bytes = 0;
  bool overflowed = false;
  bool closed = false;
  std::function<void()> wake;

  size_t limit = 0;

  void put(size_t choice, Event event) {
    const std::lock_guard lock(mutex);
    if (closed || overflowed) return;
    bytes += size_of(event);
    if (bytes > limit && !items.empty())
      overflowed = true;
    else
      items.push_back({choice, std::move(event)});
    if (wake && (items.size() == 1 || overflowed)) wake();
  }
};

Parsed<std::unique_ptr<Generation>> Generation::submit(std::shared_ptr<ServedModel> model,
                                                       std::vector<Request> requests, size_t pending_bytes) {
  std::unique_ptr<Generation> generation(new Generation);
  generation->model_ = std::move(model);
  generation->mailbox_ = std::make_shared<Mailbox>();
  generation->mailbox_->limit = pending_bytes;
  const auto begun = std::make_shared<bool>(false);
  for (size_t i = 0; i < requests.size(); ++i) {
    requests[i].answer_begun = begun;
    auto ticket = generation->model_->engine->submit(
        std::move(requests[i]),
        [mailbox = generation->mailbox_, i](Event event) { mailbox->put(i, std::move(event)); });
    if (!ticket) return fail(to_api_error(ticket.error()));
    generation->tickets_.push_back(*ticket);
  }
  return generation;
}

Generation::~Generation() {
  if (mailbox_) cancel();
}

void Generation::set_wake(std::function<void()> wake) {
  const std::lock_guard lock(mailbox_->mutex);
  mailbox_->wake = std::move(wake);
  if (mailbox_->wake && (!mailbox_->items.empty() || mailbox_->overflowed)) mailbox_->wake();
}

std::vector<Generation::Item> Generation::take() {
  const std::lock_guard lock(mailbox_->mutex);
  mailbox_->bytes = 0;
  return std::exchange(mailbox_->items, {});
}

bool Generation::overflowed() const {
  const std::lock_guard lock(mailbox_->mutex);
  return mailbox_->overflowed;
}

void Generation::cancel() {
  {
    const std::lock_guard lock(mailbox_->mutex);
    mailbox_->closed = true;
    mailbox_->wake = nullptr;
    mailbox_->items.clear();
  }
  for (const uint64_t ticket : std::exchange(tickets_, {})) model_->engine->cancel(ticket);
}

void append_event(std::string& out, std::string_view data) {
  out += "data: ";
  out += data;
  out += "\n\n";
}

Answer::Answer(std::unique_ptr<Generation> generation, std::unique_ptr<Shape> shape, size_t choices,
               bool stream)
    : generation_(std::move(generation)),
      shape_(std::move(shape)),
      choices_(choices),
      running_(choices),
      stream_(stream) {}

Parsed<std::unique_ptr<Answer>> Answer::begin(std::shared_ptr<ServedModel> model,
                                              std::vector<Request> requests, std::unique_ptr<Shape> shape,
                                              bool stream, size_t stream_bytes) {
  const size_t choices = requests.size();
  QUERN_TRY(auto generation,
            Generation::submit(std::move(model), std::move(requests), stream ? stream_bytes : SIZE_MAX));
  return std::unique_ptr<Answer>(new Answer(std::move(generation), std::move(shape), choices, stream));
}

void Answer::on_event(Generation::Item item, Output& out) {
  if (out.done) return;
  if (auto* error = std::get_if<Error>(&item.event)) {
    fail(to_api_error(*error), out);
  } else if (auto* prompt = std::get_if<PromptInfo>(&item.event)) {
    if (stream_) {
      begun_ = true;
      shape_->stream_prompt(item.choice, *prompt, out.stream);
    } else {
      choices_[item.choice].prompt = std::move(prompt->tokens);
    }
  } else if (auto* delta = std::get_if<Delta>(&item.event)) {
    on_delta(item.choice, std::move(*delta), out);
  } else {
    on_finish(item.choice, std::get<Finish>(std::move(item.event)), out);
  }
}

void Answer::on_delta(size_t index, Delta delta, Output& out) {
  Choice& choice = choices_[index];
  choice.generated += delta.count;
  if (stream_) {
    begun_ = true;
    shape_->stream_delta(index, delta, out.stream);
    return;
  }
  choice.text += delta.text;
  for (TokenInfo& token : delta.tokens) choice.tokens.push_back(std::move(token));
}

void Answer::on_finish(size_t index, Finish finish, Output& out) {
  if (finish.reason == FinishReason::cancelled) {
    fail({ApiErrorKind::unavailable, "the request was cancelled"}, out);
    return;
  }
  Choice& choice = choices_[index];
  choice.generated = finish.completion_tokens;
  choice.finish = std::move(finish);
  --running_;
  if (stream_) {
    begun_ = true;
    shape_->stream_finish(index, choice, out.stream);
    if (running_ == 0) shape_->stream_end(choices_, out.stream);
  } else if (running_ == 0) {
    out.response = HttpResponse::json(shape_->whole(choices_));
  }
  out.done = running_ == 0;
}

void Answer::fail(const ApiError& error, Output& out) {
  generation_->cancel();
  if (begun_) {
    append_event(out.stream, error_body(error, shape_->style()));
  } else {
    out.response = HttpResponse::error(error, shape_->style());
  }
  out.done = true;
}

int Answer::prompt_tokens() const {
  int count = 0;
  for (const Choice& choice : choices_)
    if (choice.finish) count += choice.finish->prompt_tokens;
  return count;
}

int Answer::generated_tokens() const {
  int count = 0;
  for (const Choice& choice : choices_) count += choice.generated;
  return count;
}

}  // namespace quern
