// `minivmm run` and `minivmm` alone: boot a machine with its console in the terminal.
#include <fcntl.h>
#include <fmt/format.h>
#include <sys/ioctl.h>
#include <sys/resource.h>
#include <sys/signalfd.h>
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <chrono>
#include <csignal>
#include <cstdio>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "devices/console_escape.h"
#include "devices/net/user/open_user.h"
#include "dry_run.h"
#include "identity_options.h"
#include "stats_table.h"
#include "terminal.h"
#include "verbs.h"
#include "virtio/registry.h"
#include "vmm/core/error.h"
#include "vmm/core/fd.h"
#include "vmm/core/log.h"
#include "vmm/machine/identity_claim.h"
#include "vmm/machine/machine.h"

namespace minivmm {

namespace {

constexpr auto kPatience = std::chrono::seconds(10);  // between SIGTERM and a hard stop

struct RunOptions {
  MachineConfig config;
  std::string memory = "1G";
  std::string cpu = "host";
  std::string transport = "pci";
  std::string entry = "auto";
  std::string log = "warn";
  std::optional<std::string> cmdline;
  std::vector<std::string> fw_cfg;
  IdentityOptions identity;
  std::vector<std::string> publish;
  std::map<std::string, std::vector<std::string>> virtio;  // by type name
  bool no_reboot = false;
  bool dry_run = false;
  bool json = false;
  bool stats = false;
};

LogLevel log_level(const std::string& word) {
  if (word == "error") return LogLevel::error;
  if (word == "info") return LogLevel::info;
  if (word == "debug") return LogLevel::debug;
  return LogLevel::warn;
}

// -p: the first card on user networking has the port forwarded.
void publish(MachineConfig& config, const std::string& forward) {
  for (VirtioConfig& device : config.virtio) {
    if (device.type != "net") continue;
    if (auto spec = with_forward(device.spec, forward)) {
      device.spec = std::move(*spec);
      return;
    }
  }
  throw ConfigError(
      fmt::format("-p {}: forwarded ports need a card on user networking; add --net user", forward));
}

// The device of a type that the user has not named, if there usually is one. A host that cannot have it is no
// reason not to start.
void add_default(MachineConfig& config, const VirtioDeviceType& type, const RunOptions& options) {
  if (type.default_spec.empty()) return;
  // A forwarded port asks for the network: then what is missing is an error.
  const bool asked_for = type.name == "net" && !options.publish.empty();
  const std::string missing =
      type.default_missing == nullptr || asked_for ? std::string() : type.default_missing();
  if (missing.empty()) {
    config.virtio.push_back({std::string(type.name), std::string(type.default_spec)});
  } else if (log_level(options.log) != LogLevel::error) {
    fmt::print(stderr, "minivmm: the machine goes without {}: {}\n", type.option, missing);
  }
}

MachineConfig to_config(RunOptions& options) {
  MachineConfig config = std::move(options.config);
  config.set_memory(options.memory);
  for (const std::string& spec : options.fw_cfg) config.add_fw_cfg(spec);
  options.identity.fill_in(config);
  config.cpu = CpuModel::parse(options.cpu);
  config.transport = options.transport == "mmio" ? Transport::mmio : Transport::pci;
  config.entry = options.entry == "decompressor" ? KernelEntry::decompressor
                 : options.entry == "elf"        ? KernelEntry::elf
                                                 : KernelEntry::automatic;
  config.cmdline = options.cmdline;
  config.reboot = !options.no_reboot;
  for (const VirtioDeviceType& type : virtio_device_types()) {
    const auto& given = options.virtio[std::string(type.name)];
    if (given.empty()) add_default(config, type, options);
    if (given.size() > 1 && !type.repeatable) {
      throw ConfigError(
          fmt::format("{} is given {} times; a machine has one at most", type.option, given.size()));
    }
    for (const std::string& spec : given) config.virtio.push_back({std::string(type.name), spec});
  }
  for (const std::string& forward : options.publish) publish(config, forward);
  return config;
}

// Each connection of a guest on user networking is a descriptor; the usual soft limit is for programs that
// still use select(2).
void allow_many_descriptors() {
  constexpr rlim_t kEnough = 65536;
  rlimit limit{};
  if (::getrlimit(RLIMIT_NOFILE, &limit) != 0 || limit.rlim_cur >= std::min(limit.rlim_max, kEnough)) return;
  limit.rlim_cur = std::min(limit.rlim_max, kEnough);
  ::setrlimit(RLIMIT_NOFILE, &limit);
}

// Signals as the machine's events: SIGTERM, SIGINT and SIGHUP press the power button; the second, or ten
// seconds, stop it hard. SIGUSR1 has it look whether disks have grown; SIGWINCH passes the terminal's size
// on.
class Signals {
 public:
  explicit Signals(Machine& machine) : machine_(machine) {
    sigset_t set;
    sigemptyset(&set);
    for (const int signal : {SIGTERM, SIGINT, SIGHUP, SIGUSR1, SIGWINCH}) sigaddset(&set, signal);
    pthread_sigmask(SIG_BLOCK, &set, nullptr);
    fd_ = UniqueFd(::signalfd(-1, &set, SFD_NONBLOCK | SFD_CLOEXEC));
    if (!fd_) throw_errno("watch for signals");
    timer_ = machine.loop().make_timer([this] { stop_hard(); });
    watch_ = machine.loop().watch_readable(fd_.get(), [this] { on_signal(); });
    pass_on_size();
  }
  bool stopped_hard() const { return hard_; }

 private:
  void on_signal() {
    signalfd_siginfo info{};
    while (::read(fd_.get(), &info, sizeof info) == static_cast<ssize_t>(sizeof info)) {
      if (info.ssi_signo == SIGUSR1) {
        machine_.rescan_disks();
      } else if (info.ssi_signo == SIGWINCH) {
        pass_on_size();
      } else if (std::exchange(asked_, true)) {
        stop_hard();
      } else {
        machine_.press_power_button();
        timer_->arm(Clock::now() + kPatience);
      }
    }
  }
  void pass_on_size() {
    winsize size{};
    if (::ioctl(STDOUT_FILENO, TIOCGWINSZ, &size) == 0) machine_.resize_terminal(size.ws_col, size.ws_row);
  }
  void stop_hard() {
    hard_ = true;
    machine_.stop();
  }

  Machine& machine_;
  UniqueFd fd_;
  std::unique_ptr<Timer> timer_;
  std::unique_ptr<Watch> watch_;
  bool asked_ = false;
  bool hard_ = false;
};

// Lines for the person, also while the terminal is raw.
void tell(std::string_view line) {
  fmt::print(stderr, "minivmm: {}\r\n", line);
}

// `machine` is filled in before its loop runs.
MachineHooks console_hooks(const std::unique_ptr<Machine>& machine) {
  MachineHooks hooks;
  hooks.notice = [](const std::string& line) { fmt::print(stderr, "minivmm: {}\n", line); };
  hooks.terminal = [&machine](EventLoop& loop, Log& log, SlowReader slow) {
    auto escape = std::make_shared<ConsoleEscape>(
        [&machine] { machine->stop(); },
        [] { tell("Ctrl-A x quits, Ctrl-A h is this help, Ctrl-A a sends a Ctrl-A to the guest"); });
    SerialInputFilter filter;
    // Piped input is the guest's to the last byte: the keys are a terminal's.
    if (::isatty(STDIN_FILENO) != 0) {
      filter = [escape](std::span<std::byte> data) { return escape->filter(data); };
    }
    return make_fd_serial(loop, log, STDIN_FILENO, STDOUT_FILENO, std::move(filter), slow);
  };
  return hooks;
}

int run(RunOptions& options) {
  MachineConfig config = to_config(options);
  if (options.dry_run) return dry_run(config, options.json);
  if (options.json) throw ConfigError("--json goes with --dry-run");

  allow_many_descriptors();
  ::signal(SIGPIPE, SIG_IGN);  // a console whose reader went away is no reason to die
  const IdentityClaim claim = claim_identity(config);
  if (!claim.notice().empty() && log_level(options.log) != LogLevel::error) {
    fmt::print(stderr, "minivmm: {}\n", claim.notice());
  }
  Log log(log_level(options.log), [](LogLevel, std::string_view line) { tell(line); });
  std::unique_ptr<Machine> machine;
  machine = Machine::create(config, log, console_hooks(machine));
  Signals signals(*machine);
  MachineEnd end;
  {
    const bool on_stdio = console_on_stdio(config) || serial_place(config) == "stdio";
    const RawTerminal raw(on_stdio ? STDIN_FILENO : -1);
    end = machine->run();
  }
  if (options.stats) print_stats(machine->stats());
  switch (end.reason) {
    case MachineEnd::Reason::powered_off:
    case MachineEnd::Reason::rebooted: return 0;
    case MachineEnd::Reason::stopped:
      if (!signals.stopped_hard()) return 0;
      fmt::print(stderr, "minivmm: stopped hard by a signal: the guest had not powered off\n");
      return 1;
    case MachineEnd::Reason::failed: break;
  }
  fmt::print(stderr, "minivmm: {}\n", end.message);
  return 1;
}

void add_options(CLI::App& app, const std::shared_ptr<RunOptions>& options) {
  RunOptions& o = *options;
  const std::string boot = "Boot";
  app.add_option("--kernel", o.config.kernel,
                 "Kernel: a bzImage, or an ELF vmlinux; without it the one on the first disk (Flatcar)")
      ->type_name("FILE")
      ->group(boot);
  app.add_option("--initrd", o.config.initrd, "Initial RAM disk")->type_name("FILE")->group(boot);
  app.add_option("--cmdline", o.cmdline,
                 "Kernel command line; without it one is made up (--dry-run shows it)")
      ->type_name("TEXT")
      ->group(boot);
  app.add_option("--append", o.config.append, "Added to the command line")->type_name("TEXT")->group(boot);
  app.add_option(
         "--kernel-entry", o.entry,
         "How the kernel is entered: auto; decompressor (bzImage: by its own); elf (vmlinux: not by PVH)")
      ->check(CLI::IsMember({"auto", "decompressor", "elf"}))
      ->type_name("HOW")
      ->group(boot);

  const std::string size = "Machine";
  app.add_option("--name", o.config.name,
                 "The machine's name; without it, that of the first disk or the kernel")
      ->type_name("NAME")
      ->group(size);
  app.add_option("--cpus", o.config.cpus, "Number of vCPUs, 1 to 254 (default 1)")
      ->type_name("N")
      ->group(size);
  app.add_option("--memory", o.memory,
                 "Guest memory (default 1G); settings: hugepages=off|on|2M|1G, shared=on, prefault=on")
      ->type_name("SIZE[,SETTING...]")
      ->group(size);
  app.add_option("--cpu", o.cpu, "CPU model: host (default), x86-64-v2 or x86-64-v3; -FEATURE hides one")
      ->type_name("MODEL[,-FEATURE...]")
      ->group(size);
  app.add_option("--transport", o.transport, "Where virtio devices are: pci (default) or mmio")
      ->check(CLI::IsMember({"pci", "mmio"}))
      ->type_name("BUS")
      ->group(size);

  const std::string devices = "Devices";
  for (const VirtioDeviceType& type : virtio_device_types()) {
    app.add_option(std::string(type.option), o.virtio[std::string(type.name)],
                   type.full_help != nullptr ? type.full_help() : std::string(type.help))
        ->type_name(std::string(type.metavar))
        ->expected(1)
        ->multi_option_policy(CLI::MultiOptionPolicy::TakeAll)
        ->group(devices);
  }
  app.add_option(
         "-p,--publish", o.publish,
         "A port of the host that leads to one of the guest, such as 2222:22; repeatable. ADDR: on which "
         "address of the host (default 127.0.0.1; * for all)")
      ->type_name("[ADDR:]HOST:GUEST[/udp]")
      ->expected(1)
      ->multi_option_policy(CLI::MultiOptionPolicy::TakeAll)
      ->group(devices);
  app.add_option(
         "--serial", o.config.serial,
         "Serial console: stdio (default, if no --console is there), null, pty, file:PATH or socket:PATH")
      ->type_name("WHERE")
      ->group(devices);

  app.add_option("--ignition", o.config.ignition,
                 "Ignition config for the guest's first boot (Flatcar, Fedora CoreOS)")
      ->type_name("FILE")
      ->group(devices);
  app.add_option("--fw-cfg", o.fw_cfg, "A file for the guest's /sys/firmware/qemu_fw_cfg; repeatable")
      ->type_name("name=NAME,file=PATH|string=TEXT")
      ->expected(1)
      ->multi_option_policy(CLI::MultiOptionPolicy::TakeAll)
      ->group(devices);
  o.identity.add_to(app);

  const std::string behaviour = "Behaviour";
  app.add_flag("--no-reboot", o.no_reboot, "A guest's reboot ends minivmm with status 0")->group(behaviour);
  app.add_flag("--dry-run", o.dry_run, "Show the composed machine and its command line, start nothing")
      ->group(behaviour);
  app.add_flag("--json", o.json, "With --dry-run: as JSON")->group(behaviour);
  app.add_flag("--stats", o.stats, "At the end, tell the exits by reason and by device")->group(behaviour);
  app.add_option("--log", o.log, "What to log: error, warn (default), info or debug")
      ->check(CLI::IsMember({"error", "warn", "info", "debug"}))
      ->type_name("LEVEL")
      ->group(behaviour);
}

}  // namespace

void add_run(CLI::App& app, Action& action) {
  // The same options with and without the verb.
  auto options = std::make_shared<RunOptions>();
  add_options(app, options);
  CLI::App* verb = app.add_subcommand("run", "Boot a machine: the same as no verb at all");
  add_options(*verb, options);
  app.footer(
      "In the console: Ctrl-A x quits, Ctrl-A h lists the keys. SIGTERM presses the guest's power button.\n"
      "Status: 0 the guest powered off, 1 failure, 2 usage error.");
  app.callback([&app, &action, options] {
    if (app.get_subcommands().empty() || app.got_subcommand("run")) {
      action = [options] { return run(*options); };
    }
  });
}

}  // namespace minivmm
