#include "engine/chat_prompt.h"

#include <nlohmann/json.hpp>

#include "engine/host_fixture.h"

namespace quern {
namespace {

using namespace quern::testing;

/// A model with a template, and one for tools.
struct Chat {
  TemporaryFolder folder;
  std::unique_ptr<Backend> backend = cpu();
  std::shared_ptr<ServedModel> model;

  Chat(const std::string& plain, const std::string& for_tools) {
    const std::string path = (folder.path / "model.gguf").string();
    write_model(path, DType::F16, plain, for_tools);
    LoadOptions options;
    options.engine.max_running = 1;
    auto opened = open_model(*backend, path, options);
    EXPECT_TRUE(opened) << opened.error().message;
    model = *std::move(opened);
  }
  std::string render(const char* variables) const {
    return render_chat(*model, nlohmann::ordered_json::parse(variables)).value_or("error");
  }
};

TEST(ChatPrompt, ConversationsWithToolsHaveTheirOwnTemplate) {
  const Chat chat("plain", "{{ tools | length }} tools");
  EXPECT_EQ(chat.render(R"({"messages": []})"), "plain");
  EXPECT_EQ(chat.render(R"({"tools": []})"), "plain");
  EXPECT_EQ(chat.render(R"({"tools": [{}]})"), "1 tools");
  const Chat broken("plain", "{% for x in %}");
  EXPECT_EQ(broken.render(R"({"tools": [{}]})"), "plain");
}

TEST(ChatPrompt, TheTemplateInUseSaysWhetherThereAreDevelopers) {
  const std::string any = "{{ messages[0].role }}", own = any + "{# developer #}";
  const char* plain = R"({"messages": [{"role": "developer", "content": ""}]})";
  const char* with_tools = R"({"messages": [{"role": "developer", "content": ""}], "tools": [{}]})";
  const Chat tools_know(any, own), plain_knows(own, any);
  EXPECT_EQ(tools_know.render(plain), "system");
  EXPECT_EQ(tools_know.render(with_tools), "developer");
  EXPECT_EQ(plain_knows.render(plain), "developer");
  EXPECT_EQ(plain_knows.render(with_tools), "system");
}

}  // namespace
}  // namespace quern
