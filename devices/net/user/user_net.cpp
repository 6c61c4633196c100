#include "devices/net/user/user_net.h"

#include "devices/net/user/user_queue.h"

namespace minivmm {

namespace {

class Backend final : public UserNet {
 public:
  explicit Backend(const user_net::UserNetConfig& config) : mtu_(config.mtu), queue_(config) {}

  NetTraits traits() const override {
    NetTraits traits;
    traits.kind = "user";
    traits.takes = net_offload::kChecksum | net_offload::kTso4 | net_offload::kTso6 | net_offload::kTsoEcn;
    traits.gives = net_offload::kChecksum | net_offload::kTso4 | net_offload::kTso6;
    traits.mtu = mtu_;
    return traits;
  }
  NetQueue& queue(uint16_t /*index*/) override { return queue_; }
  Result<void> allow(NetOffloads offloads) override {
    queue_.allow(offloads);
    return {};
  }
  void add_forward(const user_net::Forward& forward) override { queue_.add_forward(forward); }
  void remove_forward(const user_net::Forward& forward) override { queue_.remove_forward(forward); }

 private:
  uint16_t mtu_;
  user_net::UserQueue queue_;
};

}  // namespace

std::unique_ptr<UserNet> make_user_net(const user_net::UserNetConfig& config) {
  return std::make_unique<Backend>(config);
}

}  // namespace minivmm
