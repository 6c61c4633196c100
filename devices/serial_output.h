// The output half of a serial back end: gathers single bytes on the vCPU's thread, writes them to a
// descriptor from the event loop, and holds at most 2 * kCapacity of them whatever the reader does.
#pragma once

#include <atomic>
#include <cstddef>
#include <functional>
#include <memory>
#include <mutex>
#include <span>
#include <vector>

#include "vmm/core/event_loop.h"
#include "vmm/core/fd.h"
#include "vmm/core/log.h"

namespace minivmm {

class SerialOutput {
 public:
  static constexpr size_t kCapacity = 64 << 10;

  enum class WhenStuck : uint8_t {
    wait,     // the guest waits as long as the reader does
    discard,  // after a second without progress, or with no reader, the oldest output goes
  };

  // `on_room` is called on the loop's thread after a write() that took less than it was given.
  SerialOutput(EventLoop& loop, Log& log, WhenStuck when_stuck, std::function<void()> on_room);
  SerialOutput(const SerialOutput&) = delete;
  SerialOutput& operator=(const SerialOutput&) = delete;
  ~SerialOutput();

  // Takes over a descriptor; an empty one means no reader. Loop thread, or with the loop stopped.
  void set_fd(UniqueFd fd);

  size_t write(std::span<const std::byte> data);  // any thread, never blocks
  void flush();                                   // any thread

 private:
  enum class Progress : uint8_t { done, blocked, dead };

  void on_loop();  // the timer or the watch says: write
  Progress write_out(bool all);
  Progress write_some();
  void on_stuck();

  EventLoop& loop_;
  Log& log_;
  const WhenStuck when_stuck_;
  const std::function<void()> on_room_;

  // Held over the writing itself, so that flush() and the loop take turns; never by write(). Before mutex_.
  std::mutex io_mutex_;
  UniqueFd fd_;
  bool socket_ = false;
  bool may_block_ = false;  // a descriptor shared with others that we could not open anew without blocking
  std::vector<std::byte> writing_;
  size_t written_ = 0;  // of writing_

  std::mutex mutex_;
  std::vector<std::byte> pending_;
  bool scheduled_ = false;   // on_loop() is going to run
  bool hurried_ = false;     // and at once
  bool refused_ = false;     // write() took less than given
  bool discarding_ = false;  // nobody reads: keep the newest
  bool dead_ = false;        // a write failed for good: all output goes nowhere
  bool stuck_armed_ = false;
  std::atomic<uint64_t> progress_{0};
  uint64_t progress_at_stuck_ = 0;

  std::unique_ptr<Watch> watch_;  // loop thread only; while the descriptor is full
  std::unique_ptr<Timer> flush_timer_;
  std::unique_ptr<Timer> stuck_timer_;
};

// A descriptor of our own for `fd`'s file that writes without blocking, leaving the flags of `fd` alone (they
// are shared with whoever gave it to us); a mere duplicate where there is no such thing. Throws HostError.
UniqueFd open_for_output(int fd);

}  // namespace minivmm
