// What a machine is made of, as plain values: what the command line and the API fill in.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "devices/seed/nocloud.h"
#include "vmm/core/guest_memory.h"
#include "vmm/core/log.h"
#include "vmm/core/stable_uuid.h"
#include "vmm/kvm/cpu_model.h"

namespace minivmm {

enum class Transport : uint8_t { pci, mmio };

// How the kernel is entered; automatic chooses the quickest that leaves the guest none the wiser.
enum class KernelEntry : uint8_t {
  automatic,     // bzImage: unpacked by us where its compression is known; ELF: PVH where it has the note
  decompressor,  // bzImage: always by its own decompressor
  elf,           // ELF: always its plain entry point
};

struct VirtioConfig {
  std::string type;  // as in the registry: "blk", "rng"
  std::string spec;  // "root.img,readonly=on"
};

// One file of the fw_cfg device.
struct FwCfgConfig {
  std::string name;  // "opt/org.example/settings": printable ASCII, 55 characters at most
  std::string
      file;  // a file of the host that has its content, read when the machine is made; empty: `text` is it
  std::string text;
};

// A secret or setting for the guest's systemd (systemd.system-credentials(7)).
struct CredentialConfig {
  std::string name;
  std::string
      file;  // a file of the host that has its content, read when the machine is made; empty: `text` is it
  std::string text;
};

inline constexpr size_t kMaxMachineName = 63;  // a host name's part is no longer

struct MachineConfig {
  // Among this user's machines on this host. Empty: machine_name() makes one up.
  std::string name;

  std::string kernel;  // empty: the one on the first disk
  std::string initrd;
  std::optional<std::string> cmdline;  // none: one is made up from the first disk
  std::string append;                  // follows either
  KernelEntry entry = KernelEntry::automatic;

  uint32_t cpus = 1;
  uint64_t memory = uint64_t{1} << 30;  // bytes
  GuestMemory::Options memory_options;
  CpuModel cpu;
  Transport transport = Transport::pci;
  std::vector<VirtioConfig> virtio;
  std::string serial;    // "stdio", "null", "pty", "file:PATH", "socket:PATH"; empty: serial_place()
  std::string ignition;  // a file for fw_cfg under Ignition's names; empty: none
  std::vector<FwCfgConfig> fw_cfg;  // with neither, the machine has no fw_cfg device
  std::optional<Uuid> uuid;         // none: derived (identity.h)
  uint32_t instance = 1;            // among machines without a name that run from one file (identity_claim.h)
  std::string serial_number;        // of the system; empty: its UUID
  std::vector<std::string> oem_strings;
  std::vector<CredentialConfig> credentials;
  CloudInitConfig cloud_init;
  bool reboot = true;  // false: a guest's reset ends the machine

  // Fills memory and memory_options from "1G,hugepages=2M,shared=on,prefault=on". Throws ConfigError.
  void set_memory(std::string_view spec);
  // Adds to fw_cfg from "name=opt/org.example/settings,file=PATH" or ",string=TEXT". Throws ConfigError.
  void add_fw_cfg(std::string_view spec);
  // "7130c94a-213a-4e5a-8e26-6cce9662f132". Throws ConfigError.
  void set_uuid(std::string_view text);
  // From "NAME:TEXT" and from "NAME:PATH", as systemd's tools have them. Throws ConfigError.
  void set_credential(std::string_view spec);
  void load_credential(std::string_view spec);
};

// The name, or one made up: the first disk's or the kernel's file name without its ending.
std::string machine_name(const MachineConfig&);
// What a machine without a name goes by: the absolute path of the first disk, that is of what is written to,
// an overlay if it has one; or of the kernel. Throws ConfigError for a disk's spec that makes no sense.
std::string machine_file(const MachineConfig&);
// What the machine's addresses and identifiers are derived from: the name, or without one machine_file() and
// which of those that run from it this is, so that machines without names differ. Throws likewise.
std::string machine_identity(const MachineConfig&);
// Where the first serial port is: where the configuration says, else on standard input and output, unless a
// console is there. Throws ConfigError for a console's spec that makes no sense.
std::string serial_place(const MachineConfig&);
bool console_on_stdio(const MachineConfig&);  // or a port with a name
// What Linux calls the console that a person looks at: the one on standard input and output ("hvc0"), else
// the first serial port ("ttyS0").
std::string kernel_console(const MachineConfig&);

// Throws ConfigError on values that make no sense wherever they run.
void check_config(const MachineConfig&);

}  // namespace minivmm
