// What a vhost-user back end answers: the input is all that it ever says. Whatever it is, the front end comes
// to an end, and so do its queues.
#include <fcntl.h>
#include <sys/socket.h>
#include <unistd.h>

#include <array>
#include <chrono>
#include <cstddef>
#include <cstdint>

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

void speak_with(std::span<const uint8_t> says) {
  std::array<int, 2> pair{};
  if (::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair.data()) != 0) return;
  UniqueFd ours(pair[0]);
  const UniqueFd theirs(pair[1]);
  // All that is said is there, then nothing more comes: no call has to wait.
  if (::send(theirs.get(), says.data(), says.size(), MSG_DONTWAIT | MSG_NOSIGNAL) < 0 && !says.empty())
    return;
  ::shutdown(theirs.get(), SHUT_WR);

  const uint16_t pairs = says.size() % 2 == 0 ? 1 : 4;
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
  [[maybe_unused]] const auto popped = (*ring)->queue.pop();
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  if (size <= 4096) speak_with({data, size});
  return 0;
}
