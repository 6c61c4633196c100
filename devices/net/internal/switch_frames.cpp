// How a SwitchPort takes frames and sends them.
#include <sys/socket.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <utility>

#include "devices/net/frame_pieces.h"
#include "devices/net/internal/switch_port.h"
#include "devices/net/net_header.h"
#include "devices/net/scatter.h"

namespace minivmm {

namespace {

using Clock = std::chrono::steady_clock;

constexpr size_t kDestination = kNetHeaderSize;
constexpr size_t kSource = kDestination + 6;

MacAddress mac_at(std::span<const std::byte> head, size_t offset) {
  MacAddress mac;
  std::memcpy(mac.bytes.data(), head.data() + offset, mac.bytes.size());
  return mac;
}

}  // namespace

Result<size_t> SwitchPort::receive(std::span<const iovec> pieces) {
  if (segmenter_.active()) return segmenter_.next(pieces);
  bool looked = false;
  for (;;) {
    if (Peer* peer = next_readable()) {
      const auto taken = take(*peer, pieces);
      if (!taken || *taken != 0) return taken;
    } else {
      // What comes after the look makes fd() readable again.
      if (std::exchange(looked, true) || !look()) return 0;
    }
  }
}

// 0: it has nothing, or has gone.
Result<size_t> SwitchPort::take(Peer& peer, std::span<const iovec> pieces) {
  ++in_turn_;
  if ((kOffloads & ~allowed_.load(std::memory_order_relaxed)) == 0) return take_directly(peer, pieces);
  return take_and_convert(peer, pieces);
}

// Bytes of the next message; 0: none, or the peer has gone.
ssize_t SwitchPort::take_message(Peer& peer, std::span<iovec> pieces, bool& cut) {
  msghdr message{};
  message.msg_iov = pieces.data();
  message.msg_iovlen = pieces.size();
  for (;;) {
    const ssize_t got = ::recvmsg(peer.fd.get(), &message, 0);
    if (got > 0) {
      cut = (message.msg_flags & MSG_TRUNC) != 0;
      return got;
    }
    if (got < 0 && errno == EINTR) continue;
    peer.readable = false;
    // 0 is its end: an empty frame is none. So is an error that is not "nothing now".
    if (got == 0 || errno != EAGAIN) remove_peer(peer.id);
    return 0;
  }
}

// Into the guest's memory; only what is judged here comes by a copy of ours.
Result<size_t> SwitchPort::take_directly(Peer& peer, std::span<const iovec> pieces) {
  Head head;
  pieces_[0] = {head.data(), head.size()};
  const size_t count = pieces_behind(pieces, kHead, std::span(pieces_).subspan(1));
  bool cut = false;
  const uint32_t id = peer.id;
  const ssize_t got = take_message(peer, std::span(pieces_).first(count + 1), cut);
  if (got <= 0) return 0;
  const auto size = static_cast<size_t>(got);
  if (cut) return fail(Errc::too_large, "the frame does not fit");
  if (size < kHead) return fail(Errc::io, "a frame that is too short");
  const auto header = check_net_header(head, size - kNetHeaderSize);
  if (!header) return fail(Errc::io, header.error().what);
  table_.learn(mac_at(head, kSource), id, Clock::now());
  store_net_header(*header, std::span(head).first<kNetHeaderSize>());
  if (copy_to_pieces(head, pieces) != kHead) return fail(Errc::too_large, "the frame does not fit");
  return size;
}

// For a guest whose driver lacks something that others' have.
Result<size_t> SwitchPort::take_and_convert(Peer& peer, std::span<const iovec> pieces) {
  const auto buffer = segmenter_.buffer();
  iovec piece{buffer.data(), buffer.size()};
  bool cut = false;
  const uint32_t id = peer.id;
  const ssize_t got = take_message(peer, std::span(&piece, 1), cut);
  if (got <= 0) return 0;
  const auto size = static_cast<size_t>(got);
  if (cut || size < kHead) return fail(Errc::io, "a frame of a length that makes no sense");
  const auto header = check_net_header(buffer.first(kNetHeaderSize), size - kNetHeaderSize);
  if (!header) return fail(Errc::io, header.error().what);
  table_.learn(mac_at(buffer, kSource), id, Clock::now());
  if ((header->needs() & ~allowed_.load(std::memory_order_relaxed)) == 0) {
    store_net_header(*header, buffer.first<kNetHeaderSize>());
    if (copy_to_pieces(buffer.first(size), pieces) != size)
      return fail(Errc::too_large, "the frame does not fit");
    return size;
  }
  if (const auto begun = segmenter_.start(*header, size); !begun) return fail(Errc::io, begun.error().what);
  return segmenter_.next(pieces);
}

Result<bool> SwitchPort::send(std::span<const iovec> pieces) {
  Head head;
  const size_t size = pieces_size(pieces);
  if (size > kMaxFrame || copy_from_pieces(pieces, 0, head) != head.size())
    return fail(Errc::invalid, "a frame of a length that makes no sense");
  const auto header = check_net_header(head, size - kNetHeaderSize);
  if (!header) return std::unexpected(header.error());
  store_net_header(*header, std::span(head).first<kNetHeaderSize>());
  pieces_[0] = {head.data(), head.size()};
  const size_t count = pieces_behind(pieces, kHead, std::span(pieces_).subspan(1));
  const auto frame = std::span<const iovec>(pieces_).first(count + 1);
  if (pieces_size(frame) != size) return fail(Errc::invalid, "a frame of too many pieces");

  const MacAddress destination = mac_at(head, kDestination);
  if (!destination.is_multicast()) {
    const auto member = table_.find(destination, Clock::now());
    if (Peer* peer = member ? find_peer(*member) : nullptr) return send_to(*peer, frame);
  }
  flood(frame);
  return true;
}

SwitchPort::Sent SwitchPort::put(Peer& peer, std::span<const iovec> frame) {
  msghdr message{};
  message.msg_iov = const_cast<iovec*>(frame.data());  // sendmsg(2) does not write to it
  message.msg_iovlen = frame.size();
  for (;;) {
    if (::sendmsg(peer.fd.get(), &message, MSG_NOSIGNAL | MSG_DONTWAIT) >= 0) return Sent::yes;
    switch (errno) {
      case EINTR: continue;
      case EAGAIN: return Sent::no_room;
      case EPIPE:
      case ECONNRESET:
      case ENOTCONN: return Sent::gone;
      default: return Sent::yes;  // lost: no memory, too long for the buffer the kernel allows
    }
  }
}

// False: there is no room yet, and the peer is worth waiting for.
bool SwitchPort::send_to(Peer& peer, std::span<const iovec> frame) {
  Patience& patience = peer.patience;
  const auto now = Clock::now();
  if (!patience.worth_trying(now)) return true;
  switch (put(peer, frame)) {
    case Sent::yes:
      patience.took_frame(now);
      stop_waiting(peer);
      return true;
    case Sent::gone: remove_peer(peer.id); return true;
    case Sent::no_room: break;
  }
  if (!patience.had_no_room(now)) {
    stop_waiting(peer);
    return true;
  }
  told_ = false;
  if (!peer.watches_room || !timer_armed_) {
    set_timer(patience.deadline());
    watch(peer, true);  // tells at once if there has come room in between
  }
  return false;
}

void SwitchPort::stop_waiting(Peer& peer) {
  watch(peer, false);
  set_timer(std::nullopt);
}

// To all, and waits for none: it cannot be offered again to some of them.
void SwitchPort::flood(std::span<const iovec> frame) {
  // Newcomers are to hear it. What else that look finds is receive()'s, and said once more.
  if (look()) set_timer(Clock::now());
  const auto now = Clock::now();
  for (size_t i = peers_.size(); i-- > 0;) {
    Peer& peer = *peers_[i];
    if (!peer.patience.worth_trying(now)) continue;
    if (put(peer, frame) == Sent::gone) remove_peer(peer.id);
  }
}

}  // namespace minivmm
