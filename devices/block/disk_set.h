// The disks of a machine: each is opened once, looked into by who plans the boot, and then handed to its
// device. The first look must not open it a second time: whoever writes a disk holds its lock alone.
#pragma once

#include <map>
#include <memory>
#include <string_view>

#include "devices/block/open_disk.h"
#include "vmm/core/log.h"

namespace minivmm {

class DiskSet {
 public:
  enum class Purpose : uint8_t {
    run,      // opened as the user asked
    inspect,  // read-only, nothing is created: --dry-run
  };
  DiskSet(Purpose purpose, Log& log) : purpose_(purpose), log_(log) {}

  // Disk number `index` of the machine, described by `spec`; opened if it is not yet, its warnings logged.
  // Throws as open_disk() and parse_disk_spec().
  OpenedDisk& open(unsigned index, std::string_view spec);
  // A disk that was made for the machine takes the place of one that `spec` would name.
  void put(unsigned index, OpenedDisk disk);
  // Hands it over. Where it was not opened before, it is now.
  OpenedDisk take(unsigned index, std::string_view spec);

 private:
  IoEngine& engine();
  OpenedDisk& keep(unsigned index, std::string_view name, OpenedDisk disk);

  Purpose purpose_;
  Log& log_;
  std::unique_ptr<IoEngine> engine_;
  std::map<unsigned, OpenedDisk> disks_;
};

}  // namespace minivmm
