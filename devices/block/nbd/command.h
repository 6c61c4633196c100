// One NBD command, and who waits for it.
#pragma once

#include <coroutine>
#include <cstdint>
#include <list>
#include <memory>
#include <vector>

#include "devices/block/io_engine.h"
#include "devices/block/nbd/connection.h"
#include "vmm/core/queue_worker.h"

namespace minivmm::nbd {

class Client;

struct Extent {
  uint64_t length = 0;  // bytes
  uint32_t flags = 0;   // LIBNBD_STATE_HOLE, LIBNBD_STATE_ZERO
};

// Shared by the one who waits for it and by the client: after its waiter has given it up the server may still
// answer, into this buffer and nobody's else.
struct Command {
  enum class Kind : uint8_t { read, write, flush, trim, zero, map };
  Kind kind = Kind::read;
  uint64_t offset = 0;
  uint64_t length = 0;
  bool keep_space = false;            // zero: the space stays allocated
  bool one_extent = false;            // map: no more than the first
  const StopFlag* stop = nullptr;     // the waiter's; not looked at after it was resumed
  std::unique_ptr<std::byte[]> data;  // read, write
  std::vector<Extent> extents;        // map: the answer, in order from `offset`

  bool changes() const { return kind == Kind::write || kind == Kind::trim || kind == Kind::zero; }

  // The client's.
  struct Waiter;
  Waiter* waiter = nullptr;      // null: given up
  Clock::time_point deadline{};  // without `stop`: how long it is waited for
  Client* client = nullptr;
  uint64_t changes_before = 0;  // flush: how many changes it covers
  unsigned attempts = 0;
  int error = 0;
  std::list<std::shared_ptr<Command>>::iterator place;
};

// `co_await client.run(engine, command)`.
struct [[nodiscard]] Command::Waiter : IoPosted {
  Client* client = nullptr;
  IoEngine* engine = nullptr;
  std::shared_ptr<Command> command;
  Result<void> result;
  std::coroutine_handle<> handle;

  bool await_ready() const noexcept { return false; }
  void await_suspend(std::coroutine_handle<> awaiter);
  Result<void> await_resume() const noexcept { return result; }
};

}  // namespace minivmm::nbd
