// A vhost-user back end on a thread of the test, with good manners or bad ones: it answers what it is asked,
// maps the guest's memory, and carries out each request by filling its writable buffers with kAnswer.
#pragma once

#include <array>
#include <atomic>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <thread>
#include <utility>
#include <vector>

#include "tests/conformance/fake_host.h"
#include "virtio/vhost/user_protocol.h"
#include "vmm/core/fd.h"

namespace minivmm::test {

class FakeBackEnd {
 public:
  static constexpr std::byte kAnswer{0xab};
  using Bytes = std::vector<std::byte>;
  struct Manners {
    uint64_t features;
    uint64_t protocol_features = vhost_user::kProtocolMq | vhost_user::kProtocolReplyAck;
    uint64_t queues = 4;
    bool by_bytes = false;      // answers come byte by byte
    bool leaves_work = false;   // requests are never carried out
    Bytes config = {};          // what GET_CONFIG is answered from; empty: it is refused
    uint64_t memory_error = 0;  // what SET_MEM_TABLE is acknowledged with
    // Changes an answer, header included, before it is sent; an empty one is not.
    std::function<void(vhost_user::Request, Bytes&)> tamper = {};
  };
  static Manners good();

  FakeBackEnd(UniqueFd socket, Manners manners);
  ~FakeBackEnd();
  FakeBackEnd(const FakeBackEnd&) = delete;
  FakeBackEnd& operator=(const FakeBackEnd&) = delete;

  void say_unasked(const Bytes& bytes);
  void signal_error(uint32_t ring);
  void end();  // as a program does that ends

  uint64_t acked_features() const { return acked_; }
  std::vector<vhost_user::Region> regions() const;
  std::vector<vhost_user::Request> asked() const;
  bool was_asked(vhost_user::Request) const;  // by now
  bool enabled(uint32_t ring) const;
  // Waits for what it is told later than somebody returns; false at the deadline.
  bool wait_asked(vhost_user::Request) const;

 private:
  struct Mapped {
    vhost_user::Region region;
    Mapping mapping;
  };
  struct Ring {
    uint32_t size = 0;
    vhost_user::RingAddress address{};
    uint16_t next = 0;
    UniqueFd kick;
    UniqueFd call;
    UniqueFd error;
    bool enabled = false;
    bool started = false;
  };
  void run();
  bool serve();
  void answer(vhost_user::Request request, const void* payload, size_t size);
  void take(vhost_user::Request request, const Bytes& payload, std::vector<UniqueFd>& fds);
  void work(Ring& ring);
  std::byte* at(uint64_t user_address);

  UniqueFd socket_;
  const Manners manners_;
  EventFd stop_;
  std::atomic<uint64_t> acked_{0};
  Counter asked_count_;
  mutable std::mutex mutex_;
  std::vector<vhost_user::Request> asked_;
  std::vector<Mapped> memory_;
  std::map<uint32_t, Ring> rings_;
  std::thread thread_;
};

// Those of a front end that reconnects, which it does on its own thread: an older one stays as long as the
// test, which may be about to use it.
class BackEnds {
 public:
  void add(UniqueFd socket, FakeBackEnd::Manners manners) {
    const std::scoped_lock lock(mutex_);
    all_.push_back(std::make_unique<FakeBackEnd>(std::move(socket), std::move(manners)));
  }
  FakeBackEnd& latest() const {
    const std::scoped_lock lock(mutex_);
    return *all_.back();
  }
  FakeBackEnd* operator->() const { return &latest(); }

 private:
  mutable std::mutex mutex_;
  std::vector<std::unique_ptr<FakeBackEnd>> all_;
};

// The front end's end of a connection, and the back end at the other.
std::pair<UniqueFd, UniqueFd> socket_pair();

}  // namespace minivmm::test
