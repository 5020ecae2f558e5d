// The program's command line: what each command takes, and which one was chosen. CLI11 stays behind it, in
// one file: its header takes longer to compile than a command.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

namespace CLI {
class App;
class Option;
}  // namespace CLI

namespace quern {

enum class Need : uint8_t { optional, required };

struct Range {
  int64_t least, most;
};

/// What one command takes. A name is that of a place ("MODEL") or of a flag ("-p,--prompt"); what is given
/// goes to a variable, which must live until the command runs and holds the default before.
class Arguments {
 public:
  explicit Arguments(CLI::App& command) : command_(&command) {}

  void flag(const std::string& name, bool& to, const std::string& about);
  void text(const std::string& name, std::string& to, const std::string& about, Need need = Need::optional);
  void text(const std::string& name, const std::function<void(const std::string&)>& to,
            const std::string& about);
  void texts(const std::string& name, std::vector<std::string>& to, const std::string& about,
             Need need = Need::optional);
  void number(const std::string& name, int64_t& to, Range range, const std::string& about);
  /// Separated by commas.
  void numbers(const std::string& name, std::vector<int64_t>& to, Range range, const std::string& about);

  /// The help shows what is added from here on under this heading; not at all, when it is empty.
  void heading(const std::string& text) { heading_ = text; }

 private:
  void place(CLI::Option* option) const;
  CLI::App* command_;
  std::optional<std::string> heading_;
};

class CommandLine {
 public:
  CommandLine(const std::string& about, const std::string& version);
  ~CommandLine();
  CommandLine(const CommandLine&) = delete;
  CommandLine& operator=(const CommandLine&) = delete;

  /// A command: `run`, which returns the exit status, is called when it is chosen.
  Arguments add(const std::string& name, const std::string& about, std::function<int()> run);

  /// Runs the chosen command. Help is printed, and so is what is wrong with the arguments, which is kUsage.
  int run(int argc, const char* const* argv);

 private:
  const std::unique_ptr<CLI::App> app_;
  std::function<int()> chosen_;
};

}  // namespace quern
