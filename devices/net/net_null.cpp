#include "devices/net/net_null.h"

namespace minivmm {

namespace {

constexpr const char* kUnplugged = "no cable is plugged in";

class NullNet final : public NetBackend, private NetQueue {
 public:
  explicit NullNet(uint16_t pairs) : pairs_(pairs) {}
  NetTraits traits() const override { return {.kind = "null", .queue_pairs = pairs_}; }
  NetQueue& queue(uint16_t) override { return *this; }
  bool link_up() const override { return false; }

 private:
  int fd() const override { return -1; }
  Result<size_t> receive(std::span<const iovec>) override { return fail(Errc::closed, kUnplugged); }
  Result<bool> send(std::span<const iovec>) override { return fail(Errc::closed, kUnplugged); }

  uint16_t pairs_;
};

}  // namespace

std::unique_ptr<NetBackend> create_null_net(const NetSpec& spec, const NetContext&) {
  return std::make_unique<NullNet>(spec.queues.value_or(1));
}

}  // namespace minivmm
