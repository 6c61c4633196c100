// Replays exits through Vcpu::dispatch() into the real devices, under callgrind, which counts our own
// instructions for them: tools/bench footprint --only instructions. The dumps are named after the kinds of
// exits.
//
//   dispatch COUNT [RECORD]   COUNT exits of each kind; then those of RECORD (record.c), if given, in their
//   order
#include <fmt/format.h>
#include <linux/kvm.h>
#include <valgrind/callgrind.h>

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <vector>

#include "exit_record.h"
#include "vmm/kvm/vcpu.h"
#include "vmm/machine/address_map.h"
#include "vmm/machine/plan.h"
#include "vmm/machine/platform.h"
#include "vmm/machine/virtio_bus.h"

namespace minivmm {
namespace {

class Nobody final : public VcpuEvents {
 public:
  void on_triple_fault(uint32_t) override {}
  void on_fatal(uint32_t, std::string report) override { fmt::print(stderr, "{}\n", report); }
};

// A machine as machine.cpp composes it, but for its kernel: its vCPU never runs.
struct Rack {
  explicit Rack(MachineConfig given)
      : config(std::move(given)),
        cpuid(kvm, config.cpu, 1),
        plan(plan_machine(config, cpuid.physical_address_bits())),
        memory(plan.ram, config.memory_options),
        vm(kvm, memory, {.identity_map = address_map::kKvmIdentityMap, .tss = address_map::kKvmTss}),
        serial(make_null_serial()),
        platform(pio, loop, *serial,
                 {.irq = [this](uint32_t gsi) { return vm.irq_line(gsi); },
                  .on_power_off = [] {},
                  .on_reset = [] {}}),
        virtio(make_virtio_bus({vm, memory, pio, mmio, loop, log}, config, plan)),
        vcpu(vm, 0, cpuid, pio, mmio, events) {}

  MachineConfig config;
  Log log;
  Kvm kvm;
  CpuidTable cpuid;
  MachinePlan plan;
  GuestMemory memory;
  Vm vm;
  EventLoop loop;
  Bus pio, mmio;
  std::unique_ptr<SerialBackend> serial;
  Platform platform;
  std::unique_ptr<VirtioBus> virtio;
  Nobody events;
  Vcpu vcpu;
};

// kvm_run as KVM fills it before it returns.
class Replay {
 public:
  explicit Replay(Vcpu& vcpu) : vcpu_(vcpu), page_(2 * kDataOffset) {}
  void play(const exit_record& exit) {
    auto& run = *reinterpret_cast<kvm_run*>(page_.data());
    if (exit.is_mmio != 0) {
      run.exit_reason = KVM_EXIT_MMIO;
      run.mmio.phys_addr = exit.address;
      run.mmio.len = exit.size;
      run.mmio.is_write = exit.is_write;
      std::memcpy(run.mmio.data, &exit.data, sizeof exit.data);
    } else {
      run.exit_reason = KVM_EXIT_IO;
      run.io.direction = exit.is_write != 0 ? KVM_EXIT_IO_OUT : KVM_EXIT_IO_IN;
      run.io.size = exit.size;
      run.io.port = static_cast<uint16_t>(exit.address);
      run.io.count = 1;
      run.io.data_offset = kDataOffset;
      std::memcpy(page_.data() + kDataOffset, &exit.data, sizeof exit.data);
    }
    vcpu_.dispatch(run);
  }

 private:
  static constexpr size_t kDataOffset = 4096;
  Vcpu& vcpu_;
  std::vector<std::byte> page_;
};

std::vector<exit_record> read_record(const char* path) {
  std::ifstream file(path, std::ios::binary);
  std::vector<exit_record> exits;
  for (exit_record one{}; file.read(reinterpret_cast<char*>(&one), sizeof one);) exits.push_back(one);
  return exits;
}

int replay(long count, const char* record) {
  MachineConfig config;
  config.memory = uint64_t{256} << 20;
  config.kernel = "none";  // never loaded
  config.cmdline = "";
  config.virtio.push_back({"rng", "on"});
  Rack rack(std::move(config));
  Replay replay(rack.vcpu);

  struct Kind {
    const char* name;
    exit_record exit;
  };
  constexpr uint64_t kFirstBusFunction0 = 0x8000'0000;
  const std::vector<Kind> kinds{
      {"port in: UART line status", {.address = 0x3fd, .size = 1}},
      {"port out: UART data", {.address = 0x3f8, .data = 'x', .is_write = 1, .size = 1}},
      {"port out: PCI config address",
       {.address = 0xcf8, .data = kFirstBusFunction0, .is_write = 1, .size = 4}},
      {"port in: PCI config data", {.address = 0xcfc, .size = 4}},
      {"port out: nobody there", {.address = 0x80, .is_write = 1, .size = 1}},
      {"mmio read: ECAM", {.address = address_map::kPciEcam.base, .is_mmio = 1, .size = 4}},
      {"mmio write: ECAM", {.address = address_map::kPciEcam.base, .is_mmio = 1, .is_write = 1, .size = 4}},
  };
  for (const Kind& kind : kinds) {
    for (int i = 0; i < 100; ++i) replay.play(kind.exit);
    CALLGRIND_ZERO_STATS;
    for (long i = 0; i < count; ++i) replay.play(kind.exit);
    CALLGRIND_DUMP_STATS_AT(kind.name);
    fmt::print("{}\t{}\n", kind.name, count);
  }
  if (record != nullptr) {
    const std::vector<exit_record> exits = read_record(record);
    CALLGRIND_ZERO_STATS;
    for (const exit_record& exit : exits) replay.play(exit);
    CALLGRIND_DUMP_STATS_AT("a boot's exits");
    fmt::print("a boot's exits\t{}\n", exits.size());
  }
  return 0;
}

}  // namespace
}  // namespace minivmm

int main(int argc, char** argv) {
  if (argc < 2) {
    fmt::print(stderr, "usage: dispatch COUNT [RECORD]\n");
    return 2;
  }
  return minivmm::replay(std::atol(argv[1]), argc > 2 ? argv[2] : nullptr);
}
