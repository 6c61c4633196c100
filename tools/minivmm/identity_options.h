// The options that say who a machine is, and what its guest shall make of itself when it comes up first.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "vmm/machine/config.h"

namespace CLI {
class App;
}

namespace minivmm {

struct IdentityOptions {
  std::optional<std::string> uuid;
  std::string serial_number;
  std::vector<std::string> oem_strings;
  std::vector<std::string> set_credentials;
  std::vector<std::string> load_credentials;
  std::optional<std::string> cloud_init;
  std::vector<std::string> ssh_keys;

  void add_to(CLI::App& app);
  void fill_in(MachineConfig& config) const;  // throws ConfigError
};

}  // namespace minivmm
