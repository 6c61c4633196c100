#include "devices/net/netlink.h"

#include <linux/netlink.h>
#include <sys/socket.h>

#include <algorithm>
#include <cerrno>

#include "vmm/core/error.h"

namespace minivmm {

namespace {

// The kernel writes datagrams of at most 32 KiB (netlink_dump() in net/netlink/af_netlink.c).
constexpr size_t kDatagram = 32 << 10;

constexpr size_t aligned(size_t size) {
  return NLMSG_ALIGN(size);
}

template <class T>
T load(std::span<const std::byte> bytes) {
  T value;
  std::memcpy(&value, bytes.data(), sizeof value);
  return value;
}

// The rest of `bytes` after `size` aligned up; a last element may lack its padding.
std::span<const std::byte> skip(std::span<const std::byte> bytes, size_t size) {
  return bytes.subspan(std::min(aligned(size), bytes.size()));
}

}  // namespace

NetlinkRequest::NetlinkRequest(uint16_t type, uint16_t flags) {
  nlmsghdr header{};
  header.nlmsg_type = type;
  header.nlmsg_flags = static_cast<uint16_t>(flags | NLM_F_REQUEST);
  append(header);
}

void NetlinkRequest::append_bytes(std::span<const std::byte> bytes) {
  bytes_.insert(bytes_.end(), bytes.begin(), bytes.end());
  bytes_.resize(aligned(bytes_.size()));
}

void NetlinkRequest::attribute(uint16_t type, std::span<const std::byte> value) {
  const nlattr header{static_cast<uint16_t>(sizeof(nlattr) + value.size()), type};
  append(header);
  append_bytes(value);
}

void NetlinkRequest::attribute(uint16_t type, std::string_view text) {
  std::vector<std::byte> value(text.size() + 1);
  std::memcpy(value.data(), text.data(), text.size());
  attribute(type, value);
}

size_t NetlinkRequest::begin_nested(uint16_t type) {
  const size_t begun = bytes_.size();
  attribute(type, std::span<const std::byte>{});
  return begun;
}

void NetlinkRequest::end_nested(size_t begun) {
  const auto length = static_cast<uint16_t>(bytes_.size() - begun);
  std::memcpy(bytes_.data() + begun + offsetof(nlattr, nla_len), &length, sizeof length);
}

std::span<const std::byte> NetlinkRequest::finish(uint32_t sequence) {
  const auto length = static_cast<uint32_t>(bytes_.size());
  std::memcpy(bytes_.data() + offsetof(nlmsghdr, nlmsg_len), &length, sizeof length);
  std::memcpy(bytes_.data() + offsetof(nlmsghdr, nlmsg_seq), &sequence, sizeof sequence);
  return bytes_;
}

std::span<const std::byte> NetlinkMessage::attributes(size_t header_size) const {
  return skip(payload, header_size);
}

void for_each_message(std::span<const std::byte> datagram,
                      const std::function<void(const NetlinkMessage&)>& each) {
  while (datagram.size() >= sizeof(nlmsghdr)) {
    const auto header = load<nlmsghdr>(datagram);
    if (header.nlmsg_len < sizeof header || header.nlmsg_len > datagram.size()) return;
    each({header.nlmsg_type, header.nlmsg_seq,
          datagram.subspan(sizeof header, header.nlmsg_len - sizeof header)});
    datagram = skip(datagram, header.nlmsg_len);
  }
}

std::optional<std::span<const std::byte>> find_attribute(std::span<const std::byte> attributes,
                                                         uint16_t type) {
  while (attributes.size() >= sizeof(nlattr)) {
    const auto header = load<nlattr>(attributes);
    if (header.nla_len < sizeof header || header.nla_len > attributes.size()) break;
    if ((header.nla_type & NLA_TYPE_MASK) == type) {
      return attributes.subspan(sizeof header, header.nla_len - sizeof header);
    }
    attributes = skip(attributes, header.nla_len);
  }
  return std::nullopt;
}

std::optional<uint32_t> find_number(std::span<const std::byte> attributes, uint16_t type) {
  const auto value = find_attribute(attributes, type);
  if (value && value->size() == sizeof(uint32_t)) return load<uint32_t>(*value);
  if (value && value->size() == 1) return std::to_integer<uint32_t>(value->front());
  return std::nullopt;
}

std::string_view find_text(std::span<const std::byte> attributes, uint16_t type) {
  const auto value = find_attribute(attributes, type);
  if (!value) return {};
  const auto end = std::ranges::find(*value, std::byte{});
  return {reinterpret_cast<const char*>(value->data()), static_cast<size_t>(end - value->begin())};
}

NetlinkSocket::NetlinkSocket(uint32_t groups)
    : fd_(::socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_ROUTE)), buffer_(kDatagram) {
  sockaddr_nl address{};
  address.nl_family = AF_NETLINK;
  address.nl_groups = groups;
  if (!fd_ || ::bind(fd_.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address) != 0) {
    throw_errno("open a netlink socket, to set up network interfaces");
  }
}

int NetlinkSocket::request(NetlinkRequest& request,
                           const std::function<void(const NetlinkMessage&)>& answer) {
  const uint32_t sequence = ++sequence_;
  const auto bytes = request.finish(sequence);
  // Sent to the kernel (port 0), by send(2) without an address.
  if (::send(fd_.get(), bytes.data(), bytes.size(), 0) < 0) return errno;
  std::optional<int> over;
  while (!over) {
    const ssize_t got = ::recv(fd_.get(), buffer_.data(), buffer_.size(), 0);
    if (got < 0) {
      if (errno == EINTR) continue;
      return errno;
    }
    for_each_message(std::span(buffer_).first(static_cast<size_t>(got)), [&](const NetlinkMessage& message) {
      if (message.sequence != sequence || over) return;  // a notification, or an answer nobody waited for
      if (message.type == NLMSG_ERROR) {
        over = -message.header<int>().value_or(-EPROTO);
      } else if (message.type == NLMSG_DONE) {
        over = 0;
      } else if (answer) {
        answer(message);
      }
    });
  }
  return *over;
}

bool NetlinkSocket::notifications(const std::function<void(const NetlinkMessage&)>& each) {
  for (;;) {
    const ssize_t got = ::recv(fd_.get(), buffer_.data(), buffer_.size(), MSG_DONTWAIT);
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) return errno == EAGAIN;
    for_each_message(std::span(buffer_).first(static_cast<size_t>(got)), each);
  }
}

}  // namespace minivmm
