// One vCPU and its thread. docs/architecture.md, "The run loop and the pause protocol", has the states.
#pragma once

#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "vmm/core/boot_cpu_state.h"
#include "vmm/core/bus.h"
#include "vmm/core/fd.h"
#include "vmm/kvm/cpuid.h"
#include "vmm/kvm/exit_stats.h"
#include "vmm/kvm/vm.h"

struct kvm_run;

namespace minivmm {

// What a vCPU tells its machine. Called on the vCPU's thread; must not block, and must not call back into the
// vCPU but for request_pause().
class VcpuEvents {
 public:
  virtual ~VcpuEvents() = default;
  virtual void on_triple_fault(uint32_t vcpu) = 0;
  // KVM cannot go on: `report` says why, with registers and code bytes.
  virtual void on_fatal(uint32_t vcpu, std::string report) = 0;
};

class Vcpu {
 public:
  // Creates the KVM vCPU; its thread starts with start(). References outlive it. Throws HostError.
  Vcpu(Vm& vm, uint32_t index, const CpuidTable& cpuid, const Bus& pio, const Bus& mmio, VcpuEvents& events);
  Vcpu(const Vcpu&) = delete;
  Vcpu& operator=(const Vcpu&) = delete;
  ~Vcpu();  // stops and joins

  uint32_t index() const { return index_; }
  int fd() const { return fd_.get(); }
  const ExitStats& stats() const { return stats_; }

  void start();          // the thread begins, paused; what reset() goes back to is read now
  void request_pause();  // never blocks; any thread
  void wait_paused();    // until the thread is parked outside KVM_RUN with no half-done I/O
  void pause() {
    request_pause();
    wait_paused();
  }
  void resume();
  void stop();  // joins the thread

  // Only while paused or before start(): registers for the kernel's entry (vCPU 0) or as at reset, waiting
  // for INIT and SIPI (the others).
  void set_boot_state(const BootCpuState&);
  // Only while paused: everything as when the vCPU was made, paravirtual MSRs included, so that KVM writes
  // nothing more into guest memory on its behalf.
  void reset();

  // One exit's work, split off for replaying recorded exits: what run() does after KVM_RUN returned 0. False
  // when the vCPU must not enter the guest again by itself.
  bool dispatch(kvm_run& run);

 private:
  enum class Request : uint8_t { run, pause, stop };
  enum class Thread : uint8_t { absent, parked, running };
  struct Pristine;

  void set_up();
  void keep_pristine();
  void thread_main();
  void loop();
  void park();
  void wait_for_request();
  void complete_io();
  void kick();
  void handle_pio(kvm_run& run);
  void handle_mmio(kvm_run& run);
  void fatal(std::string why);

  Vm& vm_;
  const CpuidTable& cpuid_;
  uint32_t index_;
  VcpuEvents& events_;
  UniqueFd fd_;
  Mapping run_mapping_;
  kvm_run* run_ = nullptr;
  BusView pio_;
  BusView mmio_;
  ExitStats stats_;
  std::unique_ptr<Pristine, void (*)(Pristine*)> pristine_;

  std::mutex mutex_;
  std::condition_variable changed_;
  std::atomic<Request> request_{Request::pause};  // written under mutex_, read by the loop without
  Thread thread_state_ = Thread::absent;          // under mutex_
  std::thread thread_;
};

}  // namespace minivmm
