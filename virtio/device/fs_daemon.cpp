#include "virtio/device/fs_daemon.h"

#include <fmt/format.h>
#include <unistd.h>

#include <cerrno>
#include <filesystem>
#include <system_error>
#include <utility>
#include <vector>

#include "devices/block/foreign/served_socket.h"
#include "virtio/device/fs_one_user.h"
#include "vmm/core/error.h"

namespace minivmm {

namespace {

constexpr std::chrono::milliseconds kLastWords{2000};

// In a mount namespace of its own: the folder over itself, so that a flag can be put on it that the rest of
// the file system does not get. The daemon makes this its root. Read-only needs each mount to say so: those
// of other file systems inside the folder stay away.
constexpr const char* kScript = R"(
if [ "$2" = ro ] && ! { mount --bind -- "$1" "$1" && mount -o remount,bind,ro -- "$1"; } 2>/dev/null; then
  echo "the host does not mount it read-only; are other file systems mounted inside it?" >&2
  exit 1
fi
folder=$1
shift 2
exec "$@" -o "source=$folder"
)";

std::string checked_folder(const ShareSpec& share) {
  std::error_code failure;
  const auto path = std::filesystem::canonical(share.folder, failure);
  if (!failure && !std::filesystem::is_directory(path, failure)) failure = {ENOTDIR, std::generic_category()};
  if (failure) {
    errno = failure.value();
    throw_errno(fmt::format("share {}", share.folder), "name a folder of this host");
  }
  if (share.read_only && path == "/")
    throw ConfigError("--share /: the whole file system cannot be shared read-only; share a folder of it");
  if (path.string().contains(',') || path.string().contains('\\'))
    throw ConfigError(fmt::format(
        "--share {}: virtiofsd takes no folder with a comma or backslash in its name", path.string()));
  return path.string();
}

}  // namespace

std::string find_virtiofsd() {
  for (const char* path : {"/usr/libexec/virtiofsd", "/usr/lib/qemu/virtiofsd"}) {
    if (::access(path, X_OK) == 0) return path;
  }
  return find_program("virtiofsd");
}

ShareDaemon::ShareDaemon(const ShareSpec& share) {
  const std::string folder = checked_folder(share);
  const std::string program = find_virtiofsd();
  if (program.empty()) {
    throw HostError(ENOENT, fmt::format("cannot share {}: virtiofsd is not installed; install it (Debian 12: "
                                        "apt-get install qemu-system-common, later ones: virtiofsd)",
                                        share.folder));
  }
  const bool root = ::geteuid() == 0;
  std::vector<std::string> command{find_program("unshare"), "--mount"};
  if (command.front().empty())
    throw HostError(ENOENT, "cannot start virtiofsd: unshare is not installed; install util-linux");
  // The daemon needs the rights to make namespaces, and to open files by handle. An ordinary user has them in
  // a user namespace, over what is the user's.
  if (!root) command.insert(command.end(), {"--user", "--map-root-user"});
  command.insert(command.end(), {"--", "/bin/sh", "-c", kScript, "sh", folder, share.read_only ? "ro" : "rw",
                                 program, "-f", "--fd=3", "-o", "sandbox=namespace"});
  ServedSocket sockets = connect_in_advance();
  ChildProcess::Plan plan{.command = std::move(command), .descriptors = {sockets.listening.get()}};
  if (!root) plan.prepare = let_changes_of_user_pass;
  child_ = std::make_unique<ChildProcess>(std::move(plan));
  socket_ = std::move(sockets.connected);
}

std::string ShareDaemon::reason() {
  if (!child_->wait_ended(kLastWords)) return {};
  std::string text = child_->last_words();
  if (text.starts_with("unshare: ")) text += "; this user may make no namespaces here: try it as root";
  return text.empty() ? "virtiofsd ended without a word" : text;
}

}  // namespace minivmm
