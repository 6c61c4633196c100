#include "devices/net/tap/tap_set_up.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <linux/if.h>

#include <cerrno>
#include <utility>

#include "devices/net/tap/tap_device.h"
#include "devices/vhost_device.h"
#include "vmm/core/error.h"

namespace minivmm {

namespace {

constexpr const char* kNewName = "minivmm%d";
constexpr const char* kNeedsRight =
    "it needs CAP_NET_ADMIN: run minivmm as root, or use --net user, which needs no rights";

UniqueFd open_tun() {
  UniqueFd fd(::open(std::string(kTapPath).c_str(), O_RDWR | O_NONBLOCK | O_CLOEXEC));
  if (fd) return fd;
  const int error = errno;
  throw_refused(error, fmt::format("open {}, which tap devices are made by", kTapPath),
                error == ENOENT || error == ENODEV || error == ENXIO
                    ? "load the kernel's module by: modprobe tun; or use --net user, which does without"
                    : "this user needs read and write access to it, or use --net user");
}

[[noreturn]] void throw_not_attached(int error, const std::string& name, uint16_t count,
                                     const std::optional<Link>& there) {
  const std::string tried = there ? fmt::format("open the tap device {}", there->name)
                                  : fmt::format("make the tap device {}", name.empty() ? kNewName : name);
  const char* const queues = count > 1 ? " multi_queue" : "";
  if (there && there->kind != "tun")
    throw_refused(error, tried, fmt::format("{} is there and is no tap device: choose another ifname", name));
  if (error == EPERM) {
    throw_refused(error, tried,
                  fmt::format("let an administrator make one for this user: ip tuntap add {} mode tap user "
                              "$USER{} (minivmm makes its own with CAP_NET_ADMIN), or use --net user",
                              name.empty() ? "tap0" : name, queues));
  }
  if (error == EBUSY) throw_refused(error, tried, "another program has it open: give each machine its own");
  if (error == EINVAL && there && count > 1 && !there->multi_queue) {
    throw_refused(error, tried,
                  fmt::format("it has one queue: leave out queues=, or make it by: ip tuntap add {} mode tap "
                              "multi_queue",
                              name));
  }
  throw_refused(error, tried);
}

}  // namespace

std::string interface_setting(const NetSpec& spec, std::string_view key) {
  std::string name = spec.settings.get(key).value_or("");
  if (!name.empty() && !is_interface_name(name)) {
    throw ConfigError(fmt::format("--net {} {}={}: not the name of a network interface (1 to 15 characters)",
                                  spec.backend, key, name));
  }
  return name;
}

void throw_refused(int error, const std::string& tried, const std::string& mend) {
  errno = error;
  const bool right = mend.empty() && (error == EPERM || error == EACCES);
  throw_errno(tried, right ? kNeedsRight : std::string_view(mend));
}

OpenedTap open_tap_device(Links& links, const std::string& name, uint16_t count) {
  const auto there = name.empty() ? std::nullopt : links.find(name);
  OpenedTap tap;
  tap.made = !there;
  tap.multi_queue = count > 1 || (there && there->multi_queue);
  std::string real = name.empty() ? kNewName : name;
  for (uint16_t i = 0; i < count; ++i) {
    UniqueFd fd = open_tun();
    if (const int error = attach_tap(fd.get(), real, tap.multi_queue))
      throw_not_attached(error, name, count, there);
    need(prepare_tap(fd.get()), fmt::format("set up the tap device {}", real),
         "its kernel is older than Linux 4.0");
    tap.queues.push_back(std::move(fd));
  }
  const auto link = links.find(real);
  if (!link) throw_refused(ENODEV, fmt::format("find the tap device {}, which was just opened", real));
  tap.link = *link;
  return tap;
}

std::vector<UniqueFd> open_tap_vhost(const NetSpec& spec, size_t queues) {
  std::vector<UniqueFd> out;
  if (!spec.settings.get_switch("vhost", false)) return out;
  for (size_t i = 0; i < queues; ++i)
    out.push_back(open_vhost_device("net", fmt::format("--net {},vhost=on", spec.backend)));
  return out;
}

MacAddress guest_mac(const NetSpec& spec, const NetContext& context) {
  return spec.mac.value_or(derive_mac(context.machine, context.nic));
}

void set_up_tap(Links& links, OpenedTap& tap, const Link* bridge, uint16_t mtu, const MacAddress& guest,
                Undo& undo) {
  const int index = tap.link.index;
  const std::string& name = tap.link.name;
  if (tap.made) {
    // A bridge without an address of its own takes its ports' lowest, and the host's address there would
    // change with the machines: fe is higher than what cards have.
    MacAddress high = guest;
    high.bytes[0] = 0xfe;
    need(links.set_address(index, high), fmt::format("set the address of {}", name));
  }
  // One port of a smaller MTU makes the whole bridge's smaller.
  if (mtu == 0 && bridge != nullptr && tap.made) mtu = static_cast<uint16_t>(std::min(bridge->mtu, 65535u));
  if (mtu != 0 && mtu != tap.link.mtu) {
    need(links.set_mtu(index, mtu), fmt::format("set the MTU of {} to {}", name, mtu));
  }
  if (bridge != nullptr && tap.link.master != bridge->index) {
    need(links.set_master(index, bridge->index),
         fmt::format("make {} a port of the bridge {}", name, bridge->name));
    if (!tap.made) {
      undo.add([index, before = tap.link.master] { Links().set_master(index, before); });
    }
  }
  if (!tap.link.admin_up()) {
    const int error = links.set_flags(index, IFF_UP);
    need(error, fmt::format("bring up {}", name),
         error == EPERM ? fmt::format("let an administrator do it: ip link set {} up", name) : "");
  }
  if (auto link = links.find(index)) tap.link = std::move(*link);
}

}  // namespace minivmm
