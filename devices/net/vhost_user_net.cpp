#include "devices/net/vhost_user_net.h"

#include <fmt/format.h>

#include <cerrno>
#include <string>
#include <utility>

#include "devices/net/link_state.h"
#include "devices/net/net_vhost.h"
#include "vmm/core/unix_socket.h"

namespace minivmm {

namespace {

constexpr NetOffloads kAll = 0xff;  // what of it the other program can do is for it to say

// The card of it; frames never come here.
class VhostUserNet final : public NetBackend, private NetQueue {
 public:
  VhostUserNet(UniqueFd socket, std::string path, uint16_t pairs) : pairs_(pairs) {
    vhost_.socket = std::move(socket);
    vhost_.reconnect = [path = std::move(path)] { return connect_to_unix_socket(path); };
    vhost_.set_link = [this](bool there) { link_.set(there); };
  }

  NetTraits traits() const override {
    return {.kind = "vhost-user", .queue_pairs = pairs_, .takes = kAll, .gives = kAll};
  }
  NetQueue& queue(uint16_t) override { return *this; }
  NetVhost* vhost() override { return &vhost_; }
  bool link_up() const override { return link_.up(); }
  void watch_link(std::function<void()> changed) override { link_.watch(std::move(changed)); }

 private:
  int fd() const override { return -1; }
  Result<size_t> receive(std::span<const iovec>) override { return 0; }
  Result<bool> send(std::span<const iovec>) override { return true; }

  uint16_t pairs_;
  NetVhost vhost_;
  LinkState link_{true};
};

}  // namespace

std::unique_ptr<NetBackend> create_vhost_user_net(const NetSpec& spec, const NetContext&) {
  const std::string path = spec.settings.get("socket").value_or("");
  if (path.empty())
    throw ConfigError("--net vhost-user: name the other program's socket: vhost-user,socket=PATH");
  if (path.size() > kMaxUnixPath)
    throw ConfigError(
        fmt::format("--net vhost-user,socket={}: a socket's path has at most {} bytes", path, kMaxUnixPath));
  auto socket = connect_to_unix_socket(path);
  if (!socket) {
    throw HostError(ECONNREFUSED, fmt::format("cannot connect to the vhost-user back end at {}: {}; start it "
                                              "first, as the one that listens",
                                              path, socket.error().what));
  }
  return std::make_unique<VhostUserNet>(std::move(*socket), path, spec.queues.value_or(1));
}

}  // namespace minivmm
