// IoEngine on io_uring(7). Its descriptor is an eventfd that completions signal: not all kernels let a ring
// be watched before its thread has enabled it.
#pragma once

#include <liburing.h>

#include <atomic>
#include <memory>
#include <mutex>

#include "devices/block/io_engine.h"
#include "devices/block/io_list.h"
#include "vmm/core/fd.h"

namespace minivmm {

class UringEngine final : public IoEngine {
 public:
  // Null, and errno, where the kernel refuses: too old, switched off (sysctl, seccomp), no memory. Throws
  // HostError when the process is out of descriptors.
  static std::unique_ptr<UringEngine> create(unsigned depth);
  ~UringEngine() override;

  Kind kind() const override { return Kind::uring; }
  void start(IoOperation&) override;
  void flush() override;
  unsigned poll() override;
  bool ready() const override;
  void wait() override;
  int fd() const override { return ready_.fd(); }
  void post(IoPosted& posted) override;
  unsigned in_flight() const override { return in_flight_; }

 private:
  explicit UringEngine(unsigned depth) : depth_(depth) {}
  void enable();
  void fill();
  bool prepare(IoOperation&);
  unsigned reap_limit() const { return 2 * depth_; }  // of one poll()
  unsigned reap();
  unsigned run_posted();

  io_uring ring_{};
  bool set_up_ = false;
  bool enabled_ = false;  // the ring is made disabled, and becomes that thread's which enables it
  unsigned depth_;
  unsigned submitted_ = 0;  // in the ring, seen by the kernel or not
  unsigned in_flight_ = 0;  // those and the backlog
  IoList<IoOperation> backlog_;

  EventFd ready_;
  std::mutex mutex_;
  IoList<IoPosted> posted_;              // guarded by mutex_
  std::atomic<bool> has_posted_{false};  // posted_ is not empty; changed with mutex_ held
};

}  // namespace minivmm
