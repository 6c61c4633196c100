// rtnetlink(7) messages, built and taken apart, and the socket they travel by. What is done with them:
// devices/net/links.h.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <functional>
#include <optional>
#include <span>
#include <string_view>
#include <type_traits>
#include <vector>

#include "vmm/core/fd.h"

namespace minivmm {

// A request under construction: nlmsghdr, the type's own header, attributes.
class NetlinkRequest {
 public:
  // NLM_F_REQUEST is added to `flags`.
  NetlinkRequest(uint16_t type, uint16_t flags);

  template <class T>
    requires std::is_trivially_copyable_v<T>
  void append(const T& header) {
    append_bytes(std::as_bytes(std::span(&header, 1)));
  }

  void attribute(uint16_t type, std::span<const std::byte> value);
  void attribute(uint16_t type, std::string_view text);  // ends with a NUL there
  void attribute(uint16_t type, uint32_t value) { attribute(type, std::as_bytes(std::span(&value, 1))); }

  // Attributes between the two calls lie inside this one.
  size_t begin_nested(uint16_t type);
  void end_nested(size_t begun);

  std::span<const std::byte> finish(uint32_t sequence);

 private:
  void append_bytes(std::span<const std::byte> bytes);  // and what aligns it to 4

  std::vector<std::byte> bytes_;
};

// One message that was received; a view of the receiver's buffer.
struct NetlinkMessage {
  uint16_t type;
  uint32_t sequence;
  std::span<const std::byte> payload;

  template <class T>
    requires std::is_trivially_copyable_v<T>
  std::optional<T> header() const {
    T value;
    if (payload.size() < sizeof value) return std::nullopt;
    std::memcpy(&value, payload.data(), sizeof value);
    return value;
  }
  // What follows the type's own header of `header_size` bytes.
  std::span<const std::byte> attributes(size_t header_size) const;
};

// Calls `each` for every whole message in `datagram`; what is cut off is left out.
void for_each_message(std::span<const std::byte> datagram,
                      const std::function<void(const NetlinkMessage&)>& each);

// The value of the first attribute of that type; nullopt: there is none.
std::optional<std::span<const std::byte>> find_attribute(std::span<const std::byte> attributes,
                                                         uint16_t type);
std::optional<uint32_t> find_number(std::span<const std::byte> attributes, uint16_t type);  // 4 bytes, or 1
std::string_view find_text(std::span<const std::byte> attributes, uint16_t type);  // empty: there is none

class NetlinkSocket {
 public:
  // `groups`: RTMGRP_*, whose notifications arrive besides. Throws HostError.
  explicit NetlinkSocket(uint32_t groups = 0);

  int fd() const { return fd_.get(); }

  // Sends it and waits for the kernel's word: 0 or an errno value. `answer` gets what comes before that.
  int request(NetlinkRequest& request, const std::function<void(const NetlinkMessage&)>& answer = {});

  // What has arrived, without waiting. False: notifications were lost, and what they were about is to be
  // asked for anew.
  bool notifications(const std::function<void(const NetlinkMessage&)>& each);

 private:
  UniqueFd fd_;
  uint32_t sequence_ = 0;
  std::vector<std::byte> buffer_;
};

}  // namespace minivmm
