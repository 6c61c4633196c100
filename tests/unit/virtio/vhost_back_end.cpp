#include "tests/unit/virtio/vhost_back_end.h"

#include <poll.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>

#include "virtio/spec.h"

namespace minivmm::test {

using vhost_user::Header;
using vhost_user::Request;

std::pair<UniqueFd, UniqueFd> socket_pair() {
  std::array<int, 2> pair{-1, -1};
  MV_CHECK(::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair.data()) == 0);
  return {UniqueFd(pair[0]), UniqueFd(pair[1])};
}

FakeBackEnd::Manners FakeBackEnd::good() {
  return {.features = virtio::kFeatureVersion1 | virtio::kFeatureEventIdx | virtio::kFeatureIndirectDesc |
                      vhost_user::kFeatureProtocol | vhost_user::kFeatureLogAll};
}

FakeBackEnd::FakeBackEnd(UniqueFd socket, Manners manners)
    : socket_(std::move(socket)), manners_(std::move(manners)), thread_([this] { run(); }) {}

FakeBackEnd::~FakeBackEnd() {
  end();
  thread_.join();
}

void FakeBackEnd::end() {
  ::shutdown(socket_.get(), SHUT_RDWR);
  stop_.signal();
}

void FakeBackEnd::say_unasked(const Bytes& bytes) {
  MV_CHECK(::send(socket_.get(), bytes.data(), bytes.size(), MSG_NOSIGNAL) ==
           static_cast<ssize_t>(bytes.size()));
}

void FakeBackEnd::signal_error(uint32_t ring) {
  const std::scoped_lock lock(mutex_);
  const uint64_t one = 1;
  MV_CHECK(::write(rings_.at(ring).error.get(), &one, sizeof one) == sizeof one);
}

std::vector<vhost_user::Region> FakeBackEnd::regions() const {
  const std::scoped_lock lock(mutex_);
  std::vector<vhost_user::Region> out;
  out.reserve(memory_.size());
  for (const Mapped& mapped : memory_) out.push_back(mapped.region);
  return out;
}

std::vector<Request> FakeBackEnd::asked() const {
  const std::scoped_lock lock(mutex_);
  return asked_;
}

bool FakeBackEnd::was_asked(Request request) const {
  const auto all = asked();
  return std::ranges::find(all, request) != all.end();
}

bool FakeBackEnd::enabled(uint32_t ring) const {
  const std::scoped_lock lock(mutex_);
  const auto found = rings_.find(ring);
  return found != rings_.end() && found->second.enabled;
}

bool FakeBackEnd::wait_asked(Request request) const {
  for (;;) {
    const uint64_t seen = asked_count_.count();
    if (was_asked(request)) return true;
    if (!asked_count_.wait_past(seen)) return false;
  }
}

void FakeBackEnd::run() {
  for (;;) {
    std::vector<pollfd> fds{{socket_.get(), POLLIN, 0}, {stop_.fd(), POLLIN, 0}};
    std::vector<Ring*> watched;
    for (auto& [index, ring] : rings_) {
      if (!ring.kick) continue;
      fds.push_back({ring.kick.get(), POLLIN, 0});
      watched.push_back(&ring);
    }
    ::poll(fds.data(), fds.size(), -1);
    if (fds[1].revents != 0) return;
    for (size_t i = 0; i < watched.size(); ++i) {
      if (fds[i + 2].revents == 0) continue;
      uint64_t count = 0;
      [[maybe_unused]] const ssize_t got = ::read(watched[i]->kick.get(), &count, sizeof count);
      const std::scoped_lock lock(mutex_);
      watched[i]->started = true;
      work(*watched[i]);
    }
    if (fds[0].revents != 0 && !serve()) {
      ::shutdown(socket_.get(), SHUT_RDWR);
      return;
    }
  }
}

bool FakeBackEnd::serve() {
  Header header{};
  std::array<char, 512> control{};
  iovec piece{&header, sizeof header};
  msghdr message{};
  message.msg_iov = &piece;
  message.msg_iovlen = 1;
  message.msg_control = control.data();
  message.msg_controllen = control.size();
  if (::recvmsg(socket_.get(), &message, MSG_WAITALL | MSG_CMSG_CLOEXEC) !=
      static_cast<ssize_t>(sizeof header)) {
    return false;
  }
  std::vector<UniqueFd> fds;
  for (cmsghdr* at = CMSG_FIRSTHDR(&message); at != nullptr; at = CMSG_NXTHDR(&message, at)) {
    for (size_t i = 0; i < (at->cmsg_len - CMSG_LEN(0)) / sizeof(int); ++i) {
      int fd = -1;
      std::memcpy(&fd, CMSG_DATA(at) + i * sizeof fd, sizeof fd);
      fds.emplace_back(fd);
    }
  }
  Bytes payload(header.size);
  if (!payload.empty() && ::recv(socket_.get(), payload.data(), payload.size(), MSG_WAITALL) !=
                              static_cast<ssize_t>(payload.size())) {
    return false;
  }
  const auto request = static_cast<Request>(header.request);
  {
    const std::scoped_lock lock(mutex_);
    take(request, payload, fds);
    asked_.push_back(request);
  }
  if (request == Request::set_mem_table && (header.flags & vhost_user::kFlagNeedReply) != 0)
    answer(request, &manners_.memory_error, sizeof manners_.memory_error);
  asked_count_.add();
  return true;
}

void FakeBackEnd::answer(Request request, const void* payload, size_t size) {
  const Header header{static_cast<uint32_t>(request), vhost_user::kVersion | vhost_user::kFlagReply,
                      static_cast<uint32_t>(size)};
  Bytes bytes(sizeof header + size);
  std::memcpy(bytes.data(), &header, sizeof header);
  std::memcpy(bytes.data() + sizeof header, payload, size);
  if (manners_.tamper) manners_.tamper(request, bytes);
  const size_t step = manners_.by_bytes ? 1 : std::max<size_t>(bytes.size(), 1);
  for (size_t at = 0; at < bytes.size(); at += step) ::send(socket_.get(), &bytes[at], step, MSG_NOSIGNAL);
}

namespace {

template <class T>
T payload_as(const std::vector<std::byte>& payload) {
  T out{};
  MV_CHECK(payload.size() == sizeof out);
  std::memcpy(&out, payload.data(), sizeof out);
  return out;
}

}  // namespace

void FakeBackEnd::take(Request request, const Bytes& payload, std::vector<UniqueFd>& fds) {
  const auto state = [&] { return payload_as<vhost_user::RingState>(payload); };
  switch (request) {
    case Request::get_features: answer(request, &manners_.features, 8); break;
    case Request::get_protocol_features: answer(request, &manners_.protocol_features, 8); break;
    case Request::get_queue_num: answer(request, &manners_.queues, 8); break;
    case Request::set_features: acked_ = payload_as<uint64_t>(payload); break;
    case Request::set_mem_table: {
      vhost_user::MemoryTable table{};
      MV_CHECK(payload.size() <= sizeof table && payload.size() >= 8);
      std::memcpy(&table, payload.data(), payload.size());
      MV_CHECK(table.count == fds.size());
      memory_.clear();
      for (size_t i = 0; i < table.count; ++i) {
        const vhost_user::Region& region = table.regions.at(i);
        memory_.push_back({region, Mapping::map(region.size, PROT_READ | PROT_WRITE, MAP_SHARED, fds[i].get(),
                                                region.mmap_offset, "the guest's memory")});
      }
      break;
    }
    case Request::set_vring_num: rings_[state().index].size = state().num; break;
    case Request::set_vring_base: rings_[state().index].next = static_cast<uint16_t>(state().num); break;
    case Request::set_vring_addr: {
      const auto address = payload_as<vhost_user::RingAddress>(payload);
      rings_[address.index].address = address;
      break;
    }
    case Request::set_vring_call:
    case Request::set_vring_err:
    case Request::set_vring_kick: {
      Ring& ring = rings_[static_cast<uint32_t>(payload_as<uint64_t>(payload) & 0xff)];
      MV_CHECK(fds.size() == 1);
      if (request == Request::set_vring_call) ring.call = std::move(fds.front());
      if (request == Request::set_vring_err) ring.error = std::move(fds.front());
      if (request == Request::set_vring_kick) ring.kick = std::move(fds.front());
      break;
    }
    case Request::get_config: {
      vhost_user::ConfigSpace head{};
      MV_CHECK(payload.size() >= sizeof head);
      std::memcpy(&head, payload.data(), sizeof head);
      Bytes said(payload);
      const bool has = !manners_.config.empty();
      if (has) std::memcpy(&said.at(sizeof head), &manners_.config.at(head.offset), head.size);
      answer(request, said.data(), has ? said.size() : 0);
      break;
    }
    case Request::set_vring_enable:
      rings_[state().index].enabled = state().num != 0;
      work(rings_[state().index]);
      break;
    case Request::get_vring_base: {
      Ring& ring = rings_[state().index];
      ring.kick.reset();
      ring.call.reset();
      ring.started = false;
      const vhost_user::RingState answer_state{state().index, ring.next};
      answer(request, &answer_state, sizeof answer_state);
      break;
    }
    default: break;
  }
}

std::byte* FakeBackEnd::at(uint64_t user_address) {
  for (const Mapped& mapped : memory_) {
    if (user_address >= mapped.region.user_address &&
        user_address - mapped.region.user_address < mapped.region.size) {
      return mapped.mapping.data() + (user_address - mapped.region.user_address);
    }
  }
  return nullptr;
}

void FakeBackEnd::work(Ring& ring) {
  if (!ring.started || !ring.enabled || manners_.leaves_work || memory_.empty()) return;
  std::byte* const available = at(ring.address.available);
  std::byte* const used = at(ring.address.used);
  auto index = [](std::byte* where) { return std::atomic_ref(*reinterpret_cast<uint16_t*>(where)); };
  auto used_index = index(used + virtio::kUsedIdx).load();
  bool any = false;
  while (ring.next != index(available + virtio::kAvailIdx).load()) {
    const uint16_t head =
        index(available + virtio::kAvailRing + uint64_t{2} * (ring.next % ring.size)).load();
    ++ring.next;
    uint32_t written = 0;
    virtio::Descriptor d{};
    for (uint16_t next = head;; next = d.next) {
      std::memcpy(&d, at(ring.address.descriptors) + sizeof d * next, sizeof d);
      if ((d.flags & virtio::kDescWrite) != 0) {
        // Addresses in descriptors are the guest's, which this front end uses for the others too.
        std::memset(at(d.addr), static_cast<int>(kAnswer), d.len);
        written += d.len;
      }
      if ((d.flags & virtio::kDescNext) == 0) break;
    }
    const virtio::UsedElement element{head, written};
    std::memcpy(used + virtio::kUsedRing + sizeof element * (used_index % ring.size), &element,
                sizeof element);
    index(used + virtio::kUsedIdx).store(++used_index);
    any = true;
  }
  const uint64_t one = 1;
  if (any && ring.call) MV_CHECK(::write(ring.call.get(), &one, sizeof one) == sizeof one);
}

}  // namespace minivmm::test
