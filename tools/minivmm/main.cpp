// The command line: `minivmm [run] …`, `minivmm disk …`, `minivmm doctor`. Status 2 for usage errors, 1 for
// failures, one line each.
#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <cstdio>
#include <exception>
#include <string>

#include "verbs.h"
#include "vmm/core/error.h"

namespace {

constexpr int kFailure = 1;
constexpr int kUsageError = 2;

int complain(const char* what, int status) {
  fmt::print(stderr, "minivmm: {}\n", what);
  return status;
}

}  // namespace

int main(int argc, char** argv) {
  CLI::App app{
      "minivmm boots Linux images on KVM: virtio disks, a serial console in your terminal, no set-up.\n"
      "\n"
      "  minivmm --kernel bzImage --disk root.img             boot a disk to its login prompt\n"
      "  minivmm --kernel bzImage --initrd initrd.gz          boot an initial RAM disk alone\n"
      "  minivmm --kernel bzImage --disk root.img --dry-run   show the machine and its command line\n"
      "  minivmm disk --help                                  create, inspect, convert disk images\n"
      "  minivmm doctor                                       check this host\n"};
  app.set_version_flag("--version", "minivmm " MINIVMM_VERSION);
  app.get_formatter()->column_width(34);
  app.require_subcommand(0, 1);
  app.failure_message([](const CLI::App*, const CLI::Error& error) { return std::string(error.what()); });
  minivmm::Action action;
  minivmm::add_run(app, action);
  minivmm::add_doctor(app, action);
  minivmm::add_disk(app, action);
  try {
    app.parse(argc, argv);
    return action ? action() : 0;
  } catch (const CLI::Success& done) {  // --help, --version
    return app.exit(done);
  } catch (const CLI::ParseError& error) {
    return complain(fmt::format("{}; 'minivmm --help' lists the options", error.what()).c_str(), kUsageError);
  } catch (const minivmm::ConfigError& error) {
    return complain(error.what(), kUsageError);
  } catch (const std::exception& error) {
    return complain(error.what(), kFailure);
  }
}
