#include "devices/block/io_engine.h"

#include "devices/block/thread_engine.h"
#include "devices/block/uring_engine.h"

namespace minivmm {

std::unique_ptr<IoEngine> IoEngine::create(Kind kind, unsigned depth) {
  MV_CHECK(depth > 0);
  if (kind != Kind::threads) {
    if (auto uring = UringEngine::create(depth)) return uring;
    if (kind == Kind::uring) {
      throw_errno("set up io_uring",
                  "allow it (sysctl kernel.io_uring_disabled=0; containers: the seccomp "
                  "profile), or use threads");
    }
  }
  return std::make_unique<ThreadEngine>(depth);
}

}  // namespace minivmm
