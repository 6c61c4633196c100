#include "devices/net/tap/macvtap.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <linux/if.h>
#include <linux/if_link.h>
#include <sys/random.h>
#include <unistd.h>

#include <cerrno>
#include <memory>

#include "devices/net/netns_lock.h"
#include "devices/net/tap/tap_backend.h"
#include "devices/net/tap/tap_device.h"
#include "devices/net/tap/tap_set_up.h"

namespace minivmm {

namespace {

// In an interface's alias. A macvtap outlives its descriptors, so one that a killed minivmm left behind is
// removed by the next: nobody holds the lock of its name any more.
constexpr std::string_view kAlias = "minivmm";

std::string lock_name(const std::string& interface) {
  return "macvtap/" + interface;
}

uint32_t mode_of(const NetSpec& spec) {
  const std::string mode =
      spec.settings.get_choice("mode", {"bridge", "vepa", "private", "passthru"}, "bridge");
  if (mode == "vepa") return MACVLAN_MODE_VEPA;
  if (mode == "private") return MACVLAN_MODE_PRIVATE;
  if (mode == "passthru") return MACVLAN_MODE_PASSTHRU;
  return MACVLAN_MODE_BRIDGE;
}

void remove_left_behind(Links& links) {
  for (const Link& link : links.all()) {
    if (link.kind != "macvtap" || link.alias != kAlias) continue;
    if (const auto lock = try_netns_lock(lock_name(link.name))) links.remove(link.index);
  }
}

std::string device_path(int index) {
  return fmt::format("/dev/tap{}", index);
}

// An interface's index numbers its device, too. Each network namespace counts its own, from 1, but the nodes
// of all of them are in one /dev, where the first to come has the name, and the second opens the first one's
// device. So it is not left to the count.
int choose_index() {
  constexpr uint32_t kMost = uint32_t{1} << 30;
  for (;;) {
    uint32_t number = 0;
    if (::getrandom(&number, sizeof number, 0) != sizeof number) throw_errno("get random bytes");
    const int index = static_cast<int>(number % kMost + 1);
    if (::access(device_path(index).c_str(), F_OK) != 0) return index;
  }
}

struct Made {
  Link link;
  UniqueFd lock;  // of its name
};

Made add_interface(Links& links, const NetSpec& spec, const NetContext& context, const Link& lower) {
  const uint32_t mode = mode_of(spec);
  Links::MacvtapPlan plan{.name = "",
                          .index = choose_index(),
                          .lower = lower.index,
                          .mode = mode,
                          .address = guest_mac(spec, context),
                          .queues = spec.queues.value_or(1)};
  // Passed through, it is the lower interface's address that counts.
  if (mode == MACVLAN_MODE_PASSTHRU && !spec.mac) plan.address.reset();
  for (unsigned number = 0;; ++number) {
    plan.name = fmt::format("minivmmv{}", number);
    auto lock = try_netns_lock(lock_name(plan.name));
    if (!lock) continue;
    const int error = links.add_macvtap(plan);
    if (error == EEXIST) continue;
    const std::string tried = fmt::format("make a macvtap device on {}", lower.name);
    if (error == EOPNOTSUPP) throw_refused(error, tried, "load the kernel's module by: modprobe macvtap");
    if (error == EBUSY)
      throw_refused(error, tried, fmt::format("{} is in a bridge or passed through already", lower.name));
    if (error == EADDRINUSE) throw_refused(error, tried, "its MAC address is taken: give mac=");
    need(error, tried);
    auto link = links.find(plan.name);
    if (!link) throw_refused(ENODEV, tried);
    return {std::move(*link), std::move(*lock)};
  }
}

UniqueFd open_device(const Link& link) {
  const std::string path = device_path(link.index);
  UniqueFd fd(::open(path.c_str(), O_RDWR | O_NONBLOCK | O_CLOEXEC));
  if (!fd) {
    throw_refused(errno, fmt::format("open {}, the macvtap device {}", path, link.name),
                  "it is udev's or devtmpfs's to make; without rights to it run minivmm as root");
  }
  return fd;
}

}  // namespace

std::unique_ptr<NetBackend> create_macvtap_net(const NetSpec& spec, const NetContext& context) {
  const std::string lower_name = interface_setting(spec, "link");
  if (lower_name.empty()) throw ConfigError("--net macvtap: name the host's interface: macvtap,link=eth0");
  Links links;
  const auto lower = links.find(lower_name);
  if (!lower)
    throw_refused(ENODEV, fmt::format("use the interface {}", lower_name), "ip link lists those there are");
  remove_left_behind(links);
  TapBackend::Plan plan{.kind = "macvtap"};
  plan.vhost = open_tap_vhost(spec, spec.queues.value_or(1));
  Made owned = add_interface(links, spec, context, *lower);
  const Link& made = owned.link;
  plan.undo.add([index = made.index, lock = std::make_shared<UniqueFd>(std::move(owned.lock))] {
    Links().remove(index);
  });
  need(links.set_alias(made.index, std::string(kAlias)), "mark the macvtap device as ours");
  if (spec.mtu != 0 && spec.mtu != made.mtu) {
    need(links.set_mtu(made.index, spec.mtu), fmt::format("set the MTU of {} to {}", made.name, spec.mtu),
         fmt::format("at most {}'s", lower_name));
  }
  // The groups that the guest listens to (IPv6 finds neighbours by them) are known to the guest alone.
  need(links.set_flags(made.index, IFF_UP | IFF_ALLMULTI), fmt::format("bring up {}", made.name));
  const uint16_t count = spec.queues.value_or(1);
  plan.multi_queue = count > 1;
  for (uint16_t i = 0; i < count; ++i) {
    UniqueFd fd = open_device(made);
    need(attach_macvtap(fd.get(), plan.multi_queue), fmt::format("set up the macvtap device {}", made.name));
    need(prepare_tap(fd.get()), fmt::format("set up the macvtap device {}", made.name));
    plan.queues.push_back(std::move(fd));
  }
  plan.link = links.find(made.index);
  return std::make_unique<TapBackend>(std::move(plan));
}

}  // namespace minivmm
