// What a vhost-user back end answers: the input is all that it ever says, or what it says after a good
// greeting. Whatever it is, the front end comes
// to an end, and so do its queues.
#include <fcntl.h>
#include <sys/socket.h>
#include <unistd.h>

#include <array>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <span>
#include <utility>
#include <vector>

#include "virtio/vhost/user_session.h"
#include "virtio/virtqueue.h"

namespace {

using namespace minivmm;
using namespace std::chrono_literals;

constexpr uint16_t kSize = 16;

class Signals final : public VirtioSignals {
 public:
  void used(uint16_t) override {}
  void config_changed() override {}
  void needs_reset() override {}
  Result<void> set_calls(uint16_t, const QueueCalls*) override { return {}; }
};

void speak_with(std::span<const uint8_t> says, uint16_t pairs) {
  std::array<int, 2> pair{};
  if (::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair.data()) != 0) return;
  UniqueFd ours(pair[0]);
  const UniqueFd theirs(pair[1]);
  // All that is said is there, then nothing more comes: no call has to wait.
  if (::send(theirs.get(), says.data(), says.size(), MSG_DONTWAIT | MSG_NOSIGNAL) < 0 && !says.empty())
    return;
  ::shutdown(theirs.get(), SHUT_WR);

  auto session = vhost_user::Session::begin(std::move(ours), pairs, 1000ms);
  if (!session) return;
  std::array<std::byte, 12> config{};
  const auto asked = (*session)->read_config(0, config);
  if (!asked && asked.error().code != Errc::unsupported) return;
  const std::array<GuestMemory::Range, 1> ranges{{{Gpa{0}, 0x10000}}};
  GuestMemory::Options options;
  options.shared = true;
  GuestMemory memory(ranges, options);
  Log log;
  Signals signals;
  const EventFd kick;
  auto queue = Virtqueue::create(memory, {kSize, Gpa{0}, Gpa{0x1000}, Gpa{0x2000}}, {},
                                 {.max_size = kSize, .indirect = true, .name = "q"}, log);
  MV_CHECK(queue);
  auto ring = RemoteRing::create(std::move(*queue), {0, kick, signals, memory, log});
  MV_CHECK(ring);
  if (!(*session)->set_features((*session)->features())) return;
  if (!(*session)->set_memory(memory) || !(*session)->start_ring(**ring, true)) return;
  const auto base = (*session)->stop_ring(0);
  if (!base) return;
  (*ring)->queue.taken_back(*base);
  auto popped = (*ring)->queue.pop();
  if (popped && *popped) (*ring)->queue.complete(std::move(**popped), 0);
}

template <class T>
void append(std::vector<uint8_t>& out, const T& v) {
  const auto* bytes = reinterpret_cast<const uint8_t*>(&v);
  out.insert(out.end(), bytes, bytes + sizeof v);
}

void append_reply(std::vector<uint8_t>& out, vhost_user::Request request, uint64_t v) {
  append(out, vhost_user::Header{static_cast<uint32_t>(request),
                                 vhost_user::kVersion | vhost_user::kFlagReply, sizeof v});
  append(out, v);
}

// So that not all inputs have to find out how to get past it.
void append_greeting(std::vector<uint8_t>& out, uint16_t pairs) {
  append_reply(out, vhost_user::Request::get_features,
               virtio::kFeatureVersion1 | virtio::kFeatureIndirectDesc | vhost_user::kFeatureProtocol);
  append_reply(out, vhost_user::Request::get_protocol_features,
               vhost_user::kProtocolMq | vhost_user::kProtocolReplyAck | vhost_user::kProtocolConfig);
  if (pairs > 1) append_reply(out, vhost_user::Request::get_queue_num, pairs);
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  if (size == 0 || size > 4096) return 0;
  const uint16_t pairs = (data[0] & 2) == 0 ? 1 : 4;
  std::vector<uint8_t> says;
  if ((data[0] & 1) != 0) append_greeting(says, pairs);
  says.insert(says.end(), data + 1, data + size);
  speak_with(says, pairs);
  return 0;
}
