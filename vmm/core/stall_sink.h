// Where a device says that it cannot go on until somebody helps from outside: its disk's host file system is
// full.
#pragma once

#include <string_view>

namespace minivmm {

// Called on queue workers' threads, so: thread-safe, and never waiting for a worker.
class StallSink {
 public:
  virtual ~StallSink() = default;
  // The guest is to be held until the same device calls going_on(). `what` is for a person: one line.
  virtual void stalled(std::string_view what) = 0;
  virtual void going_on() = 0;  // once for each stalled()
};

}  // namespace minivmm
