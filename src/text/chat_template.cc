#include "text/chat_template.h"

#include <nlohmann/json.hpp>

#include "text/jinja/jinja.h"

namespace quern {
namespace {

class JinjaTemplate final : public ChatTemplate {
 public:
  JinjaTemplate(std::string source, std::unique_ptr<jinja::Program> program)
      : source_(std::move(source)), program_(std::move(program)) {}

  Result<std::string> render(const nlohmann::ordered_json& variables) const override {
    return program_->render(variables);
  }
  const std::string& source() const override { return source_; }

 private:
  std::string source_;
  std::unique_ptr<jinja::Program> program_;
};

}  // namespace

Result<std::unique_ptr<ChatTemplate>> ChatTemplate::parse(std::string_view source) {
  QUERN_TRY(auto program, jinja::Program::parse(source));
  return std::make_unique<JinjaTemplate>(std::string(source), std::move(program));
}

}  // namespace quern
