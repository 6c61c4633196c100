// What tap, hostonly and macvtap share when they open: interfaces made ready, and errors in one line with
// what mends them.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "devices/net/links.h"
#include "devices/net/net_spec.h"
#include "devices/net/open_net.h"
#include "devices/net/tap/tap_backend.h"
#include "vmm/core/fd.h"

namespace minivmm {

// A settings' value that is to be an interface's name; empty: not given. Throws ConfigError.
std::string interface_setting(const NetSpec& spec, std::string_view key);

// Throws HostError "cannot <tried>: <why>; <mend>", where a refusal (EPERM, EACCES) is mended by
// CAP_NET_ADMIN unless `mend` says otherwise.
[[noreturn]] void throw_refused(int error, const std::string& tried, const std::string& mend = {});
inline void need(int error, const std::string& tried, const std::string& mend = {}) {
  if (error != 0) throw_refused(error, tried, mend);
}

// `count` descriptors of the tap `name` ("" : a new one, named by the kernel), which is set to its real name.
struct OpenedTap {
  std::vector<UniqueFd> queues;
  bool multi_queue = false;
  bool made = false;  // by us: it goes with its descriptors
  Link link;
};
OpenedTap open_tap_device(Links& links, const std::string& name, uint16_t count);

// Opens what `vhost=on` asks for: /dev/vhost-net for each of so many queues; none without it. Throws
// HostError.
std::vector<UniqueFd> open_tap_vhost(const NetSpec& spec, size_t queues);

// The card's address, which the guest will have.
MacAddress guest_mac(const NetSpec& spec, const NetContext& context);

// Makes the tap a port of the bridge, with its MTU unless `mtu` is not 0, and up. A tap that others made gets
// back, by `undo`, what bridge it was in.
void set_up_tap(Links& links, OpenedTap& tap, const Link* bridge, uint16_t mtu, const MacAddress& guest,
                Undo& undo);

}  // namespace minivmm
