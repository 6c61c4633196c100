#include "vmm/machine/machine.h"

#include <fmt/format.h>

#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <exception>
#include <mutex>

#include "boot/acpi/tables.h"
#include "boot/kernel_image.h"
#include "boot/smbios.h"
#include "devices/block/disk_set.h"
#include "virtio/device/balloon.h"
#include "virtio/device/console.h"
#include "virtio/transport_common.h"
#include "vmm/core/bus.h"
#include "vmm/core/spec_string.h"
#include "vmm/core/stall_sink.h"
#include "vmm/kvm/cpuid.h"
#include "vmm/kvm/kvm.h"
#include "vmm/kvm/vcpu.h"
#include "vmm/kvm/vm.h"
#include "vmm/machine/boot_choice.h"
#include "vmm/machine/fw_cfg_config.h"
#include "vmm/machine/identity.h"
#include "vmm/machine/plan.h"
#include "vmm/machine/platform.h"
#include "vmm/machine/reset_vector.h"
#include "vmm/machine/serial_config.h"
#include "vmm/machine/virtio_bus.h"

namespace minivmm {

namespace {

static_assert(address_map::kAcpiTables.base == value(kAcpiArea) &&
              address_map::kAcpiTables.size == kAcpiAreaSize);
static_assert(address_map::kSmbios.base == value(kSmbiosArea) &&
              address_map::kSmbios.end() == value(kResetVector));

GuestMemory::Options memory_options(const MachineConfig& config, const MachinePlan& plan) {
  GuestMemory::Options options = config.memory_options;
  options.shared = plan.shared_memory;
  return options;
}

class KvmMachine final : public Machine, public VcpuEvents, private StallSink {
 public:
  KvmMachine(MachineConfig config, Log& log, MachineHooks hooks);
  KvmMachine(const KvmMachine&) = delete;
  KvmMachine& operator=(const KvmMachine&) = delete;
  ~KvmMachine() override;

  MachineEnd run() override;
  EventLoop& loop() override { return loop_; }
  void press_power_button() override { platform_->press_power_button(); }
  void stop() override { end({MachineEnd::Reason::stopped, ""}); }
  void reset() override;
  void pause() override;
  void resume() override;
  void resize_disk(unsigned index, uint64_t bytes) override;
  void rescan_disks() override;
  void set_balloon(uint64_t bytes) override;
  BalloonStats balloon_stats(std::chrono::milliseconds patience) override;
  void resize_terminal(uint16_t columns, uint16_t rows) override;
  MachineStats stats() const override;
  const std::string& cmdline() const override { return plan_.cmdline; }

 private:
  void on_triple_fault(uint32_t vcpu) override;
  void on_fatal(uint32_t vcpu, std::string report) override;
  void stalled(std::string_view what) override;
  void going_on() override;
  void apply_hold();
  VirtioBalloon* balloon() const;  // null: there is none
  void hold_vcpus();               // asks all to park; any thread, does not wait
  void end(MachineEnd how);
  void load_kernel(bool memory_is_zero);
  void reset_now();
  void park_all();
  void resume_all();

  const MachineConfig config_;
  Log& log_;
  const MachineHooks hooks_;
  Kvm kvm_;
  CpuidTable cpuid_;
  std::optional<DiskSet> disks_;  // while the machine is being built
  MachinePlan plan_;
  std::optional<KernelImage> kernel_;  // none: each boot reads the one on the first disk
  std::shared_ptr<const Initrd> initrd_;
  GuestMemory memory_;
  Vm vm_;
  EventLoop loop_;
  Bus pio_;
  Bus mmio_;
  std::unique_ptr<SerialBackend> serial_;
  std::unique_ptr<Platform> platform_;
  std::unique_ptr<VirtioBus> virtio_;
  std::vector<std::unique_ptr<Vcpu>> vcpus_;

  std::atomic<bool> reset_pending_{false};
  std::atomic<uint64_t> resets_{0};
  mutable std::mutex end_mutex_;
  std::optional<MachineEnd> end_;                // under end_mutex_; the first one counts
  std::optional<BalloonStats> last_of_balloon_;  // once run() is over; under end_mutex_
  std::mutex life_mutex_;                        // held while vCPUs are being parked, reset or resumed
  bool paused_ = false;                          // by pause(), under life_mutex_
  std::atomic<unsigned> stalls_{0};              // devices that cannot go on
  bool held_ = false;  // for either reason, as far as carried out; under life_mutex_
};

KvmMachine::KvmMachine(MachineConfig config, Log& log, MachineHooks hooks)
    : config_(std::move(config)),
      log_(log),
      hooks_(std::move(hooks)),
      cpuid_(kvm_, config_.cpu, config_.cpus),
      disks_(std::in_place, DiskSet::Purpose::run, log_),
      plan_(plan_machine(config_, cpuid_.physical_address_bits(), *disks_)),
      initrd_(config_.initrd.empty() ? nullptr : std::make_shared<const Initrd>(config_.initrd)),
      memory_(plan_.ram, memory_options(config_, plan_)),
      vm_(kvm_, memory_, {.identity_map = address_map::kKvmIdentityMap, .tss = address_map::kKvmTss}),
      serial_(hooks_.serial ? hooks_.serial(loop_, log_)
                            : make_serial("--serial", serial_place(config_), loop_, log_, hooks_)) {
  if (config_.cpus > kvm_.max_vcpus()) {
    throw ConfigError(
        fmt::format("--cpus {}: this host's KVM gives a machine {} at most", config_.cpus, kvm_.max_vcpus()));
  }
  if (!config_.kernel.empty()) kernel_.emplace(config_.kernel);
  plan_.smbios.processor = smbios_processor(cpuid_, config_.cpus);
  platform_ = std::make_unique<Platform>(
      pio_, loop_, *serial_,
      Platform::Wires{.irq = [this](uint32_t gsi) { return vm_.irq_line(gsi); },
                      .on_power_off = [this] { end({MachineEnd::Reason::powered_off, ""}); },
                      .on_reset = [this] { reset(); }},
      make_fw_cfg(config_, memory_, log_));
  const auto make_console = [this](const std::string& where) {
    return make_serial("--console", where, loop_, log_, hooks_);
  };
  virtio_ = make_virtio_bus(
      {vm_, memory_, pio_, mmio_, loop_, log_, *disks_, *this, machine_identity(config_), make_console},
      config_, plan_);
  disks_.reset();
  for (uint32_t index = 0; index < config_.cpus; ++index) {
    vcpus_.push_back(std::make_unique<Vcpu>(vm_, index, cpuid_, pio_, mmio_, *this));
  }
}

KvmMachine::~KvmMachine() {
  for (const auto& vcpu : vcpus_) vcpu->stop();
  virtio_.reset();
}

void KvmMachine::load_kernel(bool memory_is_zero) {
  const AcpiTables acpi = build_acpi(plan_acpi(config_, plan_));
  const SmbiosTables smbios = build_smbios(plan_.smbios, kSmbiosArea, address_map::kSmbios.size);
  const auto reset_code =
      reset_vector_code(static_cast<uint16_t>(address_map::kAcpiPm.base + kAcpiReset), kAcpiResetValue);
  if (!memory_.write(acpi.rsdp, acpi.bytes) || !memory_.write(smbios.entry_point, smbios.bytes) ||
      !memory_.write(kResetVector, reset_code)) {
    throw HostError(ENOMEM, "the guest's memory is too small for its tables; give it more with --memory");
  }
  DiskBoot from_disk{.cmdline = plan_.cmdline, .kernel_name = {}, .kernel = {}};
  if (plan_.flatcar) {
    MV_CHECK(virtio_->first_disk() != nullptr);
    DiskBytes disk(*virtio_->first_disk());
    from_disk = boot_from_disk(config_, disk, log_);
  }
  std::optional<KernelImage> disk_kernel;
  if (!from_disk.kernel.empty()) disk_kernel.emplace(from_disk.kernel, from_disk.kernel_name);
  const KernelImage& kernel = disk_kernel ? *disk_kernel : *kernel_;

  BootConfig boot;
  boot.cmdline = from_disk.cmdline;
  boot.initrd = initrd_;
  boot.e820 = plan_.e820;
  boot.rsdp = acpi.rsdp;
  boot.has_la57 = cpuid_.has("la57");
  boot.memory_is_zero = memory_is_zero;
  boot.unpack = config_.entry != KernelEntry::decompressor;
  boot.prefer_pvh = config_.entry != KernelEntry::elf;
  const BootInfo info = kernel.load(memory_, boot);
  log_.write(LogLevel::info, fmt::format("kernel: {}, entry {:#x}; command line: {}", info.kernel_kind,
                                         info.rip, from_disk.cmdline));
  vcpus_.front()->set_boot_state(info);
}

MachineEnd KvmMachine::run() {
  {
    const std::scoped_lock lock(life_mutex_);  // a pause() may come as soon as the first vCPU runs
    for (const auto& vcpu : vcpus_) vcpu->start();
    load_kernel(true);
    if (!held_) resume_all();
  }
  loop_.run();
  const std::scoped_lock life_lock(life_mutex_);
  park_all();
  for (const auto& vcpu : vcpus_) vcpu->stop();
  std::optional<BalloonStats> told;
  if (balloon() != nullptr) told = balloon()->stats({});
  const std::string unsaved = virtio_->close();  // what the guest has handed over is on the disk
  serial_->flush();
  const std::scoped_lock lock(end_mutex_);
  last_of_balloon_ = told;
  MachineEnd end = end_.value_or(MachineEnd{});
  if (!unsaved.empty()) {
    end.message += fmt::format("{}a disk could not be closed: {}", end.message.empty() ? "" : "; ", unsaved);
    end.reason = MachineEnd::Reason::failed;
  }
  return end;
}

void KvmMachine::end(MachineEnd how) {
  hold_vcpus();
  {
    const std::scoped_lock lock(end_mutex_);
    if (!end_) end_ = std::move(how);
  }
  loop_.post([this] { loop_.stop(); });
}

void KvmMachine::hold_vcpus() {
  for (const auto& vcpu : vcpus_) vcpu->request_pause();
}

// Callable from a vCPU's thread: asks only. The vCPU that asked parks before its next instruction.
void KvmMachine::reset() {
  hold_vcpus();
  if (!config_.reboot) return end({MachineEnd::Reason::rebooted, ""});
  if (!reset_pending_.exchange(true)) loop_.post([this] { reset_now(); });
}

void KvmMachine::on_triple_fault(uint32_t vcpu) {
  log_.write(LogLevel::warn, fmt::format("vCPU {}: triple fault: the machine {}", vcpu,
                                         config_.reboot ? "is reset" : "ends"));
  reset();
}

void KvmMachine::on_fatal(uint32_t vcpu, std::string report) {
  end({MachineEnd::Reason::failed, fmt::format("the guest cannot go on: vCPU {}: {}", vcpu, report)});
}

void KvmMachine::reset_now() {
  try {
    const std::scoped_lock lock(life_mutex_);
    park_all();
    reset_pending_ = false;
    virtio_->reset();
    platform_->reset();
    vm_.reset_irqchip();
    for (const auto& vcpu : vcpus_) vcpu->reset();
    load_kernel(false);
    ++resets_;
    if (!held_) resume_all();
  } catch (const std::exception& error) {
    end({MachineEnd::Reason::failed, fmt::format("cannot reset the machine: {}", error.what())});
  }
}

void KvmMachine::park_all() {
  hold_vcpus();
  for (const auto& vcpu : vcpus_) vcpu->wait_paused();
}

void KvmMachine::resume_all() {
  for (const auto& vcpu : vcpus_) vcpu->resume();
}

void KvmMachine::pause() {
  const std::scoped_lock lock(life_mutex_);
  paused_ = true;
  apply_hold();
}

void KvmMachine::resume() {
  const std::scoped_lock lock(life_mutex_);
  paused_ = false;
  apply_hold();
}

// With life_mutex_ held.
void KvmMachine::apply_hold() {
  const bool hold = paused_ || stalls_ != 0;
  if (hold) park_all();
  if (std::exchange(held_, hold) == hold) return;
  if (hold) {
    platform_->pause();
  } else {
    platform_->resume();
    if (!reset_pending_) resume_all();
  }
}

// The vCPUs are asked at once; that they are parked, and stay so whatever a resume() does, is the loop's
// work.
void KvmMachine::stalled(std::string_view what) {
  ++stalls_;
  hold_vcpus();
  loop_.post([this, line = fmt::format("the guest is paused: {}; it goes on once there is", what)] {
    const std::scoped_lock lock(life_mutex_);
    apply_hold();
    if (hooks_.notice) hooks_.notice(line);
  });
}

void KvmMachine::going_on() {
  if (--stalls_ != 0) return;
  loop_.post([this] {
    const std::scoped_lock lock(life_mutex_);
    apply_hold();
    if (!held_ && hooks_.notice) hooks_.notice("the guest goes on");
  });
}

void KvmMachine::resize_disk(unsigned index, uint64_t bytes) {
  VirtioTransport* const disk = virtio_->find(fmt::format("virtio-blk.{}", index));
  if (disk == nullptr)
    throw HostError(ENODEV, fmt::format("cannot resize disk {}: there is no such disk", index));
  if (auto resized = disk->resize(bytes); !resized) {
    throw HostError(resized.error().code == Errc::no_space ? ENOSPC : EINVAL,
                    fmt::format("cannot resize disk {} to {} bytes: {}", index, bytes, resized.error().what));
  }
}

void KvmMachine::rescan_disks() {
  for (VirtioTransport* transport : virtio_->transports()) {
    if (auto resized = transport->resize(std::nullopt);
        !resized && resized.error().code != Errc::unsupported) {
      log_.write(LogLevel::warn,
                 fmt::format("{}: {}", transport->device().state_name(), resized.error().what));
    }
  }
}

void KvmMachine::set_balloon(uint64_t bytes) {
  VirtioTransport* const balloon = virtio_->find("virtio-balloon.0");
  if (balloon == nullptr)
    throw HostError(ENODEV, "cannot size the balloon: start the machine with --balloon on");
  if (bytes >= memory_.size()) {
    throw HostError(EINVAL, fmt::format("cannot size the balloon to {}: the guest has {} in all",
                                        format_size(bytes), format_size(memory_.size())));
  }
  if (auto resized = balloon->resize(bytes); !resized) {
    throw HostError(EINVAL, fmt::format("cannot size the balloon: {}", resized.error().what));
  }
}

VirtioBalloon* KvmMachine::balloon() const {
  VirtioTransport* const transport = virtio_->find("virtio-balloon.0");
  return transport == nullptr ? nullptr : dynamic_cast<VirtioBalloon*>(&transport->device());
}

BalloonStats KvmMachine::balloon_stats(std::chrono::milliseconds patience) {
  if (balloon() == nullptr)
    throw HostError(ENODEV, "there is no balloon: start the machine with --balloon on");
  return balloon()->stats(patience);
}

void KvmMachine::resize_terminal(uint16_t columns, uint16_t rows) {
  // A console has a device of its own, and only one can be on the terminal; the others have no use for it.
  for (VirtioTransport* transport : virtio_->transports()) {
    auto* const console = dynamic_cast<VirtioConsole*>(&transport->device());
    if (console != nullptr && console->set_size(columns, rows)) transport->tell_config_changed();
  }
}

MachineStats KvmMachine::stats() const {
  MachineStats stats;
  {
    const std::scoped_lock lock(end_mutex_);
    stats.balloon = last_of_balloon_;
  }
  if (!stats.balloon && balloon() != nullptr) stats.balloon = balloon()->stats({});
  for (const auto& vcpu : vcpus_) {
    MachineStats::Vcpu& entry = stats.vcpus.emplace_back();
    entry.index = vcpu->index();
    for (unsigned reason = 0; reason < static_cast<unsigned>(ExitReason::count); ++reason) {
      const uint64_t count = vcpu->stats()[static_cast<ExitReason>(reason)];
      if (count != 0) entry.exits.emplace_back(static_cast<ExitReason>(reason), count);
    }
  }
  auto add = [&](std::span<IoDevice* const> devices) {
    for (const IoDevice* device : devices) stats.devices.emplace_back(device->name(), device->accesses());
  };
  add(platform_->devices());
  add(virtio_->devices());
  std::ranges::sort(stats.devices, std::greater{}, &std::pair<std::string, uint64_t>::second);
  stats.resets = resets_;
  return stats;
}

}  // namespace

std::unique_ptr<Machine> Machine::create(MachineConfig config, Log& log, MachineHooks hooks) {
  check_config(config);
  return std::make_unique<KvmMachine>(std::move(config), log, std::move(hooks));
}

}  // namespace minivmm
