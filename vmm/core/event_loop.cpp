#include "vmm/core/event_loop.h"

#include <unistd.h>

#include <atomic>
#include <boost/asio/dispatch.hpp>
#include <boost/asio/error.hpp>
#include <boost/asio/executor_work_guard.hpp>
#include <boost/asio/io_context.hpp>
#include <boost/asio/posix/stream_descriptor.hpp>
#include <boost/asio/post.hpp>
#include <boost/asio/steady_timer.hpp>
#include <cerrno>
#include <mutex>
#include <optional>
#include <utility>

#include "vmm/core/error.h"

namespace minivmm {

namespace asio = boost::asio;

struct EventLoop::Impl {
  asio::io_context io{1};
  asio::executor_work_guard<asio::io_context::executor_type> work{io.get_executor()};
};

namespace {

// Asio's objects are not thread-safe: every touch is posted to the loop, which shares ownership of the state.
class LoopTimer final : public Timer {
 public:
  LoopTimer(asio::io_context& io, std::function<void()> on_expiry)
      : state_(std::make_shared<State>(io, std::move(on_expiry))) {}
  LoopTimer(const LoopTimer&) = delete;
  LoopTimer& operator=(const LoopTimer&) = delete;
  ~LoopTimer() override {
    state_->dead = true;
    asio::post(state_->timer.get_executor(), [s = state_] { s->timer.cancel(); });
  }

  void arm(Clock::time_point deadline) override { request(deadline); }
  void cancel() override { request(std::nullopt); }

 private:
  struct State {
    State(asio::io_context& io, std::function<void()> f) : timer(io), on_expiry(std::move(f)) {}
    asio::steady_timer timer;
    std::function<void()> on_expiry;
    std::atomic<bool> dead{false};
    std::mutex mutex;
    std::optional<Clock::time_point> wanted;
    bool posted = false;  // apply() is going to run
  };

  // A guest that programs its timers faster than the loop runs must not fill the loop's queue: at most one
  // request of a timer is on its way, and takes the newest wish with it.
  void request(std::optional<Clock::time_point> deadline) {
    {
      const std::scoped_lock lock(state_->mutex);
      state_->wanted = deadline;
      if (std::exchange(state_->posted, true)) return;
    }
    asio::dispatch(state_->timer.get_executor(), [s = state_] { apply(s); });
  }
  static void apply(const std::shared_ptr<State>& s) {
    std::optional<Clock::time_point> deadline;
    {
      const std::scoped_lock lock(s->mutex);
      s->posted = false;
      deadline = s->wanted;
    }
    if (!deadline || s->dead) {
      s->timer.cancel();
      return;
    }
    s->timer.expires_at(*deadline);
    s->timer.async_wait([s](const boost::system::error_code& error) {
      if (!error && !s->dead) s->on_expiry();
    });
  }

  std::shared_ptr<State> state_;
};

class LoopWatch final : public Watch {
 public:
  LoopWatch(asio::io_context& io, int fd, bool writable, std::function<void()> on_ready)
      : state_(std::make_shared<State>(io, writable, std::move(on_ready))) {
    const int copy = ::dup(fd);  // epoll refuses a descriptor twice; a copy also outlives a careless owner
    if (copy < 0) throw_errno("watch a descriptor");
    boost::system::error_code error;
    if (state_->descriptor.assign(copy, error)) {
      ::close(copy);
      errno = error.value();
      throw_errno("watch a descriptor");
    }
    asio::post(state_->io, [s = state_] { wait(s); });
  }
  LoopWatch(const LoopWatch&) = delete;
  LoopWatch& operator=(const LoopWatch&) = delete;
  ~LoopWatch() override {
    state_->dead = true;
    asio::post(state_->io, [s = state_] { s->descriptor.close(); });
  }
  void pause() override { state_->paused = true; }
  // A guest may have it called as often as it likes: nothing is posted for a watch that goes on anyway.
  void resume() override {
    if (!state_->paused.exchange(false)) return;
    asio::post(state_->io, [s = state_] { wait(s); });
  }

 private:
  struct State {
    State(asio::io_context& context, bool w, std::function<void()> f)
        : io(context), descriptor(context), writable(w), on_ready(std::move(f)) {}
    asio::io_context& io;
    asio::posix::stream_descriptor descriptor;
    bool writable;
    bool always_ready = false;
    bool waiting = false;  // loop thread only
    std::function<void()> on_ready;
    std::atomic<bool> dead{false};
    std::atomic<bool> paused{false};
  };

  static void wait(const std::shared_ptr<State>& s) {
    if (s->waiting || s->paused || s->dead) return;
    s->waiting = true;
    auto ready = [s](const boost::system::error_code& error) {
      s->waiting = false;
      if (error ==
          asio::error::operation_not_supported) {  // epoll has no regular files: they are always ready
        s->always_ready = true;
        wait(s);
        return;
      }
      if (error || s->dead || s->paused) return;
      s->on_ready();
      wait(s);
    };
    if (s->always_ready) {
      asio::post(s->io, [ready] { ready({}); });
    } else {
      s->descriptor.async_wait(
          s->writable ? asio::posix::descriptor_base::wait_write : asio::posix::descriptor_base::wait_read,
          ready);
    }
  }

  std::shared_ptr<State> state_;
};

}  // namespace

EventLoop::EventLoop() : impl_(std::make_unique<Impl>()) {}
EventLoop::~EventLoop() = default;

void EventLoop::run() {
  impl_->io.restart();
  impl_->io.run();
}
void EventLoop::stop() {
  impl_->io.stop();
}
void EventLoop::post(std::function<void()> work) {
  asio::post(impl_->io, std::move(work));
}

std::unique_ptr<Timer> EventLoop::make_timer(std::function<void()> on_expiry) {
  return std::make_unique<LoopTimer>(impl_->io, std::move(on_expiry));
}
std::unique_ptr<Watch> EventLoop::watch_readable(int fd, std::function<void()> on_ready) {
  return std::make_unique<LoopWatch>(impl_->io, fd, false, std::move(on_ready));
}
std::unique_ptr<Watch> EventLoop::watch_writable(int fd, std::function<void()> on_ready) {
  return std::make_unique<LoopWatch>(impl_->io, fd, true, std::move(on_ready));
}

}  // namespace minivmm
