// Pieces of work between the one who cuts them and the lanes that do it. A lane that finds none waits without
// holding up its thread, and none is promised to a lane whose thread is busy: who comes first has it.
#pragma once

#include <condition_variable>
#include <coroutine>
#include <cstddef>
#include <deque>
#include <mutex>
#include <optional>

#include "devices/block/copy/piece.h"
#include "devices/block/io_engine.h"

namespace minivmm {

class PieceQueue {
 public:
  // --- The cutter's, on its thread.

  void push(const Piece& piece);
  void end();  // no more come
  // Waits until there is room for more, or everyone has left, or a moment has passed.
  void wait_for_room();
  bool has_room() const;

  // --- The lanes'. Empty: the end.

  Task<std::optional<Piece>> take(IoEngine& engine);

  // --- The threads'.

  void join() { add(1); }
  void leave() { add(-1); }
  bool abandoned() const;  // all that joined have left

 private:
  struct Waiting : IoPosted {
    PieceQueue* queue = nullptr;
    IoEngine* engine = nullptr;
    std::coroutine_handle<> lane;
    bool await_ready() const noexcept { return false; }
    bool await_suspend(std::coroutine_handle<> handle);  // unless there is something by now
    void await_resume() const noexcept {}
  };
  void add(int threads);
  void wake_all();  // with the mutex held

  mutable std::mutex mutex_;
  std::condition_variable changed_;
  std::deque<Piece> pieces_;
  std::deque<Waiting*> waiting_;
  bool ended_ = false;
  int threads_ = 0;
};

}  // namespace minivmm
