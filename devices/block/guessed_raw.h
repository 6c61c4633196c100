// A raw disk whose format was guessed: the guest may write what it likes, but not a first sector that would
// make us, or another program, take the disk for another format the next time. Otherwise a guest that writes
// a qcow2 header could name any file of the host as its backing file and read it (CVE-2026-27211).
#pragma once

#include "devices/block/disk_filter.h"

namespace minivmm {

class GuessedRaw final : public DiskFilter {
 public:
  using DiskFilter::DiskFilter;

  // A write of such a first sector ends with Errc::io, and nothing of it is written.
  Task<Result<void>> run(IoEngine&, BlockRequest) override;

 private:
  Task<Result<void>> write_first_sector(IoEngine&, BlockRequest);
};

}  // namespace minivmm
