#include "vmm/machine/identity.h"

#include <fmt/format.h>

#include <algorithm>
#include <set>
#include <string_view>
#include <utility>

#include "vmm/core/error.h"
#include "vmm/core/read_file.h"
#include "vmm/machine/address_map.h"
#include "vmm/machine/credential_string.h"

namespace minivmm {

namespace {

// The credential by which systemd 255 and later get the name of a host that has none of its own
// (systemd.system-credentials(7)).
constexpr std::string_view kHostNameCredential = "system.hostname";

void check_text(std::string_view option, std::string_view text) {
  const bool printable =
      std::ranges::none_of(text, [](char c) { return static_cast<unsigned char>(c) < ' ' || c == '\x7f'; });
  if (text.empty() || !printable) {
    throw ConfigError(fmt::format("{} {}: write one line of text, without control characters", option, text));
  }
}

CredentialConfig split_credential(std::string_view option, std::string_view spec, std::string_view what) {
  const size_t colon = spec.find(':');
  if (colon == std::string_view::npos || colon + 1 == spec.size()) {
    throw ConfigError(fmt::format("{} {}: write NAME:{}", option, spec, what));
  }
  CredentialConfig credential{.name = std::string(spec.substr(0, colon)), .file = "", .text = ""};
  (what == "PATH" ? credential.file : credential.text) = spec.substr(colon + 1);
  return credential;
}

}  // namespace

void MachineConfig::set_uuid(std::string_view text) {
  uuid = parse_uuid(text);
  if (!uuid) {
    throw ConfigError(
        fmt::format("--uuid {}: this is no UUID; write it as 7130c94a-213a-4e5a-8e26-6cce9662f132", text));
  }
}

void MachineConfig::set_credential(std::string_view spec) {
  credentials.push_back(split_credential("--set-credential", spec, "TEXT"));
}

void MachineConfig::load_credential(std::string_view spec) {
  credentials.push_back(split_credential("--load-credential", spec, "PATH"));
}

Uuid machine_uuid(const MachineConfig& config) {
  return config.uuid ? *config.uuid : stable_uuid("uuid/" + machine_identity(config));
}

void check_identity(const MachineConfig& config) {
  constexpr uint8_t kAllOnes = 0xff;
  if (config.uuid &&
      (std::ranges::count(*config.uuid, 0) == 16 || std::ranges::count(*config.uuid, kAllOnes) == 16)) {
    // DSP0134, 7.2.1: "not present", and "not present, but can be set".
    throw ConfigError(fmt::format("--uuid {}: SMBIOS takes this one for none; leave --uuid out to get one",
                                  uuid_text(*config.uuid)));
  }
  if (!config.serial_number.empty()) check_text("--serial-number", config.serial_number);
  for (const std::string& text : config.oem_strings) check_text("--oem-string", text);
  std::set<std::string_view> names;
  for (const CredentialConfig& credential : config.credentials) {
    check_credential_name(credential.file.empty() ? "--set-credential" : "--load-credential",
                          credential.name);
    if (!names.insert(credential.name).second) {
      throw ConfigError(fmt::format("the credential '{}' is given twice", credential.name));
    }
  }
  config.cloud_init.check();
}

SmbiosConfig plan_smbios(const MachineConfig& config, std::span<const GuestMemory::Range> ram) {
  SmbiosConfig smbios;
  smbios.uuid = machine_uuid(config);
  smbios.serial = config.serial_number.empty() ? uuid_text(smbios.uuid) : config.serial_number;
  smbios.oem_strings = config.oem_strings;
  for (const CredentialConfig& credential : config.credentials) {
    std::string content = credential.text;
    if (!credential.file.empty()) {
      const auto bytes =
          read_file(credential.file, "credential", address_map::kSmbios.size, "SMBIOS has room for");
      content.assign(reinterpret_cast<const char*>(bytes.data()), bytes.size());
    }
    smbios.oem_strings.push_back(credential_string(credential.name, content));
  }
  if (!config.name.empty() && std::ranges::find(config.credentials, kHostNameCredential,
                                                &CredentialConfig::name) == config.credentials.end()) {
    smbios.oem_strings.push_back(credential_string(kHostNameCredential, host_name_from(config.name)));
  }
  smbios.ram.assign(ram.begin(), ram.end());
  return smbios;
}

SmbiosConfig::Processor smbios_processor(const CpuidTable& cpuid, uint32_t cpus) {
  SmbiosConfig::Processor processor;
  processor.cores = cpus;
  const auto append = [](std::string& to, std::initializer_list<uint32_t> registers) {
    for (const uint32_t r : registers) {
      for (unsigned shift = 0; shift < 32; shift += 8) {
        const auto c = static_cast<char>(r >> shift & 0xff);
        if (c >= ' ' && c <= '~') to += c;
      }
    }
  };
  if (const CpuidLeaf* vendor = cpuid.find(0)) {
    append(processor.vendor, {vendor->ebx, vendor->edx, vendor->ecx});
  }
  if (const CpuidLeaf* id = cpuid.find(1)) processor.id = uint64_t{id->edx} << 32 | id->eax;
  for (const uint32_t leaf : {0x8000'0002U, 0x8000'0003U, 0x8000'0004U}) {
    if (const CpuidLeaf* part = cpuid.find(leaf)) {
      append(processor.brand, {part->eax, part->ebx, part->ecx, part->edx});
    }
  }
  const size_t begin = processor.brand.find_first_not_of(' ');
  processor.brand.erase(0, std::min(begin, processor.brand.size()));
  while (!processor.brand.empty() && processor.brand.back() == ' ') processor.brand.pop_back();
  return processor;
}

NoCloudDefaults nocloud_defaults(const MachineConfig& config) {
  return {.instance_id = uuid_text(machine_uuid(config)), .hostname = host_name_from(machine_name(config))};
}

}  // namespace minivmm
