#include "virtio/vhost/kernel_vhost.h"

#include <fmt/format.h>

#include <sys/ioctl.h>

#include <cstring>
#include <vector>

#include "virtio/vhost/linux_vhost.h"

namespace minivmm {

namespace {

// Each vhost device has its limit of regions (max_mem_regions, 64 by default); a machine has two or three.
std::vector<uint64_t> memory_table(const GuestMemory& memory) {
  const auto regions = memory.regions();
  const size_t bytes = sizeof(vhost_memory) + regions.size() * sizeof(vhost_memory_region);
  std::vector<uint64_t> out((bytes + 7) / 8);
  vhost_memory head{};
  head.nregions = static_cast<uint32_t>(regions.size());
  std::memcpy(out.data(), &head, sizeof head);
  auto* at = reinterpret_cast<std::byte*>(out.data()) + sizeof head;
  for (const GuestMemory::Region& region : regions) {
    vhost_memory_region entry{};
    entry.guest_phys_addr = value(region.base);
    entry.memory_size = region.size;
    entry.userspace_addr = reinterpret_cast<uint64_t>(region.host);
    std::memcpy(at, &entry, sizeof entry);
    at += sizeof entry;
  }
  return out;
}

template <class T>
bool ask(int fd, unsigned long request, T* argument) {
  return ::ioctl(fd, request, argument) == 0;
}

}  // namespace

KernelVhost::KernelVhost(UniqueFd fd, const char* what) : fd_(std::move(fd)) {
  if (::ioctl(fd_.get(), VHOST_SET_OWNER) != 0) throw_errno(fmt::format("become the owner of {}", what));
  if (!ask(fd_.get(), VHOST_GET_FEATURES, &features_))
    throw_errno(fmt::format("ask {} what it can do", what));
  if ((features_ & virtio::kFeatureVersion1) == 0)
    throw HostError(ENOTSUP, fmt::format("cannot use {}: this kernel's knows only virtio 0.9", what));
}

Result<void> KernelVhost::set_features(uint64_t features) const {
  if (!ask(fd_.get(), VHOST_SET_FEATURES, &features)) return fail(Errc::io, "vhost refuses the features");
  return {};
}

Result<void> KernelVhost::set_memory(const GuestMemory& memory) const {
  std::vector<uint64_t> table = memory_table(memory);
  if (!ask(fd_.get(), VHOST_SET_MEM_TABLE, table.data()))
    return fail(Errc::io, "vhost refuses the guest's memory");
  return {};
}

Result<void> KernelVhost::set_up_ring(unsigned index, const RemoteRing& ring) const {
  const VirtqueueLayout& layout = ring.queue.layout();
  const GuestMemory& memory = ring.context.memory;
  const auto descriptors = memory.contiguous(layout.descriptors, virtio::desc_bytes(layout.size));
  const auto driver = memory.contiguous(layout.driver, virtio::avail_bytes(layout.size));
  const auto device = memory.contiguous(layout.device, virtio::used_bytes(layout.size));
  MV_CHECK(descriptors && driver && device);  // VirtqueueLayout::check() has looked
  vhost_vring_state size{.index = index, .num = layout.size};
  vhost_vring_state base{.index = index, .num = ring.next_avail};
  vhost_vring_addr address{};
  address.index = index;
  address.desc_user_addr = reinterpret_cast<uint64_t>(*descriptors);
  address.avail_user_addr = reinterpret_cast<uint64_t>(*driver);
  address.used_user_addr = reinterpret_cast<uint64_t>(*device);
  vhost_vring_file kick{.index = index, .fd = ring.context.kick.fd()};
  vhost_vring_file call{.index = index, .fd = ring.calls.used.fd()};
  vhost_vring_file error{.index = index, .fd = ring.calls.error.fd()};
  const int fd = fd_.get();
  if (!ask(fd, VHOST_SET_VRING_NUM, &size) || !ask(fd, VHOST_SET_VRING_BASE, &base) ||
      !ask(fd, VHOST_SET_VRING_ADDR, &address) || !ask(fd, VHOST_SET_VRING_CALL, &call) ||
      !ask(fd, VHOST_SET_VRING_ERR, &error) || !ask(fd, VHOST_SET_VRING_KICK, &kick)) {
    return fail(Errc::io, "vhost refuses a queue");
  }
  return {};
}

Result<uint16_t> KernelVhost::ring_base(unsigned index) const {
  vhost_vring_state base{.index = index, .num = 0};
  if (!ask(fd_.get(), VHOST_GET_VRING_BASE, &base))
    return fail(Errc::io, "vhost does not say how far a queue has come");
  return static_cast<uint16_t>(base.num);
}

}  // namespace minivmm
