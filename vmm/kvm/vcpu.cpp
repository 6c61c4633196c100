#include "vmm/kvm/vcpu.h"

#include <fmt/format.h>
#include <pthread.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include "vmm/kvm/kvm_abi.h"

#include <cerrno>
#include <csignal>
#include <cstring>
#include <ctime>
#include <utility>

#include "vmm/core/error.h"
#include "vmm/kvm/exit_report.h"

namespace minivmm {

namespace {

// The kick. Blocked in vCPU threads but inside KVM_RUN, and taken with sigtimedwait: no handler is ever
// needed.
int kick_signal() {
  return SIGRTMIN + 3;
}

sigset_t only_kick() {
  sigset_t set;
  sigemptyset(&set);
  sigaddset(&set, kick_signal());
  return set;
}

void take_pending_kick() {
  const sigset_t set = only_kick();
  const timespec now{};
  while (::sigtimedwait(&set, nullptr, &now) > 0) {
  }
}

}  // namespace

std::string_view to_string(ExitReason reason) {
  switch (reason) {
    case ExitReason::pio_in: return "port in";
    case ExitReason::pio_out: return "port out";
    case ExitReason::mmio_read: return "mmio read";
    case ExitReason::mmio_write: return "mmio write";
    case ExitReason::interrupted: return "kick";
    case ExitReason::shutdown: return "triple fault";
    case ExitReason::system_event: return "system event";
    default: return "other";
  }
}

Vcpu::~Vcpu() {
  stop();
}

void Vcpu::start() {
  keep_pristine();
  const std::unique_lock lock(mutex_);
  MV_CHECK(thread_state_ == Thread::absent && !thread_.joinable());
  thread_state_ = Thread::parked;
  sigset_t all;
  sigset_t before;
  sigfillset(&all);  // the thread inherits this mask: no signal of the process lands on it
  pthread_sigmask(SIG_SETMASK, &all, &before);
  thread_ = std::thread([this] { thread_main(); });
  pthread_sigmask(SIG_SETMASK, &before, nullptr);
}

void Vcpu::thread_main() {
  pthread_setname_np(pthread_self(), fmt::format("vcpu{}", index_).c_str());
  // Inside KVM_RUN every signal but the kick stays blocked. struct kvm_signal_mask { __u32 len; __u8
  // sigset[]; }
  sigset_t mask;
  sigfillset(&mask);
  sigdelset(&mask, kick_signal());
  struct {
    uint32_t length = 8;  // of the kernel's sigset_t, not glibc's
    uint8_t bits[8];
  } request;
  std::memcpy(request.bits, &mask, sizeof request.bits);
  if (kvm_ioctl(fd_.get(), KVM_SET_SIGNAL_MASK, &request) < 0) {
    fatal(fmt::format("cannot set the signal mask of vCPU {}: {}", index_, std::strerror(errno)));
  }
  wait_for_request();
  loop();
}

// The loop: enter the guest, one switch on why it came back, one handler each. A request is looked at only
// when KVM_RUN fails with EINTR (kick() sees to that) or a handler says that the guest must wait.
void Vcpu::loop() {
  for (;;) {
    const Request request = request_.load(std::memory_order_acquire);
    if (request == Request::stop) return;
    if (request == Request::pause) {
      park();
      continue;
    }
    if (::ioctl(fd_.get(), KVM_RUN, 0) == 0) {
      if (!dispatch(*run_)) request_pause();
    } else if (errno == EINTR || errno == EAGAIN) {
      stats_.add(ExitReason::interrupted);
      take_pending_kick();
    } else {
      fatal(fmt::format("KVM_RUN on vCPU {} failed: {}", index_, std::strerror(errno)));
    }
  }
}

void Vcpu::park() {
  complete_io();
  wait_for_request();
}

void Vcpu::wait_for_request() {
  std::unique_lock lock(mutex_);
  do {  // resumed and paused again before this thread woke: park again, for wait_paused() waits for it
    thread_state_ = Thread::parked;
    changed_.notify_all();
    changed_.wait(lock, [this] {
      return thread_state_ != Thread::parked || request_.load(std::memory_order_relaxed) != Request::pause;
    });
  } while (request_.load(std::memory_order_relaxed) == Request::pause);
  std::atomic_ref(run_->immediate_exit).store(0, std::memory_order_relaxed);
  take_pending_kick();
  thread_state_ = Thread::running;
}

// The result of a port or MMIO read reaches the guest's registers at the next KVM_RUN: enter once more with
// immediate_exit, which completes it and returns before the guest runs (api.rst, 5, "NOTE" under
// KVM_EXIT_IO).
void Vcpu::complete_io() {
  std::atomic_ref(run_->immediate_exit).store(1, std::memory_order_relaxed);
  // An access that spans pages comes in pieces, each with an exit of its own; two is the most.
  for (int pieces = 0; pieces < 8 && ::ioctl(fd_.get(), KVM_RUN, 0) == 0; ++pieces) {
    if (!dispatch(*run_)) break;
  }
  take_pending_kick();
}

void Vcpu::kick() {  // under mutex_
  std::atomic_ref(run_->immediate_exit).store(1, std::memory_order_relaxed);
  if (thread_.joinable() && thread_.get_id() != std::this_thread::get_id()) {
    pthread_kill(thread_.native_handle(), kick_signal());
  }
}

void Vcpu::request_pause() {
  const std::scoped_lock lock(mutex_);
  if (request_.load(std::memory_order_relaxed) != Request::run) return;
  request_.store(Request::pause, std::memory_order_release);
  kick();
}

void Vcpu::wait_paused() {
  std::unique_lock lock(mutex_);
  changed_.wait(lock, [this] { return thread_state_ != Thread::running; });
}

void Vcpu::resume() {
  const std::scoped_lock lock(mutex_);
  if (request_.load(std::memory_order_relaxed) != Request::pause) return;
  // From now on it counts as running: a wait_paused() that follows a new request waits for it to park again.
  if (thread_state_ == Thread::parked) thread_state_ = Thread::running;
  request_.store(Request::run, std::memory_order_release);
  changed_.notify_all();
}

void Vcpu::stop() {
  {
    const std::scoped_lock lock(mutex_);
    request_.store(Request::stop, std::memory_order_release);
    if (run_ != nullptr) kick();
    changed_.notify_all();
  }
  if (thread_.joinable()) thread_.join();
  thread_state_ = Thread::absent;
}

void Vcpu::fatal(std::string why) {
  events_.on_fatal(index_, std::move(why));
  request_pause();
}

bool Vcpu::dispatch(kvm_run& run) {
  switch (run.exit_reason) {
    case KVM_EXIT_IO: handle_pio(run); return true;
    case KVM_EXIT_MMIO: handle_mmio(run); return true;
    case KVM_EXIT_INTR: stats_.add(ExitReason::interrupted); return true;
    case KVM_EXIT_IRQ_WINDOW_OPEN: stats_.add(ExitReason::other); return true;
    case KVM_EXIT_SHUTDOWN:
      stats_.add(ExitReason::shutdown);
      events_.on_triple_fault(index_);
      return false;
    case KVM_EXIT_SYSTEM_EVENT:
      stats_.add(ExitReason::system_event);
      events_.on_triple_fault(index_);
      return false;
    default:
      stats_.add(ExitReason::other);
      events_.on_fatal(index_, explain_exit(vm_, fd_.get(), run));
      return false;
  }
}

void Vcpu::handle_pio(kvm_run& run) {
  auto* data = reinterpret_cast<std::byte*>(&run) + run.io.data_offset;
  const size_t size = run.io.size;
  const BusRange* range = pio_.find(run.io.port, size);
  const bool in = run.io.direction == KVM_EXIT_IO_IN;
  stats_.add(in ? ExitReason::pio_in : ExitReason::pio_out);
  for (uint32_t i = 0; i < run.io.count; ++i, data += size) {  // count > 1: string instructions
    const std::span<std::byte> piece(data, size);
    if (range == nullptr) {
      if (in) std::memset(data, 0xff, size);  // nobody answers: a floating bus
      continue;
    }
    range->device->count_access();
    const uint64_t offset = run.io.port - range->base + range->offset;
    if (!in) {
      range->device->write(offset, piece);
    } else if (range->device->read(offset, piece) != IoStatus::ok) {
      std::memset(data, 0xff, size);
    }
  }
}

void Vcpu::handle_mmio(kvm_run& run) {
  const std::span<std::byte> data(reinterpret_cast<std::byte*>(run.mmio.data), run.mmio.len);
  const BusRange* range = mmio_.find(run.mmio.phys_addr, data.size());
  const bool write = run.mmio.is_write != 0;
  stats_.add(write ? ExitReason::mmio_write : ExitReason::mmio_read);
  if (range == nullptr) {
    if (!write) std::memset(data.data(), 0xff, data.size());
    return;
  }
  range->device->count_access();
  const uint64_t offset = run.mmio.phys_addr - range->base + range->offset;
  if (write) {
    range->device->write(offset, data);
  } else if (range->device->read(offset, data) != IoStatus::ok) {
    std::memset(data.data(), 0xff, data.size());
  }
}

}  // namespace minivmm
