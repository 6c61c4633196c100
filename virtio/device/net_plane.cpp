#include "virtio/device/net_plane.h"

#include <utility>
#include <vector>

#include "virtio/device/net_spec.h"
#include "virtio/vhost/vhost_net.h"
#include "virtio/vhost/vhost_user.h"

namespace minivmm {

std::unique_ptr<DataPlane> make_net_plane(NetVhost& vhost, uint16_t queue_pairs, const std::string& name,
                                          Log& log) {
  if (vhost.pairs.empty()) {
    VhostUser::Options options{.name = name,
                               .queues = static_cast<uint16_t>(2 * queue_pairs),
                               .queue_pairs = queue_pairs,
                               // There is no message for a change while the rings run.
                               .without = virtio::feature_bit(net::kFeatureCtrlGuestOffloads),
                               .reconnect = vhost.reconnect,
                               .changed = vhost.set_link};
    return std::make_unique<VhostUser>(std::move(vhost.socket), std::move(options), log);
  }
  std::vector<VhostNet::Pair> pairs;
  pairs.reserve(vhost.pairs.size());
  for (NetVhost::Pair& pair : vhost.pairs) pairs.push_back({std::move(pair.vhost), pair.tap});
  return std::make_unique<VhostNet>(std::move(pairs));
}

}  // namespace minivmm
