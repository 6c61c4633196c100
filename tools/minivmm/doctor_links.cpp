// What of the links between guest and host works here: networks, shared folders, the cloud-init disk.
#include <fcntl.h>
#include <fmt/format.h>
#include <linux/capability.h>
#include <netinet/in.h>
#include <sched.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <cstring>
#include <fstream>

#include "devices/block/foreign/child_process.h"
#include "devices/net/user/open_user.h"
#include "devices/seed/archive_library.h"
#include "doctor.h"
#include "virtio/device/fs_daemon.h"
#include "vmm/core/error.h"
#include "vmm/core/fd.h"

namespace minivmm {

namespace {

using Verdict = Finding::Verdict;

// 0, or the errno of what an ordinary user's virtiofsd is started by: a user namespace and, with the rights
// in it, a mount namespace. Some hosts allow the first and give no rights in it.
int try_user_namespace() {
  const pid_t child = ::fork();
  if (child == 0) {
    if (::unshare(CLONE_NEWUSER) != 0) ::_exit(errno);
    ::_exit(::unshare(CLONE_NEWNS) == 0 ? 0 : errno);
  }
  if (child < 0) return errno;
  int status = 0;
  while (::waitpid(child, &status, 0) < 0 && errno == EINTR) {
  }
  return WIFEXITED(status) ? WEXITSTATUS(status) : EINTR;
}

bool setting_is(const char* path, std::string_view value) {
  std::ifstream file(path);
  std::string line;
  return std::getline(file, line) && line == value;
}

Finding user_namespaces() {
  if (::geteuid() == 0)
    return {"user namespaces", Verdict::good, "not needed: root shares folders without", "", false};
  const int error = try_user_namespace();
  if (error == 0)
    return {"user namespaces", Verdict::good, "can be made: --share works without root", "", false};
  const char* const mend = error == ENOSPC ? "sudo sysctl user.max_user_namespaces=10000"
                           : setting_is("/proc/sys/kernel/unprivileged_userns_clone", "0")
                               ? "sudo sysctl kernel.unprivileged_userns_clone=1"
                           : setting_is("/proc/sys/kernel/apparmor_restrict_unprivileged_userns", "1")
                               ? "sudo sysctl kernel.apparmor_restrict_unprivileged_userns=0"
                               : "run as root";
  return {"user namespaces", Verdict::limited,
          fmt::format("{}: --share works for root only", std::strerror(error)), mend, false};
}

Finding ping() {
  for (const int type : {SOCK_DGRAM, SOCK_RAW}) {
    if (UniqueFd(::socket(AF_INET, type | SOCK_CLOEXEC, IPPROTO_ICMP)))
      return {"ping", Verdict::good, "guests on user networking reach others by it", "", false};
  }
  return {"ping", Verdict::limited,
          fmt::format("{}: guests on user networking reach the gateway alone by it", std::strerror(errno)),
          "sudo sysctl net.ipv4.ping_group_range='0 2147483647'", false};
}

bool may_make_interfaces() {
  __user_cap_header_struct header{.version = _LINUX_CAPABILITY_VERSION_3, .pid = 0};
  std::array<__user_cap_data_struct, _LINUX_CAPABILITY_U32S_3> sets{};
  return ::syscall(SYS_capget, &header, sets.data()) == 0 &&
         (sets[CAP_NET_ADMIN / 32].effective & (1U << (CAP_NET_ADMIN % 32))) != 0;
}

Finding interfaces() {
  if (may_make_interfaces())
    return {"CAP_NET_ADMIN", Verdict::good, "--net tap, hostonly and macvtap make what they need", "", false};
  return {"CAP_NET_ADMIN", Verdict::limited,
          "not there: no --net hostonly or macvtap, and no tap of one's own",
          "run as root; or have a tap made: sudo ip tuntap add tap0 mode tap user $USER, then --net "
          "tap,ifname=tap0",
          false};
}

Finding user_networking() {
  const std::string missing = user_net_missing();
  if (missing.empty()) return {"user networking", Verdict::good, "libslirp loads", "", false};
  return limited_finding("user networking", missing);
}

Finding passt() {
  const std::string program = find_program("passt");
  if (!program.empty()) return {"passt", Verdict::good, program, "", false};
  return {"passt", Verdict::limited, "not installed: no --net passt",
          "sudo apt-get install passt; or use --net user", false};
}

Finding shared_folders() {
  const std::string program = find_virtiofsd();
  if (!program.empty()) return {"virtiofsd", Verdict::good, program, "", false};
  return {"virtiofsd", Verdict::limited, "not installed: no shared folders",
          "sudo apt-get install qemu-system-common (Debian 12) or virtiofsd (later ones)", false};
}

Finding cloud_init_disks() {
  try {
    load_archive_library();
  } catch (const HostError& error) {
    return limited_finding("libarchive", error.what());
  }
  return {"libarchive", Verdict::good, "loads: --cloud-init and --ssh-key work", "", false};
}

}  // namespace

void look_at_links(std::vector<Finding>& findings) {
  findings.push_back(user_networking());
  findings.push_back(ping());
  findings.push_back(passt());
  findings.push_back(interfaces());
  findings.push_back(shared_folders());
  findings.push_back(user_namespaces());
  findings.push_back(cloud_init_disks());
}

}  // namespace minivmm
