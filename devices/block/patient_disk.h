// A disk whose requests wait while the host has no space for them, with the guest held, instead of failing: a
// file system inside would take a failed write for a broken disk.
#pragma once

#include <chrono>
#include <mutex>
#include <string>

#include "devices/block/disk_filter.h"
#include "devices/block/io_ticker.h"
#include "vmm/core/stall_sink.h"

namespace minivmm {

class PatientDisk final : public DiskFilter {
 public:
  // `what` names the disk for a person. `stalls` outlives it. They try again every `retry`.
  PatientDisk(std::unique_ptr<BlockBackend> below, std::string what, StallSink& stalls,
              std::chrono::milliseconds retry = std::chrono::milliseconds(500))
      : DiskFilter(std::move(below)), what_(std::move(what)), stalls_(stalls), retry_(retry) {}

  // Errc::closed too for a request that still had no space when its queue was asked to stop.
  Task<Result<void>> run(IoEngine& engine, BlockRequest request) override;

 private:
  std::string what_;
  StallSink& stalls_;
  std::chrono::milliseconds retry_;
  std::mutex mutex_;
  unsigned stuck_ = 0;  // guarded by mutex_: requests without space; the guest is held while there are any
  IoTicker ticker_;
};

}  // namespace minivmm
