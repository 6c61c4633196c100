#include "vmm/machine/fw_cfg_config.h"

#include <fmt/format.h>

#include <algorithm>
#include <map>
#include <set>
#include <string>
#include <string_view>
#include <utility>

#include "vmm/core/error.h"
#include "vmm/core/read_file.h"
#include "vmm/core/spec_string.h"

namespace minivmm {

namespace {

using Contents = std::vector<std::byte>;

// Flatcar's Ignition, and upstream's (Fedora CoreOS, Debian): internal/providers/qemu of either.
constexpr const char* kIgnitionNames[] = {"opt/org.flatcar-linux/config", "opt/com.coreos/config"};

void check_name(const std::string& name) {
  if (name.empty())
    throw ConfigError("--fw-cfg: a name is missing; write name=opt/org.example/NAME,file=PATH");
  if (name.size() > kFwCfgLongestName) {
    throw ConfigError(fmt::format("--fw-cfg {}: the name has {} characters; {} fit into the directory", name,
                                  name.size(), kFwCfgLongestName));
  }
  if (!std::ranges::all_of(name, [](char c) { return c >= ' ' && c <= '~'; })) {
    throw ConfigError(fmt::format("--fw-cfg {}: a name is of printable ASCII characters", name));
  }
}

constexpr const char* kLimitOf = "fw_cfg publishes in one file";

// Ignition takes JSON only (its specification, "Configuration Specification"). A guest that got Butane's YAML
// would come up without what was asked for, and say so in its log alone.
void check_ignition(const std::string& path, const Contents& data) {
  const auto is_space = [](std::byte b) {
    return std::string_view(" \t\r\n").find(static_cast<char>(b)) != std::string_view::npos;
  };
  const auto first = std::ranges::find_if_not(data, is_space);
  if (first == data.end() || *first != std::byte{'{'}) {
    throw ConfigError(
        fmt::format("--ignition {}: this is no Ignition config, which is a JSON object; from Butane's YAML "
                    "one is made by "
                    "'butane --strict FILE'",
                    path));
  }
}

}  // namespace

void MachineConfig::add_fw_cfg(std::string_view text) {
  const SpecString spec("--fw-cfg", text, {"name", "file", "string"});
  const auto named = spec.get("name");
  const auto file = spec.get("file");
  const auto string = spec.get("string");
  if (named && !spec.head().empty()) {
    throw ConfigError(fmt::format("--fw-cfg {}: '{}' is no setting; a comma in a value is written twice",
                                  text, spec.head()));
  }
  if (file.has_value() == string.has_value() || (file && file->empty())) {
    throw ConfigError(fmt::format("--fw-cfg {}: write either file=PATH or string=TEXT", text));
  }
  fw_cfg.push_back({named.value_or(spec.head()), file.value_or(""), string.value_or("")});
}

std::vector<FwCfgConfig> fw_cfg_entries(const MachineConfig& config) {
  std::vector<FwCfgConfig> entries;
  if (!config.ignition.empty()) {
    for (const char* name : kIgnitionNames) entries.push_back({name, config.ignition, ""});
  }
  entries.insert(entries.end(), config.fw_cfg.begin(), config.fw_cfg.end());
  if (entries.size() > kFwCfgMostFiles) {
    throw ConfigError(fmt::format("--fw-cfg: {} files are too many; a machine publishes {} at most",
                                  entries.size(), kFwCfgMostFiles));
  }
  std::set<std::string_view> names;
  for (const FwCfgConfig& entry : entries) {
    check_name(entry.name);
    if (entry.text.size() > kFwCfgLargestFile) {
      throw ConfigError(fmt::format("--fw-cfg {} is larger than {}, which is the most that {}", entry.name,
                                    format_size(kFwCfgLargestFile), kLimitOf));
    }
    if (names.insert(entry.name).second) continue;
    const bool ignition = !config.ignition.empty() &&
                          std::ranges::find(kIgnitionNames, entry.name) != std::ranges::end(kIgnitionNames);
    throw ConfigError(fmt::format("--fw-cfg {}: the name is given twice{}", entry.name,
                                  ignition ? ", for --ignition has it" : ""));
  }
  return entries;
}

std::unique_ptr<FwCfg> make_fw_cfg(const MachineConfig& config, GuestMemory& memory, Log& log) {
  std::map<std::string, std::shared_ptr<const Contents>> read;  // by path: a pipe can be read but once
  std::vector<FwCfgFile> files;
  for (const FwCfgConfig& entry : fw_cfg_entries(config)) {
    std::shared_ptr<const Contents> data;
    if (entry.file.empty()) {
      const auto text = std::as_bytes(std::span(entry.text));
      data = std::make_shared<const Contents>(text.begin(), text.end());
    } else if (const auto known = read.find(entry.file); known != read.end()) {
      data = known->second;
    } else {
      const bool ignition = entry.file == config.ignition;
      data = std::make_shared<const Contents>(
          read_file(entry.file, ignition ? "Ignition config" : "fw_cfg file", kFwCfgLargestFile, kLimitOf));
      if (ignition) check_ignition(entry.file, *data);
      read.emplace(entry.file, data);
    }
    files.push_back({entry.name, std::move(data)});
  }
  return files.empty() ? nullptr : std::make_unique<FwCfg>(memory, log, std::move(files));
}

}  // namespace minivmm
