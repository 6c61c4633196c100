#include "devices/net/user/user_queue.h"

#include <array>
#include <utility>

#include "devices/net/frame_pieces.h"
#include "vmm/core/error.h"

namespace minivmm::user_net {

namespace {

constexpr uint8_t kFlagNeedsCsum = 1;  // virtio 1.2, 5.1.6.1
constexpr std::array<uint8_t, kNetHeaderSize> kNoOffload{};

// What libslirp keeps until the data before it has come takes memory by the segment, however short. On this
// cable nothing overtakes, so that few are ever without an acknowledgement: a guest with more means harm.
constexpr uint16_t kMaxUnackedOfFlow = 256;
constexpr uint32_t kMaxUnacked = 8192;

uint16_t little16(const uint8_t* at) {
  return static_cast<uint16_t>(at[0] | at[1] << 8);
}

}  // namespace

UserQueue::UserQueue(UserNetConfig config)
    : config_(std::move(config)),
      link_{.allowed = 0, .mtu = config_.mtu == 0 ? kDefaultMtu : config_.mtu},
      gate_(config_, flows_),
      redirects_(config_, flows_),
      ring_(kRingBytes),
      buffer_(kMaxFrame + kMssOption),
      scratch_(kEthernetHeader + size_t{link_.mtu}) {
  stack_.emplace(config_, static_cast<FrameSink&>(*this));
}

Result<size_t> UserQueue::receive(std::span<const iovec> pieces) {
  const std::scoped_lock lock(mutex_);
  constexpr int kRounds = 64;  // without a frame: the worker has more to do
  for (int round = 0; round < kRounds; ++round) {
    if (!ring_.empty()) return ring_.pop(pieces);
    arrived_.reset();
    waiting_ = pieces;
    const bool worked = stack_->poll();
    waiting_ = {};
    if (arrived_) return *arrived_;
    if (!worked && ring_.empty()) return size_t{0};
  }
  stack_->wake();
  return size_t{0};
}

bool UserQueue::ready() {
  const std::scoped_lock lock(mutex_);
  return !ring_.empty() || stack_->peek();
}

Result<bool> UserQueue::send(std::span<const iovec> pieces) {
  const std::scoped_lock lock(mutex_);
  const size_t size = pieces_size(pieces);
  if (size > kMaxFrame) return fail(Errc::invalid, "a frame larger than any");
  if (size < kNetHeaderSize + kEthernetHeader) return fail(Errc::invalid, "a frame shorter than its header");
  const std::span<uint8_t> all(buffer_.data(), size);
  copy_from_pieces(pieces, 0, std::as_writable_bytes(all));
  from_guest(all.subspan(kNetHeaderSize), all.first<kNetHeaderSize>());
  return true;
}

void UserQueue::flush() {
  const std::scoped_lock lock(mutex_);
  stack_->settle();
}

void UserQueue::from_guest(std::span<uint8_t> frame, std::span<const uint8_t, kNetHeaderSize> header) {
  auto packet = parse_packet(frame);
  if (!packet) return;
  if (packet->fragment) {
    if (!config_.in_network(packet->source.address)) return;
    const auto whole = reassembly_.add(*packet);
    if (!whole) return;
    packet = parse_packet(*whole);
    if (!packet || packet->fragment) return;
  } else if (!finish_checksum(*packet, header)) {
    return;
  }
  stack_->tick();
  switch (gate_.judge(*packet, stack_->crowd())) {
    case Verdict::pass: to_stack(*packet); break;
    case Verdict::refuse: refuse(*packet); break;
    case Verdict::drop: break;
  }
}

bool UserQueue::finish_checksum(Packet& packet, std::span<const uint8_t, kNetHeaderSize> header) const {
  if ((header[0] & kFlagNeedsCsum) == 0) return true;
  if (header[1] != 0) {  // segments: what their partial sums hold differs between guests
    if (!packet.is_tcp()) return false;
    if (!packet.v6) fill_in_ipv4_sum(packet.frame);
    fill_in_transport_sum(packet);
    return true;
  }
  const size_t start = little16(header.data() + 6);
  const size_t at = start + little16(header.data() + 8);
  if (start < kEthernetHeader || at + sizeof(uint16_t) > packet.frame.size()) return false;
  uint16_t sum = fold_sum(add_to_sum(0, packet.frame.subspan(start)));
  if (packet.is_udp() && sum == 0) sum = 0xffff;
  std::memcpy(packet.frame.data() + at, &sum, sizeof sum);
  return true;
}

void UserQueue::to_stack(Packet& packet) {
  if (packet.is_tcp()) {
    if ((packet.tcp_flags & kTcpSyn) != 0) {
      const uint16_t mss = settle_segment_size(packet, link_);
      flows_
          .add(IPPROTO_TCP, packet.source, packet.destination, [this](const Flow& flow) { note_gone(flow); })
          .mss = mss;
    }
    if (!bounded(packet)) return;
  }
  const Endpoint remote = packet.destination;
  const bool last = ends_last(packet);
  redirects_.outward(packet, [this](const Flow& flow) { note_gone(flow); });
  if (packet.opens()) lingering_.forget(packet);
  stack_->input(packet.frame);
  if (packet.ether_type == kEtherArp || packet.protocol == IPPROTO_ICMPV6) stack_->retry();
  if (!last) return;
  const Flow* const flow = flows_.find(IPPROTO_TCP, packet.source, remote);
  const uint32_t end = packet.sequence + static_cast<uint32_t>(packet.payload_size()) + 1;
  if (flow == nullptr || flow->acked != end) return;  // libslirp still lacks something
  lingering_.add(packet);
  thin_out();
}

bool UserQueue::ends_last(const Packet& packet) {
  if (!packet.is_tcp() || (packet.tcp_flags & (kTcpFin | kTcpAck)) != (kTcpFin | kTcpAck)) return false;
  const Flow* const flow = flows_.find(IPPROTO_TCP, packet.source, packet.destination);
  return flow != nullptr && flow->host_ended && flow->host_end == packet.acknowledged;
}

void UserQueue::thin_out() {
  while (stack_->busy()) {
    const auto reset = lingering_.let_go();
    if (reset.empty()) return;
    stack_->input(reset);
  }
}

bool UserQueue::bounded(const Packet& packet) {
  const bool ends = (packet.tcp_flags & (kTcpSyn | kTcpRst)) != 0;
  if (!ends && packet.payload_size() == 0) return true;
  if (ends) {
    if (Flow* const flow = flows_.find(IPPROTO_TCP, packet.source, packet.destination)) {
      note_gone(*flow);
      flow->unacked = 0;
      flow->host_ended = false;
    }
    return true;
  }
  Flow& flow = flows_.add(IPPROTO_TCP, packet.source, packet.destination,
                          [this](const Flow& gone) { note_gone(gone); });
  const bool awaited = packet.sequence == flow.acked;  // what makes room
  if (!awaited && (flow.unacked >= kMaxUnackedOfFlow || (flow.unacked != 0 && unacked_ >= kMaxUnacked)))
    return false;
  if (flow.unacked < kMaxUnackedOfFlow) {
    ++flow.unacked;
    ++unacked_;
  }
  return true;
}

uint16_t UserQueue::note_acknowledged(const Packet& packet) {
  Flow* flow = flows_.find(IPPROTO_TCP, packet.destination, packet.source);
  if ((packet.tcp_flags & kTcpFin) != 0) {
    if (flow == nullptr) {
      flow = &flows_.add(IPPROTO_TCP, packet.destination, packet.source,
                         [this](const Flow& gone) { note_gone(gone); });
    }
    flow->host_ended = true;
    flow->host_end = packet.sequence + static_cast<uint32_t>(packet.payload_size()) + 1;
  }
  if (flow == nullptr) return 0;
  const bool over = (packet.tcp_flags & kTcpRst) != 0;
  if (!over && ((packet.tcp_flags & kTcpAck) == 0 || packet.acknowledged == flow->acked)) return flow->mss;
  flow->acked = packet.acknowledged;
  note_gone(*flow);
  flow->unacked = 0;
  return flow->mss;
}

void UserQueue::refuse(const Packet& packet) {
  std::array<uint8_t, kMaxResetFrame> reset{};
  const size_t size = make_reset(packet, reset);
  deliver(kNoOffload, std::span(reset).first(size));
}

void UserQueue::take(std::span<uint8_t> frame) {
  auto packet = parse_packet(frame);
  if (!packet) return;
  if (packet->ether_type == kEtherArp) return deliver(kNoOffload, packet->frame);
  redirects_.inward(*packet);
  GuestLink link = link_;
  if (packet->is_tcp()) {
    link.mss = note_acknowledged(*packet);
  } else if (packet->is_udp()) {
    flows_
        .add(IPPROTO_UDP, packet->destination, packet->source, [this](const Flow& flow) { note_gone(flow); })
        .from_host = true;
  }
  if (needs_fragments(*packet, link_)) {
    cut_fragments(*packet, link_, scratch_,
                  [this](std::span<const uint8_t> fragment) { deliver(kNoOffload, fragment); });
    return;
  }
  std::array<uint8_t, kNetHeaderSize> header;
  if (describe_frame(*packet, link, header)) return deliver(header, packet->frame);
  cut_segments(*packet, link, scratch_, [&](std::span<const uint8_t> segment) { deliver(header, segment); });
}

void UserQueue::deliver(std::span<const uint8_t, kNetHeaderSize> header, std::span<const uint8_t> frame) {
  if (!waiting_.empty() && !arrived_ && ring_.empty()) {
    arrived_ = scatter(header, frame, waiting_);
    return;
  }
  ring_.push(header, frame);  // lost where there is no room, as frames are
}

void UserQueue::allow(NetOffloads offloads) {
  const std::scoped_lock lock(mutex_);
  link_.allowed = offloads;
}

void UserQueue::add_forward(const Forward& forward) {
  const std::scoped_lock lock(mutex_);
  stack_->add_forward(forward);
}

void UserQueue::remove_forward(const Forward& forward) {
  const std::scoped_lock lock(mutex_);
  stack_->remove_forward(forward);
}

}  // namespace minivmm::user_net
