// What cloud-init's NoCloud data source reads from a disk with the label "cidata"
// (https://docs.cloud-init.io/en/latest/reference/datasources/nocloud.html).
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "devices/seed/iso_image.h"

namespace minivmm {

// What the user asks for, as plain values. File names where it does not say otherwise; empty: none.
struct CloudInitConfig {
  std::string user_data;       // handed on as it is
  std::string meta_data;       // instead of one made up
  std::string network_config;  // handed on as it is
  std::string vendor_data;     // handed on as it is
  std::string instance_id;     // for the made-up meta-data: text
  std::string hostname;        // likewise
  std::vector<std::string> ssh_keys;

  bool wanted() const { return !user_data.empty() || !ssh_keys.empty(); }
  // Fills in all but the keys from "USER-DATA[,meta-data=FILE][,network-config=FILE]…". Throws ConfigError.
  void parse(std::string_view text);
  // Throws ConfigError on what does not go together.
  void check() const;
};

inline constexpr std::string_view kNoCloudLabel = "cidata";
inline constexpr uint64_t kMostNoCloudBytes = uint64_t{16} << 20;  // of each file

// Who the machine is where the user does not say.
struct NoCloudDefaults {
  std::string instance_id;
  std::string hostname;
};

struct NoCloud {
  std::vector<IsoFile> files;
  std::vector<std::string> warnings;  // one line each
};

// Reads the files, each once: a pipe will do. Throws ConfigError or HostError.
NoCloud read_nocloud(const CloudInitConfig&, const NoCloudDefaults&);

// A host name out of a machine's name: letters, digits and single dashes, 63 at most (RFC 1123, 2.1);
// "minivmm" where nothing is left.
std::string host_name_from(std::string_view name);

}  // namespace minivmm
