#include "virtio/vhost/user_session.h"

#include <algorithm>
#include <array>
#include <utility>

namespace minivmm::vhost_user {

Result<std::unique_ptr<Session>> Session::begin(UniqueFd socket, uint16_t queue_pairs,
                                                std::chrono::milliseconds patience) {
  std::unique_ptr<Session> session(new Session(std::move(socket), patience));
  if (auto greeted = session->greet(queue_pairs); !greeted) return std::unexpected(greeted.error());
  return session;
}

Result<void> Session::greet(uint16_t queue_pairs) {
  const auto until = deadline();
  const auto features = channel_.ask<uint64_t>(Request::get_features, until);
  if (!features) return std::unexpected(features.error());
  if ((*features & virtio::kFeatureVersion1) == 0)
    return fail(Errc::unsupported, "the vhost-user back end does not know virtio 1");
  speaks_protocol_ = (*features & kFeatureProtocol) != 0;
  features_ = *features & ~(kFeatureProtocol | kFeatureLogAll);
  if (speaks_protocol_) {
    const auto offered = channel_.ask<uint64_t>(Request::get_protocol_features, until);
    if (!offered) return std::unexpected(offered.error());
    const uint64_t chosen =
        *offered & (kProtocolReplyAck | kProtocolConfig | (queue_pairs > 1 ? kProtocolMq : 0));
    if (auto sent = channel_.send(Request::set_protocol_features, chosen, until); !sent) return sent;
    acknowledges_ = (chosen & kProtocolReplyAck) != 0;
    keeps_config_ = (chosen & kProtocolConfig) != 0;
    if (queue_pairs > 1 && (chosen & kProtocolMq) != 0) {
      const auto most = channel_.ask<uint64_t>(Request::get_queue_num, until);
      if (!most) return std::unexpected(most.error());
      if (*most < queue_pairs) return fail(Errc::unsupported, "the vhost-user back end has fewer queues");
    } else if (queue_pairs > 1) {
      return fail(Errc::unsupported, "the vhost-user back end has one queue pair");
    }
  } else if (queue_pairs > 1) {
    return fail(Errc::unsupported, "the vhost-user back end has one queue pair");
  }
  return channel_.send(Request::set_owner, {}, {}, until);
}

Result<void> Session::set_features(uint64_t features) {
  const uint64_t all = (features & features_) | (speaks_protocol_ ? kFeatureProtocol : 0);
  return channel_.send(Request::set_features, all, deadline());
}

Result<void> Session::read_config(uint32_t offset, std::span<std::byte> out) {
  if (!keeps_config_) return fail(Errc::unsupported, "the vhost-user back end keeps no configuration");
  MV_CHECK(out.size() <= kMaxConfig);
  struct {
    ConfigSpace head;
    std::array<std::byte, kMaxConfig> bytes;
  } message{{offset, static_cast<uint32_t>(out.size()), 0}, {}};
  const auto payload = std::as_writable_bytes(std::span(&message, 1)).first(sizeof(ConfigSpace) + out.size());
  const auto until = deadline();
  if (auto sent = channel_.send(Request::get_config, payload, {}, until); !sent) return sent;
  const auto got = channel_.receive(Request::get_config, payload, until, true);
  if (!got) return std::unexpected(got.error());
  if (*got == 0) return fail(Errc::unsupported, "the vhost-user back end does not say how it is configured");
  std::ranges::copy_n(message.bytes.begin(), static_cast<ptrdiff_t>(out.size()), out.begin());
  return {};
}

Result<void> Session::set_memory(const GuestMemory& memory) {
  const auto regions = memory.regions();
  if (memory.file() < 0 || regions.size() > kMaxRegions)
    return fail(Errc::unsupported, "the guest's memory cannot be shared with a vhost-user back end");
  MemoryTable table{};
  std::array<int, kMaxRegions> descriptors{};
  for (const GuestMemory::Region& region : regions) {
    // Its "user address" is only a name by which rings are found. The guest's own serves, and tells nobody
    // where our memory lies.
    table.regions.at(table.count) = {value(region.base), region.size, value(region.base), region.file_offset};
    descriptors.at(table.count) = memory.file();
    ++table.count;
  }
  const auto until = deadline();
  const auto payload = std::as_bytes(std::span(&table, 1)).first(8 + table.count * sizeof(Region));
  if (auto sent = channel_.send(Request::set_mem_table, payload, std::span(descriptors).first(table.count),
                                until, acknowledges_);
      !sent || !acknowledges_) {
    return sent;
  }
  uint64_t failed = 0;
  if (auto got =
          channel_.receive(Request::set_mem_table, std::as_writable_bytes(std::span(&failed, 1)), until);
      !got) {
    return std::unexpected(got.error());
  }
  if (failed != 0) return fail(Errc::io, "the vhost-user back end cannot map the guest's memory");
  return {};
}

Result<void> Session::send_descriptor(Request request, uint16_t index, int fd) {
  const uint64_t payload = index;
  return channel_.send(request, std::as_bytes(std::span(&payload, 1)), std::span(&fd, 1), deadline());
}

Result<void> Session::start_ring(const RemoteRing& ring, bool enabled) {
  const VirtqueueLayout& layout = ring.queue.layout();
  const uint16_t index = ring.context.index;
  const auto until = deadline();
  const RingAddress address{.index = index,
                            .flags = 0,
                            .descriptors = value(layout.descriptors),
                            .used = value(layout.device),
                            .available = value(layout.driver),
                            .log = 0};
  if (auto sent = channel_.send(Request::set_vring_num, RingState{index, layout.size}, until); !sent)
    return sent;
  if (auto sent = channel_.send(Request::set_vring_base, RingState{index, ring.next_avail}, until); !sent)
    return sent;
  if (auto sent = channel_.send(Request::set_vring_addr, address, until); !sent) return sent;
  if (auto sent = send_descriptor(Request::set_vring_call, index, ring.calls.used.fd()); !sent) return sent;
  if (auto sent = send_descriptor(Request::set_vring_err, index, ring.calls.error.fd()); !sent) return sent;
  if (auto sent = send_descriptor(Request::set_vring_kick, index, ring.context.kick.fd()); !sent) return sent;
  if (auto sent = enable_ring(index, enabled); !sent) return sent;
  ring.context.kick.signal_shared();  // what starts it, and a kick that came before
  return {};
}

Result<void> Session::enable_ring(uint16_t index, bool enabled) {
  if (!speaks_protocol_) return {};
  return channel_.send(Request::set_vring_enable, RingState{index, enabled ? 1U : 0U}, deadline());
}

Result<uint16_t> Session::stop_ring(uint16_t index) {
  const auto until = deadline();
  if (auto sent = channel_.send(Request::get_vring_base, RingState{index, 0}, until); !sent)
    return std::unexpected(sent.error());
  RingState state{};
  if (auto got =
          channel_.receive(Request::get_vring_base, std::as_writable_bytes(std::span(&state, 1)), until);
      !got) {
    return std::unexpected(got.error());
  }
  if (state.index != index || state.num > 0xffff)
    return fail(Errc::corrupt, "the vhost-user back end names a place that no ring has");
  return static_cast<uint16_t>(state.num);
}

}  // namespace minivmm::vhost_user
