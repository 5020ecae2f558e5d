#include "command_line.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <CLI/CLI.hpp>

#include "command.h"

namespace quern {
namespace {

/// What `about` says of a number's option, too.
std::string with_range(const std::string& about, const Range& range, std::string_view otherwise) {
  return fmt::format("{} ({} to {}, default {})", about, range.least, range.most, otherwise);
}

CLI::Validator check_of(const Range& range) { return CLI::Range(range.least, range.most).description(""); }

}  // namespace

void Arguments::place(CLI::Option* option) const {
  if (heading_) option->group(*heading_);
  if (option->get_positional()) option->type_name("");
}

void Arguments::flag(const std::string& name, bool& to, const std::string& about) {
  place(command_->add_flag(name, to, about));
}

void Arguments::text(const std::string& name, std::string& to, const std::string& about, Need need) {
  place(command_->add_option(name, to, about)->required(need == Need::required));
}

void Arguments::texts(const std::string& name, std::vector<std::string>& to, const std::string& about,
                      Need need) {
  place(command_->add_option(name, to, about)->required(need == Need::required));
}

void Arguments::text(const std::string& name, const std::function<void(const std::string&)>& to,
                     const std::string& about) {
  place(command_->add_option_function<std::string>(name, to, about));
}

void Arguments::number(const std::string& name, int64_t& to, Range range, const std::string& about) {
  place(command_->add_option(name, to, with_range(about, range, std::to_string(to)))
            ->check(check_of(range))
            ->type_name("N"));
}

void Arguments::numbers(const std::string& name, std::vector<int64_t>& to, Range range,
                        const std::string& about) {
  place(command_->add_option(name, to, with_range(about, range, fmt::format("{}", fmt::join(to, ","))))
            ->delimiter(',')
            ->check(check_of(range))
            ->type_name("N,N"));
}

CommandLine::CommandLine(const std::string& about, const std::string& version)
    : app_(std::make_unique<CLI::App>(about, "quern")) {
  app_->set_version_flag("--version", version);
  app_->require_subcommand(1);
}

CommandLine::~CommandLine() = default;

Arguments CommandLine::add(const std::string& name, const std::string& about, std::function<int()> run) {
  CLI::App* command = app_->add_subcommand(name, about);
  command->callback([this, run = std::move(run)] { chosen_ = run; });
  return Arguments(*command);
}

int CommandLine::run(int argc, const char* const* argv) {
  try {
    app_->parse(argc, argv);
  } catch (const CLI::Success& request) {  // --help, --version
    return app_->exit(request);
  } catch (const CLI::ParseError& error) {
    if (argc == 1) {
      fmt::print(stderr, "{}", app_->help());
      return kUsage;
    }
    const auto chosen = app_->get_subcommands();
    const std::string help =
        chosen.empty() ? "quern --help" : "quern " + chosen.front()->get_name() + " --help";
    if (chosen.empty() && argv[1][0] != '-')
      fmt::print(stderr, "error: {}: no such command: see {}\n", argv[1], help);
    else
      fmt::print(stderr, "error: {}: see {}\n", error.what(), help);
    return kUsage;
  }
  return chosen_();
}

}  // namespace quern
